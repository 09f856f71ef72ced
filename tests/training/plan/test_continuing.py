"""What a continued run takes from its checkpoint, and what from its configuration."""

import warnings
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from running import TEXT, same
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from yinggem.callbacks.last_checkpoint import LastCheckpoint
from yinggem.common.errors import UserError
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule
from yinggem.training.optimizers.adafactor import Adafactor
from yinggem.training.optimizers.muon import MuonAdamW
from yinggem.training.schedules import constant, trapezoid, warmup_cosine
from yinggem.training.trainer import Trainer

pytestmark = pytest.mark.slow

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
ADAMW = partial(AdamW, lr=1e-2, weight_decay=0.1)
PLAIN = partial(constant)


@pytest.fixture
def trained(tmp_path):
    """Train to `steps` with an optimizer and a schedule, from a checkpoint or from the beginning."""
    (tmp_path / "text.txt").write_text(TEXT)

    def train(optimizer, schedule=PLAIN, steps=8, start=None, batch_size=4, **options):
        torch.manual_seed(0)
        data = TextDataModule(
            ByteTokenizer(), "text", str(tmp_path / "text.txt"), 24, batch_size, cache_dir=str(tmp_path)
        )
        data.setup()
        model = Transformer(ModelConfig(vocab_size=256, attention_window=8, **(SHAPE | options.pop("shape", {}))))
        module = LanguageModule(model, data.tokenizer, optimizer, schedule, 24)
        settings = {"max_steps": steps, "logger": False, "enable_progress_bar": False,
                    "enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0,
                    "limit_val_batches": 0}  # fmt: skip
        trainer = Trainer(**(settings | options))
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
        path = tmp_path / f"{len(list(tmp_path.glob('*.ckpt')))}.ckpt"
        trainer.save_checkpoint(path)
        return path, torch.load(path, weights_only=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield train


CHANGES = {
    "lr": (ADAMW, partial(ADAMW, lr=1e-3)),
    "betas": (ADAMW, partial(ADAMW, betas=(0.8, 0.9))),
    "eps": (ADAMW, partial(ADAMW, eps=1e-4)),
    "weight decay": (ADAMW, partial(ADAMW, weight_decay=0.3)),
    "no weight decay any more, so one group": (ADAMW, partial(ADAMW, weight_decay=0.0)),
    "a weight decay, so two groups": (partial(AdamW, weight_decay=0.0), ADAMW),
    "momentum of Muon": (partial(MuonAdamW), partial(MuonAdamW, momentum=0.8)),
    "one rate of two": (partial(MuonAdamW), partial(MuonAdamW, adamw_lr=1e-4)),
    "Adafactor": (partial(Adafactor, lr=0.03), partial(Adafactor, lr=0.01, d=2.0, eps=(1e-15, 1e-2))),
    "nothing": (ADAMW, ADAMW),
}
SCHEDULES = {
    "warm-up": (PLAIN, partial(constant, warmup_steps=20)),
    "decay": (partial(trapezoid, decay_fraction=0.2), partial(trapezoid, decay_fraction=0.9)),
    "another formula": (partial(trapezoid), partial(warmup_cosine)),
    "torch's own, step by step": (partial(StepLR, step_size=2), partial(StepLR, step_size=3, gamma=0.5)),
    "torch's own instead of ours": (PLAIN, partial(CosineAnnealingLR, T_max=12)),
}


def groups(checkpoint):
    return checkpoint["optimizer_states"][0]["param_groups"]


@pytest.mark.parametrize("what", CHANGES)
def test_every_setting_of_an_optimizer_takes_effect(trained, what):
    """The settings are those of a run that had them from its beginning, whose schedule computes the same rates."""
    before, after = CHANGES[what]
    path, _ = trained(before, trapezoid, steps=5)
    _, continued = trained(after, trapezoid, steps=8, start=path)
    _, straight = trained(after, trapezoid, steps=8)
    assert groups(continued) == groups(straight)
    assert same(continued["lr_schedulers"], straight["lr_schedulers"])


@pytest.mark.parametrize("what", SCHEDULES)
def test_every_setting_of_a_schedule_takes_effect(trained, what):
    before, after = SCHEDULES[what]
    path, _ = trained(ADAMW, before, steps=5)
    _, continued = trained(ADAMW, after, steps=8, start=path)
    _, straight = trained(ADAMW, after, steps=8)
    assert groups(continued) == groups(straight)
    assert same(continued["lr_schedulers"], straight["lr_schedulers"])


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_setting_keeps_the_state_of_every_weight(trained, what):
    """Moments and counts go with their weights, whatever groups these are in; the schedule changes no step taken."""
    before, after = CHANGES[what]
    path, saved = trained(before, steps=5)
    _, restored = trained(after, steps=5, start=path)

    def by_name(checkpoint):
        state = checkpoint["optimizer_states"][0]
        return {name: state["state"].get(i) for group in state["param_groups"]
                for name, i in zip(group["param_names"], group["params"], strict=True)}  # fmt: skip

    assert same(by_name(saved), by_name(restored)) and same(saved["state_dict"], restored["state_dict"])


def test_an_optimizer_may_count_in_its_groups(trained):
    """As schedule-free ones do: what no setting has changed comes from the checkpoint."""

    class Counting(SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr=lr)
            for group in self.param_groups:
                group["taken"] = 0

        def step(self, closure=None):
            loss = super().step(closure)
            for group in self.param_groups:
                group["taken"] += 1
            return loss

    path, _ = trained(partial(Counting, lr=0.1), steps=5)
    _, continued = trained(partial(Counting, lr=0.2), steps=8, start=path)
    assert groups(continued)[0]["taken"] == 8 and groups(continued)[0]["lr"] == 0.2


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("before", "after"),
    [(ADAMW, partial(MuonAdamW)), (partial(Adafactor), ADAMW), (partial(SGD, lr=0.1), ADAMW)],
)  # fmt: skip
def test_another_optimizer_is_refused(trained, tmp_path, before, after, recorded):
    path, saved = trained(before, steps=3)
    if not recorded:  # as version 0.1.0 wrote it
        del saved["optimizer_settings"]
        path = tmp_path / "old.ckpt"
        torch.save(saved, path)
    with pytest.raises(UserError, match=f"{after.func.__name__} cannot go on from"):
        trained(after, steps=5, start=path)


def test_another_model_is_refused_with_the_names_of_what_differs(trained):
    path, _ = trained(ADAMW, steps=3)
    with pytest.raises(UserError, match=r"hidden_size=16, dropout=0.0, not model.hidden_size=32, model.dropout=0.5"):
        trained(ADAMW, steps=5, start=path, shape={"hidden_size": 32, "dropout": 0.5})


def test_a_rate_that_rises_again_is_told(trained):
    path, _ = trained(ADAMW, trapezoid, steps=8)
    with pytest.warns(UserWarning, match=r"learning rate goes on at 0.01\. It was 0 at .* now spans 12 steps"):
        warnings.simplefilter("always")
        trained(ADAMW, trapezoid, steps=12, start=path)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "together"), [(8, 1), (2, 1), (2, 2), (3, 2), (500, 1)])
@pytest.mark.parametrize("steps", [1, 7])
def test_batches_of_another_size_go_on_with_the_windows_that_are_left(trained, tmp_path, size, together, steps):
    """An epoch that is begun with batches of 4 and ended with others trains on every window once."""
    seen: list[int] = []

    class Seeing(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.extend(hash(tuple(row)) for row in batch[0].tolist())

    def callbacks():
        return [Seeing(), LastCheckpoint(str(tmp_path / "checkpoints"))]  # which it writes inside the epoch

    trained(ADAMW, steps=steps, max_epochs=1, callbacks=callbacks())
    begun, path = len(seen), tmp_path / "checkpoints" / "last.ckpt"
    options = {"batch_size": size, "accumulate_grad_batches": together, "callbacks": callbacks()}
    _, last = trained(ADAMW, steps=-1, max_epochs=1, start=path, **options)
    counted = begun, len(seen), len(set(seen))
    seen.clear()
    trained(ADAMW, steps=-1, max_epochs=1, callbacks=[Seeing()])
    windows = set(seen)
    assert begun == 4 * steps and counted[2] == len(windows)
    assert counted[1] - len(windows) < size if size < 500 else counted[1] == begun + len(windows)
    assert last["epoch"] == 1 and last["global_step"] > steps
