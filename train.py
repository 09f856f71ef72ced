"""Train a language model: compose the configuration, build, fit, evaluate, sample.

python train.py model=base trainer.precision=bf16
"""

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from yinggem.command import prepare, run
from yinggem.run_folder import claim, point_latest, write_overrides

CONF = Path(__file__).parent / "conf"
OmegaConf.register_new_resolver("new_folder", claim, replace=True)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def train(cfg: DictConfig) -> float:
    """One run; returns the best validation loss, the metric that searches minimise."""
    from yinggem.report import be_quiet, begin, finish  # torch takes seconds: not for --help and --cfg

    be_quiet()
    folder = Path(cfg.run_dir)
    record(cfg, folder)
    trainer, module, data = build(cfg)
    begin(trainer, module, data, folder)
    trainer.fit(module, data, ckpt_path=cfg.ckpt_path, weights_only=True)
    return finish(trainer, module, data, folder, flat(cfg))


def build(cfg: DictConfig) -> tuple[Any, Any, Any]:
    """The trainer, the module and the data of a configuration."""
    from lightning.pytorch import seed_everything

    from yinggem.checkpoint import read_checkpoint
    from yinggem.module import LanguageModule
    from yinggem.transformer import Transformer

    start = read_checkpoint(cfg.ckpt_path).get("global_step", 0) if cfg.ckpt_path else 0
    seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.data, tokenizer=instantiate(cfg.tokenizer), seed=cfg.seed)
    data.setup()
    model = Transformer(instantiate(cfg.model, vocab_size=data.tokenizer.vocab_size), cfg.attention_backend)
    if cfg.compile:
        for block in model.blocks:
            block.compile()  # in place: the state dict keeps its names
    optimizer, scheduler = instantiate(cfg.optimizer), instantiate(cfg.scheduler)
    module = LanguageModule(model, data.tokenizer, optimizer, scheduler, data.context_length, cfg.seed)
    loggers, callbacks = (
        [instantiate(entry) for entry in (cfg[group] or {}).values()] for group in ("logger", "callbacks")
    )
    for logger in loggers:
        if start and hasattr(logger, "resume_at"):
            logger.resume_at(start)
    return instantiate(cfg.trainer, logger=loggers, callbacks=callbacks, default_root_dir=cfg.run_dir), module, data


def record(cfg: DictConfig, folder: Path) -> None:
    """Keep the command line of this run with it, and let outputs/latest lead to it."""
    overrides = [line for line in HydraConfig.get().overrides.task if not line.startswith("ckpt_path=")]
    write_overrides(folder, overrides, OmegaConf.to_yaml(cfg))
    point_latest(Path(cfg.outputs), folder)


def flat(cfg: DictConfig) -> dict[str, Any]:
    """Hyper-parameters by dotted name."""
    values: dict[str, Any] = {"seed": cfg.seed}
    for group in ("model", "tokenizer", "data", "optimizer", "scheduler"):
        values |= {f"{group}.{name}": value for name, value in cfg[group].items() if not str(name).startswith("_")}
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(run(train, prepare(sys.argv[1:]), CONF))
