"""The small model that ships with the package, so that text can be generated before anything was trained.

Its weights are in the package. Its memory is made from the corpus that ships too: no text is there twice.
"""

from pathlib import Path
from typing import Any

from yinggem.inference.checkpoint import load_memory
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.text.assets import STARTER as FILE
from yinggem.text.assets import verified_asset
from yinggem.text.text_record import TextRecord, open_recorded_text
from yinggem.text.tokenizer import Tokenizer

STARTER = "starter"  # its name, where a checkpoint can be named


def starter_path() -> Path:
    """The file, verified; UserError when it is missing or damaged."""
    return verified_asset(FILE)


def memory_of(path: str | Path, checkpoint: dict[str, Any], tokenizer: Tokenizer) -> NgramMemory | None:
    """As `yinggem.inference.checkpoint.load_memory`; of the starter, the counts of the text that it was trained on.

    Args:
        checkpoint: what `read_checkpoint` gave of the file.
        tokenizer: of the checkpoint.
    """
    memory = load_memory(path, checkpoint)
    if memory is None and Path(path).name == FILE and Path(path) == starter_path():
        split, _ = open_recorded_text(TextRecord.from_dict(checkpoint["yinggem"]["data"]), tokenizer)
        return NgramMemory(split.train[:], tokenizer.vocab_size)
    return memory
