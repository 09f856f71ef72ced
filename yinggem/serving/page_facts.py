"""What the page shows of settings, model and run, whether a server or the model in the page itself answers it."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from yinggem.common.errors import UserError
from yinggem.inference.memory_step import MOST_SHARE
from yinggem.inference.sampling import Sampling, default_repetition_penalty
from yinggem.model.config import ModelConfig
from yinggem.runs.layout import METRICS
from yinggem.runs.metrics_file import STEP, read_metrics
from yinggem.runs.record import read_overrides
from yinggem.text.tokenizer import Tokenizer

STATIC = Path(__file__).parent / "static"  # the files of the page
# From, to and step of the sliders; a number beyond them can be typed. A filter that is not named goes from 0 to 1.
SLIDERS = {
    "temperature": (0, 2, 0.05), "top_k": (0, 200, 1), "repetition_penalty": (1, 2, 0.05),
    "repetition_window": (0, 1000, 10), "no_repeat_ngram_size": (0, 10, 1),
}  # fmt: skip
CURVES = ("train/loss", "val/loss", "val/bits_per_byte")
MOST_POINTS = 400  # of a curve


def sliders(tokenizer_name: str, has_memory: bool, most_tokens: int) -> list[dict[str, Any]]:
    """The sliders, the fields of `Sampling` first."""
    found = []
    for one in fields(Sampling):
        low, high, step = SLIDERS.get(one.name, (0, 1, 0.01))
        off, value = one.metadata["off"], setting_default(one.name, tokenizer_name)
        start = (off[-1] if off else high) if value is None else value
        found.append(_slider(one.name, one.metadata["help"].replace("... ", "draw "), low, high, step, start))
    if has_memory:
        meaning = "how much what counting knows of the training text is believed; 0 is the network alone"
        found.append(_slider("memory", meaning, 0, MOST_SHARE, 0.05, 1))
        found.append(_slider("max_copy", "repeat at most N words of the training text in a row; 0 is off", 0, 40, 1, 0))
    found.append(_slider("max_tokens", "how long a continuation is", 1, min(500, most_tokens), 1, 60))
    return found


def setting_default(name: str, tokenizer_name: str) -> Any:
    """The default of a field of `Sampling` with this tokenizer."""
    return default_repetition_penalty(tokenizer_name) if name == "repetition_penalty" else getattr(Sampling, name)


def _slider(name: str, meaning: str, low: float, high: float, step: float, value: float) -> dict[str, Any]:
    return {"name": name, "meaning": meaning, "low": low, "high": high, "step": step, "value": value}


def run_facts(folder: Path | None, name: str) -> dict[str, Any]:
    """The curve and the settings of a run; of a checkpoint that lies elsewhere there are none."""
    rows = read_metrics(folder / METRICS) if folder else []
    try:
        words = read_overrides(folder) if folder else []
    except UserError:
        words = []
    return {"name": name, "settings": words, "curves": {one: _points(rows, one) for one in CURVES}}


def model_facts(config: ModelConfig, tokenizer: Tokenizer, step: Any, about: str) -> dict[str, Any]:
    """Which model it is, and what computes it."""
    told = {"step": step, "engine": about, "parameters": config.parameters}
    return told | {"tokenizer": tokenizer.name, "vocabulary": tokenizer.vocab_size}


def _points(rows: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    points = [(row[STEP], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    return points[:: math.ceil(len(points) / MOST_POINTS) or 1]
