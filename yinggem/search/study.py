"""The study of a search: a database in the sweep's folder that outlives processes, and what is read out of it."""

import shlex
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically
from yinggem.common.program import typed
from yinggem.runs.record import read_overrides
from yinggem.runs.result import OBJECTIVE

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"
OBJECTIVE_KEY = "objective"  # of a study's attributes: the figure of result.json that it minimises
UNITS = {OBJECTIVE: "bits per byte", "loss": "nats per token"}
INSTALL = "sweep= needs Optuna, which is not installed; install it with pip install 'yinggem[sweep]'."


class Pruned(Exception):  # noqa: N818 - no error
    """Ends a trial that does worse than half of the others did at this step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"It was worse than half of the finished trials at step {step:,}.")
        self.step = step


def open_study(folder: Path, create: bool = False) -> "optuna.Study":
    """The study in a sweep's folder, with the pruner it was given.

    Raises:
        UserError: Optuna is missing; the file is not a study.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(INSTALL) from None

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = (folder / STUDY).resolve()
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{place}", engine_kwargs={"connect_args": {"timeout": 60}})
        if create:
            study = optuna.create_study(storage=storage, study_name="search", load_if_exists=True)
        else:
            study = optuna.load_study(storage=storage, study_name="search")
    except Exception as error:
        line = " ".join(str(error).split())[:150]
        raise UserError(f"Cannot open the study {place} ({line}); begin a new search without ckpt_path.") from error
    settings = study.user_attrs.get("pruner")
    study.pruner = optuna.pruners.NopPruner() if settings is None else optuna.pruners.MedianPruner(
        n_startup_trials=settings["startup_trials"], n_warmup_steps=settings["warmup_steps"]
    )  # fmt: skip
    return study


def objective_of(study: "optuna.Study") -> str:
    """The figure that a study minimises. It never changes: values of two figures cannot be compared."""
    return str(study.user_attrs.get(OBJECTIVE_KEY, "loss"))


def running_trial(folder: Path) -> "optuna.Trial | None":
    """The trial that is run in a folder; None if it belongs to no search, or its trial is over."""
    if not folder.name.isdecimal() or not (folder.parent / STUDY).is_file():
        return None
    import optuna

    study = open_study(folder.parent)
    study.sampler = optuna.samplers.RandomSampler()  # it will not be asked
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if trial.number == int(folder.name):
            return optuna.Trial(study, trial._trial_id)
    return None


def hopeless(trial: "optuna.Trial", value: float, step: int) -> bool:
    """Report the objective of a trial at a step; returns whether the trial should end."""
    with warnings.catch_warnings(action="ignore"):  # of a step that was reported before the trial was interrupted
        trial.report(value, step)
    return trial.should_prune()


def conclude_search(folder: Path) -> None:
    """Draw the study; print how many trials it has and the command that trains the best settings."""
    import optuna

    study = open_study(folder)
    names = draw_study(study, folder)
    states = optuna.trial.TrialState
    told = {states.COMPLETE: "finished", states.PRUNED: "pruned", states.FAIL: "failed", states.RUNNING: "unfinished"}
    counts = {word: sum(trial.state == state for trial in study.trials) for state, word in told.items()}
    print(f"{len(study.trials)} trials: {', '.join(f'{count} {word}' for word, count in counts.items() if count)}.")
    if names:
        print(f"Drawn in {folder}: {', '.join(names)}.")
    if counts["finished"]:
        command = shlex.join([*typed("train").split(), *read_overrides(folder / str(study.best_trial.number))])
        print(
            f"Best is trial {study.best_trial.number} with {study.best_value:.4f} {UNITS[objective_of(study)]}; "
            f"train its settings with:\n{command}"
        )


def draw_study(study: "optuna.Study", folder: Path) -> list[str]:
    """Draw the history and, once two different values are known, the importance of the settings; names of the files."""
    import matplotlib
    import optuna

    matplotlib.use("Agg")  # no window is wanted
    from matplotlib import pyplot
    from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

    finished = [trial.value for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    plots: dict[str, Callable[..., Any]] = {}
    if finished:
        plots["search_history.png"] = plot_optimization_history
    if len(set(finished)) > 1:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # the one that needs no scikit-learn
        plots["search_importance.png"] = partial(plot_param_importances, evaluator=evaluator)
    drawn = []
    for name, plot in plots.items():
        with matplotlib.rc_context(), warnings.catch_warnings(action="ignore"):  # it is experimental, and changes rc
            figure: Any = plot(study).figure
            figure.set_size_inches(8, 5)
            figure.set_layout_engine("constrained")
            write_atomically(folder / name, partial(figure.savefig, format="png", dpi=110))
            pyplot.close(figure)
        drawn.append(name)
    return drawn
