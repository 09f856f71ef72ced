"""YingGem: an experiment framework for small decoder-only language models.

    model = yinggem.load()             # the newest run's best checkpoint; or a checkpoint, or a run folder
    print(model.generate("ROMEO."))
    run = yinggem.train(["experiment=smoke"])

`import yinggem` takes no time: what is slow to load is loaded by the functions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yinggem.common.errors import UserError

if TYPE_CHECKING:
    from yinggem.commands.train import TrainedRun
    from yinggem.inference.language_model import LanguageModel

__all__ = ["UserError", "load", "train"]
__version__ = "0.1.0"


def load(
    path_or_run: str | Path | None = None, device: str | None = None, quantization: str | None = None
) -> "LanguageModel":
    """A trained model that generates, streams and scores text.

    Args:
        path_or_run: a checkpoint, a run folder, "starter", or None for the newest run in outputs/ of the current
            folder; where there is none, it is the starter that ships with the package.
        device: "cpu", "cuda" ...; None is the fastest there is for a model of this size.
        quantization: "int8" or "int4" for smaller and faster weights; None as they are in the checkpoint.

    Raises:
        UserError: one sentence that names what is wrong with the checkpoint or the device.
    """
    from yinggem.inference.language_model import LanguageModel
    from yinggem.runs.layout import find_model

    return LanguageModel.from_checkpoint(find_model(path_or_run)[0], device, quantization)


def train(overrides: Sequence[str] = ()) -> "TrainedRun":
    """Train as `yinggem train OVERRIDES` does; returns the run's folder and its figures.

    Args:
        overrides: words such as "model=tiny" and "optimizer.lr=0.01".

    Raises:
        UserError: one sentence that names what is wrong with a setting or the data.
    """
    from yinggem.commands.train import train as run

    return run(overrides)
