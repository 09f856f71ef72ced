"""A search of settings: Optuna proposes trials, ends the hopeless ones, and keeps the study in the sweep's folder.

The released hydra-optuna-sweeper 1.3 wants Optuna below 3, which nobody maintains and which can neither continue a
trial that was killed nor stop a hopeless one; so Optuna is driven directly. What Hydra must know of it is in
hydra_plugins/yinggem_sweep.py.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yinggem.common.checks import check_number, check_whole_number
from yinggem.common.errors import UserError
from yinggem.runs.result import OBJECTIVE, read_result
from yinggem.search.study import OBJECTIVE_KEY, objective_of, open_study

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Scale:
    """Where a setting is looked for: one of `choices`, or a number from `low` to `high`.

    Args:
        choices: values as they are typed; None for numbers.
        low, high: the bounds, both included; two whole numbers make a scale of whole numbers.
        step: the distance of neighbours; None for any number between.
        log: whether equal factors are equally likely.
    """

    choices: tuple[str, ...] | None = None
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    def distribution(self) -> "optuna.distributions.BaseDistribution":
        """The same in Optuna's terms; ValueError for bounds and steps that do not go together."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def check(self, name: str) -> None:
        """UserError for bounds and steps that do not go together."""
        try:
            self.distribution()
        except ImportError:  # reported where the study is opened
            return
        except ValueError as error:
            raise UserError(f"The range of {name} cannot be searched: {str(error).rstrip('.')}.") from None

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """The value of a trial; the old one if it was drawn before the trial was interrupted."""
        if name in trial.params:
            return trial.params[name]
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


@dataclass
class Search:
    """The trials of a study: which are next, what became of them.

    A trial has the number that its folder has. One that was interrupted is still running, as the study sees it, and is
    the first to be next when the search is continued. The sampler is seeded anew for every trial, with its number, so
    that a search that is continued proposes what it would have proposed.

    Args:
        folder: the sweep's, where the study is.
        space: what is searched, by the names of the settings.
        n_trials: how many trials the study shall have.
        n_jobs: how many are proposed at once.
        seed: of the proposals.
        startup_trials: how many are drawn at random before earlier ones guide the choice.
        timeout: minutes after which no trial is begun; None for no limit.
        pruner: `startup_trials` that must be finished and `warmup_steps` of a trial before it is judged; None: never.

    Raises:
        UserError: Optuna is missing; a number that makes no sense; the study cannot be read.
    """

    folder: Path
    space: dict[str, Scale]
    n_trials: int = 20
    n_jobs: int = 1
    seed: int = 0
    startup_trials: int = 5
    timeout: float | None = None
    pruner: dict[str, int] | None = None
    _begun: float = field(default_factory=time.monotonic, init=False)
    _tried: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        for name in ("n_trials", "n_jobs", "startup_trials"):
            check_whole_number(f"sweep.{name}", getattr(self, name), 0 if name == "startup_trials" else 1)
        check_whole_number("sweep.seed", self.seed, 0, (1 << 32) - 1)
        check_number("sweep.timeout", self.timeout, excluded="low", optional=True)
        names = ("startup_trials", "warmup_steps")
        if self.pruner is not None and (not isinstance(self.pruner, dict) or set(self.pruner) != set(names)):
            raise UserError(f"sweep.pruner must have the settings {' and '.join(names)}, or be null.")
        for name in names if self.pruner else ():
            check_whole_number(f"sweep.pruner.{name}", self.pruner[name], 0)  # type: ignore[index]
        if not self.space:
            raise UserError(
                "The search has nothing to vary; name settings with ranges, as in "
                "'optimizer.lr=tag(log,interval(0.001,0.1))' or model=tiny,small."
            )
        for name, scale in self.space.items():
            scale.check(name)
        self.study = open_study(self.folder, create=True)
        if OBJECTIVE_KEY not in self.study.user_attrs:  # an earlier version, which minimised the loss, began it
            self.study.set_user_attr(OBJECTIVE_KEY, "loss" if self.study.trials else OBJECTIVE)
        self._check_earlier_trials()
        self.study.set_user_attr("pruner", self.pruner)

    def _check_earlier_trials(self) -> None:
        """UserError for a scale that does not fit earlier trials."""
        from optuna.distributions import check_distribution_compatibility

        for trial in self.study.get_trials(deepcopy=False):
            for name in self.space.keys() & trial.distributions.keys():
                try:
                    check_distribution_compatibility(trial.distributions[name], self.space[name].distribution())
                except ValueError:
                    raise UserError(
                        f"This study has searched {name} on another scale, and only its bounds can be changed; "
                        "keep the scale, or begin a new search without ckpt_path."
                    ) from None

    def next_batch(self) -> list[tuple[int, dict[str, Any]]]:
        """Numbers, one after the other, and settings of the trials to run now; [] when the search is over."""
        import optuna

        if self.timeout is not None and time.monotonic() - self._begun > 60 * self.timeout:
            return []
        running = [trial for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
                   if trial.number not in self._tried]  # fmt: skip
        batch: list[tuple[int, dict[str, Any]]] = []
        while len(batch) < self.n_jobs:
            self.study.sampler = self._sampler(running[0].number if running else len(self.study.trials))
            if running and (not batch or running[0].number == batch[-1][0] + 1):
                trial = optuna.Trial(self.study, running.pop(0)._trial_id)
            elif running or len(self.study.trials) >= self.n_trials:
                break
            else:
                trial = self.study.ask()
            batch.append((trial.number, {name: scale.suggest(trial, name) for name, scale in self.space.items()}))
            self._tried.add(trial.number)
        return batch

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        import numpy as np
        import optuna

        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.startup_trials, constant_liar=True)

    def settle(self, number: int, value: Any) -> None:
        """Tell the study what became of a trial; nothing if its process was killed, for it will be taken up again.

        Args:
            value: what the job returned; its result.json knows more.
        """
        import optuna

        result = read_result(self.folder / str(number))
        value = result.get(objective_of(self.study), value)
        if "pruned" in result:
            self.study.tell(number, state=optuna.trial.TrialState.PRUNED)
        elif "lost" in result:
            return
        elif "error" not in result and isinstance(value, int | float) and math.isfinite(value):
            self.study.tell(number, float(value))
        else:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
