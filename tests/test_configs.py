"""Every file in conf/ composes and builds what it names."""

import inspect
import re
import shutil
from itertools import cycle, product
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.utils import get_class, get_method, instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.profilers import Profiler
from omegaconf import OmegaConf
from running import ROOT, soaked

from yinggem.commands import train
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.assets import SHAKESPEARE, read_asset
from yinggem.text.tokenizer import Tokenizer
from yinggem.training.datamodule import TextDataModule
from yinggem.training.optimizers.building import make_optimizer, make_schedule
from yinggem.training.streaming import StreamingDataModule
from yinggem.training.trainer import Trainer

pytestmark = pytest.mark.slow

# What the choices of a group build; the others are diffs on these groups, or settings of Hydra.
KINDS: dict[str, Any] = {
    "model": ModelConfig, "tokenizer": Tokenizer, "data": TextDataModule | StreamingDataModule, "callbacks": Callback,
    "logger": Logger, "profiler": Profiler, "trainer": Trainer, "optimizer": torch.optim.Optimizer,
    "scheduler": torch.optim.lr_scheduler.LRScheduler,
}  # fmt: skip
DIFFS = {"memory", "experiment", "debug", "sweep", "launcher"}
EXTRAS = {"wandb": "wandb", "mlflow": "mlflow"}  # what a choice needs beyond the package


def test_no_choice_asks_for_many_runs_itself():
    """tests/shortcuts.py relies on it: which mode Hydra runs in is decided by --multirun alone."""
    asked = re.compile(r"^hydra:(.*\n)+  mode:|MULTIRUN", re.M)
    assert not [path for path in train.CONF.rglob("*.yaml") if asked.search(path.read_text())]


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (train.CONF / group).glob("*.yaml"))


@pytest.fixture
def composed(tmp_path, monkeypatch):
    """Composes the real configuration with some settings, for runs in a temporary folder."""
    monkeypatch.chdir(tmp_path)

    def make(*overrides: str):
        with initialize_config_dir(str(train.CONF), version_base="1.3"):
            settings = [f"hydra.runtime.output_dir={tmp_path}", *overrides]
            cfg = compose("train", settings, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        OmegaConf.set_struct(cfg, False)
        return cfg

    return make


@pytest.fixture
def tiny(tmp_path):
    """Settings that make the text and the model small; everything else of a run stays as it is composed."""
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 200)
    return [
        "data=text", f"data.path={tmp_path / 'text.txt'}", "data.val_fraction=0.2", "tokenizer=byte",
        "data.context_length=32", "model.hidden_size=32", "model.num_attention_heads=2", "model.num_hidden_layers=1",
        "trainer.accelerator=cpu", "trainer.precision=32",
    ]  # fmt: skip


def test_every_group_is_known_here():
    """A new group needs its kind above: else nobody would build its choices."""
    assert {path.name for path in train.CONF.iterdir() if path.is_dir()} == KINDS.keys() | DIFFS
    assert all(choices(group) for group in KINDS.keys() | DIFFS)


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in KINDS for name in choices(group)])
def test_every_choice_names_something_of_its_kind_and_sets_only_what_that_takes(composed, group, name):
    cfg = composed(f"{group}={'[' + name + ']' if group in ('callbacks', 'logger') else name}")
    entries = cfg[group].values() if group in ("callbacks", "logger") else [cfg[group]]
    targets = [entry for entry in entries if "_target_" in entry]
    assert targets
    for entry in targets:
        called = get_method(entry["_target_"])
        if inspect.isclass(called):
            assert issubclass(called, KINDS[group])
        parameters = inspect.signature(called).parameters
        takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
        settings = {str(key) for key in entry if not str(key).startswith("_")}
        assert takes_any or settings <= parameters.keys()


@pytest.mark.parametrize("name", choices("model"))
def test_models(composed, name):
    cfg = composed(f"model={name}").model
    config = instantiate(cfg, vocab_size=100)
    assert type(config) is ModelConfig and config.vocab_size == 100
    assert {key: getattr(config, key) for key in cfg if key != "num_key_value_heads" and not key.startswith("_")} == {
        key: value for key, value in cfg.items() if key != "num_key_value_heads" and not key.startswith("_")
    }
    with torch.device("meta"):
        assert Transformer(config).parameters_count > 0


def test_the_sizes_are_in_the_order_of_their_names(composed):
    def size(name: str) -> int:
        with torch.device("meta"):
            return Transformer(instantiate(composed(f"model={name}").model, vocab_size=100)).parameters_count

    assert size("tiny") < size("small") < size("base")


@pytest.mark.parametrize("typed", ["model=base", "experiment=yinggem_t1"])
def test_the_reference_has_its_133957969_parameters(composed, typed):
    cfg = composed(typed)
    vocab_size = instantiate(cfg.tokenizer).vocab_size
    with torch.device("meta"):
        assert Transformer(instantiate(cfg.model, vocab_size=vocab_size)).parameters_count == 133_957_969


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("tokenizer"))
def test_tokenizers_give_back_the_text(composed, name):
    tokenizer = instantiate(composed(f"tokenizer={name}").tokenizer)
    text = read_asset(SHAKESPEARE)[:200_000].decode()
    tokenizer.fit(lambda: [text])
    assert isinstance(tokenizer, Tokenizer) and tokenizer.decode(tokenizer.encode(text)) == text


RULES, SCHEDULES = choices("optimizer"), choices("scheduler")
PAIRS = [*product(RULES, SCHEDULES)]
EACH_ONCE = {*zip(RULES, cycle(SCHEDULES), strict=False), *zip(cycle(RULES), SCHEDULES, strict=False)}


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "scheduler"), soaked(PAIRS, EACH_ONCE))
def test_optimizers_under_every_schedule(composed, optimizer, scheduler):
    cfg = composed(f"optimizer={optimizer}", f"scheduler={scheduler}")
    model = Transformer(instantiate(cfg.model, vocab_size=50))
    partials = instantiate(cfg.optimizer), instantiate(cfg.scheduler)
    made = make_optimizer(partials[0], model)
    schedule = make_schedule(partials[1], made, total_steps=100)
    assert isinstance(made, get_class(cfg.optimizer._target_)) and isinstance(schedule, KINDS["scheduler"])
    assert all(group["initial_lr"] > 0 for group in made.param_groups)
    before = [weights.clone() for weights in model.parameters()]
    for _ in range(3):
        model(torch.randint(50, (2, 8))).square().mean().backward()
        made.step()
        schedule.step()
    assert all(bool(weights.isfinite().all()) for weights in model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("experiment"))
def test_experiments_build(composed, name, tiny):
    """All but the text and the size, which are made small: the trainer, callbacks, loggers and the module are real."""
    cfg = composed(f"experiment={name}", *tiny)
    trainer, module, data = train.build(cfg)
    assert trainer.precision == "32-true" and data.context_length == 32 and module.model.config.hidden_size == 32
    assert {type(logger).__name__ for logger in trainer.loggers} >= {"MetricsCSV"}
    wanted = composed(f"experiment={name}").trainer
    assert (trainer.max_steps, trainer.max_epochs) == (wanted.max_steps, wanted.max_epochs)
    assert trainer.gradient_clip_val == wanted.gradient_clip_val


SWITCHED: dict[str, dict[str, Any]] = {  # what a debug mode does to the trainer
    "anomaly": {"_detect_anomaly": True},
    "fast_dev_run": {"fast_dev_run": True, "max_steps": 1},
    "limit_batches": {"limit_train_batches": 5, "limit_val_batches": 5, "max_steps": 10, "val_check_interval": 5},
    "overfit": {"overfit_batches": 1, "max_steps": 300, "val_check_interval": 100},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("debug"))
def test_debug_modes_set_what_they_say_whatever_the_experiment(composed, name, tiny):
    for experiment in ("quickstart", "smoke"):
        trainer, _, _ = train.build(composed(f"experiment={experiment}", *tiny, f"debug={name}"))
        assert {setting: getattr(trainer, setting) for setting in SWITCHED[name]} == SWITCHED[name]


TRAINERS = {
    "default": ("SingleDeviceStrategy", "32-true"), "gpu": ("SingleDeviceStrategy", "bf16-mixed"),
    "ddp": ("DDPStrategy", "32-true"), "fsdp": ("ShardedStrategy", "bf16-mixed"),
}  # fmt: skip


@pytest.mark.parametrize("name", choices("trainer"))
def test_trainers_train_with_the_strategy_and_precision_of_their_name(composed, name):
    """As if the CPU was the device."""
    cfg = composed(f"trainer={name}", "trainer.accelerator=cpu")
    devices = 2 if name in ("ddp", "fsdp") else 1
    cfg.trainer.devices = devices
    trainer = instantiate(cfg.trainer, logger=False)
    assert (type(trainer.strategy).__name__, trainer.precision) == TRAINERS[name]
    assert trainer.num_devices == devices and trainer.gradient_clip_val == 1.0


@pytest.mark.parametrize(("typed", "precision"), [("32", "32-true"), ("bf16", "bf16-mixed"), ("bf16-true", "bf16-true"),
                                                  ("64", "64-true")])  # fmt: skip
def test_precisions_by_the_names_people_type(composed, typed, precision):
    trainer = instantiate(composed("trainer.accelerator=cpu", f"trainer.precision={typed}").trainer, logger=False)
    assert trainer.precision == precision


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(choices("callbacks")) - {"default"}))
def test_callbacks_build_and_can_be_left_out(composed, name):
    cfg = composed(f"callbacks=[{name}]")
    built = [instantiate(entry) for entry in cfg.callbacks.values() if entry and "_target_" in entry]
    assert built and all(isinstance(callback, Callback) for callback in built)
    for key in [key for key, entry in cfg.callbacks.items() if entry and "_target_" in entry]:
        left = composed(f"callbacks=[{name}]", f"~callbacks.{key}").callbacks
        assert key not in left and len(left) == len(cfg.callbacks) - 1


@pytest.mark.slow
def test_the_default_callbacks_are_all_of_their_list(composed):
    names = OmegaConf.load(train.CONF / "callbacks" / "default.yaml").defaults
    alone = [key for name in names for key in composed(f"callbacks=[{name}]").callbacks]
    assert list(composed().callbacks) == alone


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in EXTRAS else ()) for name in choices("logger")]
)
def test_loggers_build(composed, name, monkeypatch):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    monkeypatch.setenv("WANDB_MODE", "offline")
    (entry,) = composed(f"logger={name}").logger.values()
    logger = instantiate(entry)
    assert isinstance(logger, Logger) and type(logger) is get_class(entry._target_)


@pytest.mark.parametrize("name", choices("profiler"))
def test_profilers_write_into_the_run_folder(composed, name, tmp_path):
    profiler = instantiate(composed(f"profiler={name}").profiler)
    assert isinstance(profiler, Profiler) and str(profiler.dirpath) == str(tmp_path)


def test_a_value_of_a_callback_is_set_by_its_name(composed):
    assert composed("callbacks.early_stopping.patience=5").callbacks.early_stopping.patience == 5
    assert composed().callbacks.early_stopping.patience == 3


@pytest.mark.parametrize("name", choices("sweep"))
def test_searches_are_plugins_of_hydra_that_search_settings_there_are(composed, name):
    cfg = composed(f"sweep={name}")
    assert issubclass(get_class(cfg.hydra.sweeper._target_), Sweeper)
    assert (name == "search") == (not cfg.sweep.space)
    for setting in cfg.sweep.space:
        assert OmegaConf.select(cfg, setting) is not None, setting


@pytest.mark.parametrize("name", choices("launcher"))
def test_launchers_are_plugins_of_hydra_that_take_their_settings(composed, name):
    pytest.importorskip("submitit")
    launcher = instantiate(composed(f"launcher={name}").hydra.launcher, _recursive_=False)
    assert isinstance(launcher, Launcher) and type(launcher).__module__ == "hydra_plugins.yinggem_launcher"


@pytest.mark.parametrize("typed", [["model=base", "trainer.precision=bf16"], ["experiment=yinggem_t1"]])
def test_the_defaults_of_the_reference(composed, typed):
    cfg = composed(*typed)
    assert (cfg.data.context_length, cfg.data.batch_size, cfg.model.attention_window) == (1024, 8, 512)
    assert (cfg.model.rope_theta, cfg.model.num_hidden_layers, cfg.model.hidden_size) == (10000, 12, 768)
    assert cfg.model.attention_dropout == pytest.approx(0.2) and cfg.tokenizer._target_.endswith("GPT2Tokenizer")
    assert cfg.optimizer._target_.endswith("Adafactor") and cfg.trainer.gradient_clip_val == 1.0
    assert (cfg.trainer.max_epochs, cfg.trainer.max_steps, cfg.trainer.max_time) == (100, -1, None)
    assert cfg.trainer.precision == "bf16" and cfg.callbacks.early_stopping.patience == 3


def test_the_experiment_of_the_reference_adds_its_corpus_its_split_and_its_rule(composed):
    there, here = composed("experiment=yinggem_t1"), composed("model=base", "trainer.precision=bf16")
    assert (there.data.source, there.data.split_by, there.data.val_fraction) == ("tinyshakespeare", "tokens", 0.2)
    assert there.scheduler.warmup_steps == 10_000 and there.optimizer.lr == pytest.approx(0.01)
    there.data, there.scheduler = here.data, here.scheduler
    del there["hydra"], here["hydra"]
    assert there == here


@pytest.mark.slow
@pytest.mark.parametrize("typed", [
    ["tokenizer=byte"], ["data.context_length=77"], ["optimizer=adamw"], ["scheduler=warmup_cosine"],
    ["trainer.max_steps=5"], ["memory=ngram"], ["memory=none"], ["model.dropout=0.3"], ["data.batch_size=2"],
], ids=lambda words: words[0])  # fmt: skip
@pytest.mark.parametrize("model", choices("model"))
def test_what_is_typed_wins_over_the_recipe_of_a_model(composed, model, typed):
    """Whole groups too: none of the recipe's values is left in a group that another choice replaced."""
    ((name, _, value),) = (word.partition("=") for word in typed)
    cfg = composed(f"model={model}", *typed)
    if name in ("tokenizer", "optimizer"):
        assert OmegaConf.to_container(cfg[name]) == OmegaConf.to_container(composed(*typed)[name])
        assert set(cfg[name]) == set(OmegaConf.load(train.CONF / name / f"{value}.yaml"))
    elif name == "memory":
        assert (cfg.memory is None) == (value == "none")
    elif name != "scheduler":
        assert str(OmegaConf.select(cfg, name)) == value


def test_an_experiment_wins_over_the_recipe_of_a_model_that_is_typed(composed):
    cfg, alone = composed("model=base", "experiment=smoke"), composed("experiment=smoke")
    assert (cfg.tokenizer, cfg.data, cfg.memory) == (alone.tokenizer, alone.data, None)
    assert cfg.trainer.max_steps == alone.trainer.max_steps == 20 and cfg.model.bias is True


def test_without_a_word_the_quickstart_is_trained(composed):
    first, named, typed = composed(), composed("experiment=quickstart"), composed("model=tiny")
    for cfg in (first, named, typed):
        del cfg["hydra"]
    assert first == named == typed
    assert (first.trainer.max_steps, first.trainer.max_time) == (3600, "00:00:04:00")
    assert (first.data.context_length, first.data.batch_size, first.tokenizer.vocab_size) == (64, 8, 2048)


@pytest.mark.parametrize("name", sorted(set(choices("model")) - {"tiny"}))
def test_the_windows_of_training_are_longer_than_that_of_attention(composed, name):
    cfg = composed(f"model={name}")
    assert cfg.data.context_length > cfg.model.attention_window


@pytest.mark.slow
@pytest.mark.parametrize("data", choices("data"))
def test_data_modules_are_made_before_they_are_read(composed, data):
    cfg = composed(f"data={data}")
    module = instantiate(cfg.data, tokenizer=instantiate(composed("tokenizer=byte").tokenizer), seed=0)
    assert isinstance(module, KINDS["data"]) and module.context_length == cfg.data.context_length


def test_nothing_in_conf_depends_on_where_it_lies(composed, tmp_path):
    """A copy of conf/ elsewhere composes to the same settings."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        elsewhere = compose("train")
    ours: Any = OmegaConf.to_container(composed(), resolve=False)
    del ours["hydra"]
    assert OmegaConf.to_container(elsewhere, resolve=False) == ours
