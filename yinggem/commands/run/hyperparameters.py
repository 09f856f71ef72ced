"""The settings of a run, as experiment trackers want them."""

from pathlib import Path
from typing import Any

from yinggem.runs.record import read_overrides

MAIN = ("model.hidden_size", "model.num_hidden_layers", "optimizer.lr")


def hyperparameters(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What decides a result, by dotted name: numbers, words and truth values, as trackers want them."""
    groups = ("model", "tokenizer", "data", "optimizer", "scheduler")
    choices = {name: value for name, value in command_line_settings(folder).items() if name in groups}
    values: dict[str, Any] = {"seed": config["seed"]} | choices
    for group in groups:
        values |= {f"{group}.{name}": value for name, value in config[group].items() if not name.startswith("_")}
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in values.items()}


def main_hyperparameters(parameters: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Few enough for TensorBoard's table, which shows the first five by name: what was typed, and the main ones."""
    names = {*MAIN, *command_line_settings(folder)} - {"data", "data.path"}
    return {name: parameters[name] for name in sorted(names) if name in parameters}


def command_line_settings(folder: Path) -> dict[str, str]:
    """The settings of the command line: in a sweep, what its runs differ in."""
    return dict(line.lstrip("+").partition("=")[::2] for line in read_overrides(folder))
