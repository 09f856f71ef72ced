"""Train a language model: compose the configuration, build, fit, evaluate, sample (python train.py model=base)."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from yinggem.commands.train import Failed, prepare, run
from yinggem.common.config_files import check_kinds, check_overrides
from yinggem.runs.processes import leave
from yinggem.runs.resume import beginning, claim, record
from yinggem.search.sweep import attempt

CONF = Path(__file__).parent / "conf"
OmegaConf.register_new_resolver("new_folder", claim, use_cache=True, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def train(cfg: DictConfig) -> float:
    """One run, or one job of a sweep; returns its validation loss, the metric that searches minimise."""
    folder, hydra_cfg = Path(cfg.run_dir), HydraConfig.get()
    if hydra_cfg.mode == RunMode.MULTIRUN:
        cfg.ckpt_path = "auto"  # a job that was stopped, or put back into the queue of a cluster, goes on
        return attempt(partial(fit, cfg, folder), folder, CONF)
    try:
        return fit(cfg, folder)
    except Exception as error:
        raise Failed from error


def fit(cfg: DictConfig, folder: Path) -> float:
    """Build, train, evaluate, sample; returns the loss of the best checkpoint."""
    cfg.ckpt_path, start = beginning(cfg.ckpt_path, folder)
    task = HydraConfig.get().overrides.task
    record(folder, Path(cfg.outputs), task, OmegaConf.to_yaml(cfg), Path(__file__), cfg.ckpt_path)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    check_kinds(config, CONF)
    check_overrides(config, task)
    from yinggem.commands.report import be_quiet, begin, finish  # torch takes seconds: not for --help and --cfg
    from yinggem.training.tuning import tune

    be_quiet()
    tune(cfg, folder, build)
    config = OmegaConf.to_container(cfg, resolve=True)
    trainer, module, data = build(cfg)
    begin(trainer, module, data, folder, config, start)
    trainer.fit(module, data, ckpt_path=cfg.ckpt_path, weights_only=True)
    return finish(trainer, module, data, folder, config, start)


def build(cfg: DictConfig) -> tuple[Any, Any, Any]:
    """The trainer, the module and the data of a configuration."""
    from lightning.pytorch import seed_everything

    from yinggem.callbacks.samples import check_monitors
    from yinggem.model.transformer import Transformer
    from yinggem.training.memory_limit import check_memory
    from yinggem.training.module import LanguageModule

    seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.data, tokenizer=instantiate(cfg.tokenizer), seed=cfg.seed)
    data.setup()
    config = instantiate(cfg.model, vocab_size=data.tokenizer.vocab_size)
    check_memory(config, data.tokens_per_step, str(cfg.optimizer._target_).rpartition(".")[2])
    model = Transformer(config, cfg.attention_backend)
    if cfg.compile:
        model.compile_blocks()
    rules = instantiate(cfg.optimizer), instantiate(cfg.scheduler)  # partial: they wait for the weights
    module = LanguageModule(model, data.tokenizer, *rules, data.eval_context_length, cfg.seed)
    own: dict[str, Any] = {"profiler": instantiate(cfg.get("profiler"))}
    for name in ("logger", "callbacks"):  # a part without a target is left out: an experiment has settings for it
        own[name] = [instantiate(one) for one in (cfg.get(name) or {}).values() if one and "_target_" in one]
    check_monitors(own["callbacks"])
    return instantiate(cfg.trainer, **own, default_root_dir=cfg.run_dir), module, data


if __name__ == "__main__":
    leave(run(train, prepare(sys.argv[1:]), CONF))
