"""result.json: what became of a run, written at its end and read by whoever compares runs."""

import json
from pathlib import Path
from typing import Any

from yinggem.common.files import write_atomically
from yinggem.runs.layout import RESULT

OBJECTIVE = "bits_per_byte"  # what is compared across runs: of all figures it alone does not depend on the tokenizer
TEST = "test/"  # before the names of the figures of the test split, which nothing is chosen by
FIGURES = ("loss", "perplexity", "bits_per_byte")
NUMBERS = (*FIGURES, f"{TEST}{OBJECTIVE}", "steps", "pruned")


def write_result(run: Path, result: dict[str, Any]) -> None:
    """Leave what became of a run in its folder: its figures, or "error" with a sentence, or "pruned" with a step."""
    write_atomically(run / RESULT, json.dumps(result, indent=1).encode())


def read_result(run: Path) -> dict[str, Any]:
    """What a finished, failed or pruned run left; {} otherwise, also where somebody else wrote the file."""
    try:
        result = json.loads((run / RESULT).read_text(encoding="utf-8"))
        whole = all(isinstance(result.get(name, 0), int | float) for name in NUMBERS)
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return result if whole else {}
