"""What Hydra itself has to load for sweeps; it looks for plugins nowhere but in `hydra_plugins`.

The search is in yinggem/search/trials.py, which knows nothing of Hydra.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically
from yinggem.runs.overrides import quoted
from yinggem.search.trials import Scale, Search


@dataclass
class SearchConf:
    """hydra/sweeper=search; what it searches and how is in conf/sweep/."""

    _target_: str = "hydra_plugins.yinggem_sweep.SearchSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="search", node=SearchConf, provider="yinggem")


class SearchSweeper(Sweeper):
    """Runs the trials of a `yinggem.search.trials.Search` by whatever launcher is chosen.

    Ranges come from `sweep.space` and from the command line, in Hydra's grammar: `interval(0, 1)`,
    `tag(log, interval(0.001, 0.1))`, `range(0, 100, 10)`, `a,b,c`. A setting that the command line fixes is not varied.
    """

    config: DictConfig
    hydra_context: HydraContext
    launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Part of Hydra's interface."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until there are enough."""
        settings: Any = OmegaConf.to_container(self.config.sweep, resolve=True)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space = settings.pop("space", None) or {}
        if not isinstance(space, dict):
            raise UserError(f"sweep.space must name settings with their ranges, as conf/sweep/ does, not {space!r}.")
        named = [f"{name}={value}" for name, value in space.items()]
        words = {word.key_or_group: word for word in parser.parse_overrides([*named, *arguments])}  # the last one wins
        ours = {name: word for name, word in words.items() if name.partition(".")[0] not in ("sweep", "launcher")}
        varied = {name: word for name, word in ours.items() if word.is_sweep_override()}
        fixed = [str(word.input_line) for name, word in ours.items() if name not in varied]
        scales = {word.get_key_element(): scale_of(word) for word in varied.values()}
        self.validate_batch_is_legal([[*fixed, *(f"{name}={least(scale)}" for name, scale in scales.items())]])
        folder = Path(self.config.hydra.sweep.dir)
        search = Search(folder, scales, **settings)
        write_atomically(folder / "multirun.yaml", OmegaConf.to_yaml(self.config).encode())
        while batch := search.next_batch():
            jobs = [[*fixed, *(f"{name}={value}" for name, value in values.items())] for _, values in batch]
            returned = self.launcher.launch(jobs, initial_job_idx=batch[0][0])
            for (number, _), job in zip(batch, returned, strict=True):
                search.settle(number, job.return_value)
        return None


def scale_of(word: Override) -> Scale:
    """The range of a setting as Optuna is asked for it."""
    value: Any = word.value()
    if word.is_choice_sweep():
        return Scale(choices=tuple(dict.fromkeys(word.sweep_string_iterator())))
    numbers = list(value.range()) if word.is_range_sweep() else [value.start, value.end]
    if not numbers or not numbers[0] <= numbers[-1] or ("log" in value.tags and not numbers[0] > 0):
        raise UserError(f"{word.input_line} is an empty range or has no logarithm; write the lower bound first.")
    step = value.step if word.is_range_sweep() and len(numbers) > 1 else None
    return Scale(None, numbers[0], numbers[-1], step, "log" in value.tags)


def least(scale: Scale) -> Any:
    """One value, to see whether the setting exists."""
    return scale.low if scale.choices is None else scale.choices[0]


class Announcement(Callback):
    """Lets every process of a sweep know its folder.

    A folder with the time in its name would be another one where a launcher's process composes its job again.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the folder into the settings that all jobs share."""
        with read_write(config.hydra):
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(config.hydra.sweep.dir)}")

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Let submitit's process be that of the job: Lightning would repeat submitit's command for further devices."""
        main = sys.modules["__main__"]
        if main.__spec__ is not None and main.__spec__.name.startswith("submitit."):
            main.__spec__ = None
