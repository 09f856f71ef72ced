"""The small model that ships with the package, so that text can be generated before anything was trained.

Its weights are in the package. Its memory is made from the corpus that ships too: no text is there twice.
"""

from pathlib import Path

from yinggem.inference.files.stored_model import StoredModel
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.text.assets import STARTER as FILE
from yinggem.text.assets import verified_asset

STARTER = "starter"  # its name, where a checkpoint can be named


def starter_path() -> Path:
    """The file, verified; UserError when it is missing or damaged."""
    return verified_asset(FILE)


def memory_of(stored: StoredModel) -> NgramMemory | None:
    """A checkpoint's memory; of the starter, the counts of the text that it was trained on."""
    if stored.memory is None and stored.path.name == FILE and stored.path == starter_path():
        from yinggem.text.text_record import TextRecord, open_recorded_text  # all that reads corpora takes a while

        split, _ = open_recorded_text(TextRecord.from_dict(stored.entry["data"]), stored.tokenizer)
        return NgramMemory(split.train[:], stored.tokenizer.vocab_size)
    return stored.memory
