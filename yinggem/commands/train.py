"""Train a language model: yinggem train model=base

The steps: compose the configuration, build, fit, evaluate, sample.
"""

import contextlib
import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from yinggem.commands.run.train_process import Failed, cause_of, command_of_another, refuse, say_stopped, surroundings
from yinggem.commands.run.train_words import TypedWords, folder_of
from yinggem.common.config_files import check_kinds, check_overrides
from yinggem.common.errors import UserError
from yinggem.common.explain import explain
from yinggem.common.stopping import StopRequested, stopping_on_signals
from yinggem.common.streams import make_streams_safe
from yinggem.runs.layout import LAST, check_is_new, checkpoint
from yinggem.runs.lock import only_writer
from yinggem.runs.new_run import NewRun
from yinggem.runs.overrides import quoted, tidy
from yinggem.runs.processes import ProcessGroup, end_with_parent, exit_without_teardown, rank
from yinggem.runs.record import OF_THE_START, last_of_each, record_run
from yinggem.runs.result import read_result
from yinggem.runs.resume import Resumption, continued_config, resumption_of
from yinggem.search.sweep import attempt, conclude
from yinggem.training.distributed.rendezvous import Rendezvous

PACKAGE = Path(__file__).parents[1]
CHECKOUT = PACKAGE.parent / "conf"
CONF = CHECKOUT if (CHECKOUT / "train.yaml").is_file() else PACKAGE / "conf"  # beside the package, or inside its wheel
TODAY, CONTINUED = "train", "continued"  # primary configurations: conf/train.yaml, and what a run has recorded
SAY_HOW_LONG = ("experiment", "model", "optimizer", "trainer.max_steps", "trainer.max_epochs")
OmegaConf.register_new_resolver("new_folder", str, use_cache=True, replace=True)  # a command's own creates the folder


@dataclass(frozen=True)
class TrainedRun:
    """A run that is over: its folder, and the figures of its result.json (loss, perplexity, bits_per_byte, steps)."""

    folder: Path
    figures: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command as a program and return its exit status."""
    make_streams_safe(keep_going=True)  # printing never decides whether a run succeeds
    command = TrainCommand()
    status = command.exit_status(sys.argv[1:] if arguments is None else arguments)
    if command.processes.formed:
        exit_without_teardown(status)
    return status


def train(overrides: Sequence[str]) -> TrainedRun:
    """Train one run from Python, as `yinggem train OVERRIDES` does.

    Raises:
        UserError: what the command line would say.
        StopRequested: Ctrl-C.
    """
    command = TrainCommand()
    try:
        command.run(overrides)
    except (Exception, Failed) as failure:
        command.new_run.withdraw()
        cause = cause_of(failure)
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(explain(cause, CONF)) from cause
    assert command.folder is not None
    return TrainedRun(command.folder, read_result(command.folder))


class TrainCommand:
    """One `yinggem train`: what was typed, what it continues, and what it has begun."""

    def __init__(self) -> None:
        self.new_run = NewRun(Rendezvous().agree)
        self.processes = ProcessGroup()
        self.words = TypedWords([])
        self.folder: Path | None = None  # of the run, or of the job that runs now
        self.training = False  # whether its training has begun: from then on a run writes, and can be continued

    def __reduce__(self) -> Any:
        """In the process of a launcher, a job begins anew."""
        return TrainCommand, ()

    def exit_status(self, arguments: Sequence[str]) -> int:
        """Run; an error is one sentence and status 2, a stop 128 + its signal and the command that continues."""
        try:
            return self.run(arguments)
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else 2
        except StopRequested as stop:
            say_stopped(stop, self.last_checkpoint(), self.sweep)
            return 128 + stop.signum
        except (Exception, Failed) as failure:
            saved = self.last_checkpoint() if self.training else None
            refuse(cause_of(failure), CONF, self.processes, saved, begun=self.folder is not None)
            self.new_run.withdraw()
            return 2

    def run(self, arguments: Sequence[str]) -> int:
        """Read the words, and train what they name: one run, or the jobs of a sweep; returns the exit status."""
        with stopping_on_signals(), surroundings():
            end_with_parent()
            self.words = TypedWords(tidy(list(arguments)))
            self.new_run.only_shows = self.words.only_show
            name, sys.argv[1:] = self._to_compose()
            OmegaConf.register_new_resolver("new_folder", self.new_run.claim, use_cache=True, replace=True)
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(self.job)()
            status = conclude(self.sweep) if self.sweep else 0
            self.new_run.withdraw()  # of trainer.fast_dev_run, which leaves nothing
            return status

    @property
    def sweep(self) -> Path | None:
        """The folder of the jobs, once there is one."""
        return self.words.sweep or (self.new_run.claimed if self.words.many else None)

    def _to_compose(self) -> tuple[str, list[str]]:
        """The primary configuration, and the words that Hydra reads."""
        words = self.words.for_hydra()
        run = self.words.resumption
        if run is None or run.config is None:
            return TODAY, words
        return CONTINUED, [*words, *_recorded(run, self.words.typed), folder_of(run)]

    def job(self, cfg: DictConfig) -> float:
        """One run, or one job of a sweep; returns what searches minimise."""
        folder = Path(cfg.run_dir)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return attempt(partial(self._fit_job, cfg, folder), folder, CONF)
        try:
            with contextlib.nullcontext() if rank() else only_writer(folder):
                if self.words.resumption is None and not rank():
                    check_is_new(folder)
                return self.fit(cfg, folder, self.words.resumption)
        except Exception as error:
            raise Failed from error

    def _fit_job(self, cfg: DictConfig, folder: Path) -> float:
        """A job that was stopped, or put back into the queue of a cluster, goes on as it was recorded."""
        self.words.typed = [str(word) for word in HydraConfig.get().overrides.task if not word.startswith(OF_THE_START)]
        last = checkpoint(folder, LAST)
        run = resumption_of(folder, last) if last else None
        if run and run.config:
            typed = [word for word in self.words.typed if word not in run.overrides]
            cfg = composed(_recorded(run, typed), run.config_folders, CONTINUED)
        elif run is None:
            self.words.choose()
            folders = [s.path for s in HydraConfig.get().runtime.config_sources if s.provider == "command-line"]
            cfg = composed(self.words.typed, folders) if self.words.choice.words else cfg
        return self.fit(cfg, folder, run)

    def fit(self, cfg: DictConfig, folder: Path, run: Resumption | None) -> float:
        """Build, train, evaluate, sample; returns what searches minimise.

        Args:
            run: what is continued; None for a new run.
        """
        self.folder, self.training = folder, False
        words = last_of_each([*(run.overrides if run else []), *self.words.typed])
        self.processes.command = command_of_another(self.words.flags, self.words.typed, folder, run)
        start = self._start(cfg, run)
        record = partial(self._record, cfg.copy(), words, folder, new=run is None)
        if run is None:
            record()
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        check_kinds(config, CONF)
        check_overrides(config, words)
        # torch takes seconds: not for --help, --cfg
        from yinggem.commands.run.outcome import evaluate_run, record_outcome
        from yinggem.commands.run.report import (
            memory_advice,
            precision_advice,
            prepare_loggers,
            print_beginning,
            print_outcome,
            silence_libraries,
        )
        from yinggem.training.tuning import tune

        silence_libraries()
        if not gc.get_freeze_count():
            gc.freeze()  # modules stay: walking through all that torch brings takes a second at every collection
        typed = self.words.names("trainer.max_steps")
        tune(cfg, folder, partial(build, start=start), new=run is None, steps_typed=typed)
        config = OmegaConf.to_container(cfg, resolve=True)
        trainer, module, data = build(cfg, self.processes, start)
        prepare_loggers(trainer, config, folder, run, partial(self._confirm, record if run else None))
        notes = [*filter(None, [self.words.choice.line]), *(start.notes if start else [])]
        if run is None and self.words.names("init_from") and not any(map(self.words.names, SAY_HOW_LONG)):
            notes.append("Note       init_from= leaves rate and length as model=tiny has them, for random weights; "
                         "experiment=finetune has others, measured for this.")  # fmt: skip
        notes += [*precision_advice(trainer, cfg.get("gpu_precision")), *memory_advice(trainer, data)]
        print_beginning(trainer, module, data, folder, notes)
        trainer.fit(module, data, ckpt_path=run.checkpoint if run else None, weights_only=True)
        outcome = evaluate_run(trainer, module, data, folder, bool(cfg.get("baseline", True)))
        record_outcome(outcome, trainer, config, folder)
        print_outcome(outcome, trainer, module, data, folder, run, cfg.get("init_from"))
        return outcome.objective

    def _start(self, cfg: DictConfig, run: Resumption | None) -> Any:
        """What init_from names; from here on the configuration has its shape and its tokenizer."""
        if not cfg.get("init_from"):
            return None
        from yinggem.training.plan.starting_point import check_tokenizer, find_start, with_start

        start = find_start(str(cfg.init_from), run.checkpoint if run else None)
        groups: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, ["model", "tokenizer"]), resolve=True)
        if run is None or run.checkpoint is None:
            for name, group in with_start(groups, start, self.words.typed).items():
                cfg[name] = group
        else:
            check_tokenizer(start, self.words.typed, groups["tokenizer"])
        return start

    def _confirm(self, record: Callable[[], None] | None) -> None:
        """Training is sure to start."""
        self.training = True
        if record:
            record()

    def _record(self, cfg: DictConfig, words: list[str], folder: Path, new: bool) -> None:
        """Keep how the run is started; of one that is continued only once nothing can refuse it any more."""
        if rank():
            return
        cfg.ckpt_path = None
        sources = OmegaConf.to_yaml(OmegaConf.create({"hydra": HydraConfig.get()})) if new else None
        record_run(folder, words, OmegaConf.to_yaml(cfg), sources)
        self.new_run.name_latest(Path(cfg.outputs), folder)

    def last_checkpoint(self) -> Path | None:
        """What the run of this command could be continued from now."""
        if self.folder is not None:
            return checkpoint(self.folder, LAST)
        return self.words.to_continue


def build(cfg: DictConfig, processes: ProcessGroup | None = None, start: Any = None) -> tuple[Any, Any, Any]:
    """The trainer, the module and the data of a configuration.

    Args:
        start: the `StartingPoint` of a run that does not begin with random weights.
    """
    from lightning.pytorch import seed_everything

    from yinggem.callbacks.monitors import check_monitors
    from yinggem.model.transformer import Transformer
    from yinggem.training.compiling import check_compiler
    from yinggem.training.memory_limit import check_memory
    from yinggem.training.module import LanguageModule
    from yinggem.training.plan.starting_point import begin

    # Plain lists, never Hydra's: they end in the state of an optimizer, and a checkpoint holds nothing but plain data.
    make = partial(instantiate, _convert_="all")
    seed_everything(cfg.seed, verbose=False)
    data = make(cfg.data, tokenizer=start.tokenizer if start else make(cfg.tokenizer), seed=cfg.seed)
    data.setup()
    config = make(cfg.model, vocab_size=data.tokenizer.vocab_size, document_end=data.document_end)
    check_memory(config, data.tokens_per_step, str(cfg.optimizer._target_).rpartition(".")[2])
    model = Transformer(config, cfg.attention_backend)
    begin(model, data.tokenizer, start, cfg.get("init_freeze"))
    if cfg.compile:
        check_compiler()
        model.compile_blocks()
    rules = make(cfg.optimizer), make(cfg.scheduler)  # partial: they wait for the weights
    skippable = cfg.trainer.get("skip_bad_steps", 0)
    module = LanguageModule(model, data.tokenizer, *rules, data.eval_context_length, cfg.seed, skippable)
    parts: dict[str, Any] = {"profiler": make(cfg.get("profiler"))}
    for name in ("logger", "callbacks"):  # a part without a target is left out: an experiment has settings for it
        parts[name] = [make(one) for one in (cfg.get(name) or {}).values() if one and "_target_" in one]
    check_monitors(parts["callbacks"])
    if memory := make(cfg.get("memory")):
        data.hold_out(memory.tokens_held_out(data.train_tokens))
        parts["callbacks"].insert(0, memory)  # it fits to the weights that are validated, be they averages
    return make(cfg.trainer, **parts, processes=processes, default_root_dir=cfg.run_dir), module, data


def composed(words: list[str], config_folders: Sequence[str] = (), name: str = TODAY) -> DictConfig:
    """What the configuration files make of some words, also while Hydra runs something else."""
    own, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    search = [f"hydra.searchpath=[{','.join(quoted(f'file://{folder}') for folder in config_folders)}]"]
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return compose(name, overrides=[*words, *(search if config_folders else [])])
    finally:
        GlobalHydra.instance().hydra = own


def _recorded(run: Resumption, typed: list[str]) -> list[str]:
    """Let `CONTINUED` be the configuration that a run has recorded; returns the words to be applied to it."""
    folders = [str(CONF), *run.config_folders]

    def is_group(name: str) -> bool:
        return name.startswith("hydra/") or any(Path(folder, name).is_dir() for folder in folders)

    def compose_today(words: list[str]) -> dict[str, Any]:
        config: Any = OmegaConf.to_container(composed(words, run.config_folders))
        return dict(config)

    config, left = continued_config(run, typed, is_group, compose_today)
    quiet = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    ConfigStore.instance().store(
        CONTINUED, {"defaults": ["_self_", *quiet], **config, "hydra": {"output_subdir": None}}, provider="yinggem"
    )
    return left
