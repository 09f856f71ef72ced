"""Every file in conf/ composes and builds what it names."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

from yinggem.commands import train
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.training.optimizers import make_optimizer


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (train.CONF / group).glob("*.yaml"))


@pytest.fixture
def composed(tmp_path):
    """Composes the real configuration with some settings, for runs in a temporary folder."""

    def make(*overrides: str):
        with initialize_config_dir(str(train.CONF), version_base="1.3"):
            settings = [f"hydra.runtime.output_dir={tmp_path}", *overrides]
            cfg = compose("train", settings, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        OmegaConf.set_struct(cfg, False)
        return cfg

    return make


@pytest.mark.parametrize("name", choices("model"))
def test_models(composed, name):
    config = instantiate(composed(f"model={name}").model, vocab_size=100)
    assert isinstance(config, ModelConfig)
    with torch.device("meta"):
        assert Transformer(config).parameters_count > 0


def test_the_reference_has_its_133957969_parameters(composed):
    cfg = composed("experiment=yinggem_t1")
    vocab_size = instantiate(cfg.tokenizer).vocab_size
    with torch.device("meta"):
        assert Transformer(instantiate(cfg.model, vocab_size=vocab_size)).parameters_count == 133_957_969


@pytest.mark.parametrize("scheduler", choices("scheduler"))
@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_optimizers_under_every_schedule(composed, optimizer, scheduler):
    cfg = composed(f"optimizer={optimizer}", f"scheduler={scheduler}")
    model = Transformer(instantiate(cfg.model, vocab_size=50))
    partials = instantiate(cfg.optimizer), instantiate(cfg.scheduler)
    made, schedule = make_optimizer(*partials, model, total_steps=100)
    before = [weights.clone() for weights in model.parameters()]
    for _ in range(3):
        model(torch.randint(50, (2, 8))).square().mean().backward()
        made.step()
        schedule.step()
    assert all(bool(weights.isfinite().all()) for weights in model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiments_build(composed, name, tmp_path):
    """All but the text and the size, which are made small: the trainer, callbacks, loggers and the module are real."""
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 200)
    small = ["data=text", f"data.path={text}", "data.val_fraction=0.2", "tokenizer=byte", "data.context_length=32"]
    shape = ["model.hidden_size=32", "model.num_attention_heads=2", "model.num_hidden_layers=1"]
    cfg = composed(f"experiment={name}", *small, *shape, "trainer.accelerator=cpu", "trainer.precision=32")
    trainer, module, data = train.build(cfg)
    assert trainer.precision == "32-true" and data.context_length == 32 and module.model.config.hidden_size == 32
    assert {type(logger).__name__ for logger in trainer.loggers} >= {"MetricsCSV"}


@pytest.mark.parametrize("group", ["sweep", "launcher"])
def test_sweeps_and_launchers_are_plugins_of_hydra(composed, group):
    for name in choices(group):
        cfg = composed(f"{group}={name}").hydra["sweeper" if group == "sweep" else "launcher"]
        assert str(cfg._target_).startswith("hydra_plugins.yinggem_")


@pytest.mark.parametrize("name", choices("debug"))
def test_debug_modes_compose(composed, name):
    assert composed(f"debug={name}").trainer._target_ == "yinggem.training.trainer.Trainer"


@pytest.mark.parametrize(
    "name", [*choices("trainer"), *[f"default precision={p}" for p in ("32", "bf16", "bf16-true")]]
)
def test_trainers_compose(composed, name):
    group, *rest = name.split()
    cfg = composed(f"trainer={group}", *[f"trainer.{setting}" for setting in rest])
    assert OmegaConf.to_container(cfg.trainer, resolve=True)["gradient_clip_val"] == 1.0


@pytest.mark.parametrize("name", sorted(set(choices("callbacks")) - {"default"}))
def test_callbacks_build_and_can_be_left_out(composed, name):
    cfg = composed(f"callbacks=[{name}]")
    assert [instantiate(entry) for entry in cfg.callbacks.values()]
    key = next(iter(cfg.callbacks))
    assert key not in composed(f"callbacks=[{name}]", f"~callbacks.{key}").callbacks


def test_a_value_of_a_callback_is_set_by_its_name(composed):
    assert composed("callbacks.early_stopping.patience=5").callbacks.early_stopping.patience == 5
    assert composed().callbacks.early_stopping.patience == 3


def test_the_defaults_of_the_reference(composed):
    cfg = composed("experiment=yinggem_t1")
    assert (cfg.data.context_length, cfg.data.batch_size, cfg.data.split_by) == (1024, 8, "tokens")
    assert cfg.data.val_fraction == pytest.approx(0.2) and cfg.model.attention_dropout == pytest.approx(0.2)
    assert cfg.model.attention_window == 512 and cfg.trainer.max_epochs == 100 and cfg.data.source == "tinyshakespeare"
