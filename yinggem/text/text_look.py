"""What a text looks like at a glance: how large it is, in which scripts, and whether it is English.

A glance reads SAMPLE characters at most, however large the text is.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from yinggem.text.bpe import MAX_TOKEN_BYTES, MIN_VOCABULARY
from yinggem.text.documents import iter_text
from yinggem.text.files.compression import COMPRESSIONS, inner_suffix
from yinggem.text.files.text_files import FileList, find_text_files
from yinggem.text.marks import EITHER
from yinggem.text.reading import DEFAULT, Reading

SAMPLE = 1 << 20  # characters
FILES = 64  # of a folder, at equal distances
TRAINING_SHARE = 80  # percent of the sample, which are in the training split whichever of its texts validate
UNPACKED = 3  # times as large as the file, a packed text is taken to be
# Words that make up about a quarter of any English prose, and little of other languages; none is a programming keyword.
ENGLISH_WORDS = """the of to a that was he it his on be at i had are but have an they which you were her all she there
would their we him been has when will more out so my what your me our shall may such any other"""
ENGLISH = frozenset(ENGLISH_WORDS.split())


@dataclass(frozen=True)
class TextLook:
    """A glance at a text.

    Args:
        bytes: of all files.
        files: how many.
        characters: different ones in the sample.
        bytes_per_character: in UTF-8: 1 for ASCII, 3 for Chinese.
        english: share of the words that are among ENGLISH; 0 where there are no words.
        scripts: of the letters, the most frequent first; those of less than a hundredth are left out.
        vocabulary: of so many tokens a BPE can be learnt from it, at least: the bytes, and each word as one token.
    """

    bytes: int
    files: int
    characters: int
    bytes_per_character: float
    english: float
    scripts: tuple[str, ...]
    vocabulary: int

    @property
    def is_english(self) -> bool:
        """Whether it is mostly English: 0.23 to 0.33 in prose, verse and licences, to 0.12 in code and elsewhere."""
        return self.english >= 0.18

    @property
    def size(self) -> str:
        """In the words of a person."""
        unit, name = next(
            (one for one in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")) if self.bytes >= one[0]), (1, "bytes")
        )
        return f"{self.bytes / unit:.3g} {name}"

    @property
    def language(self) -> str:
        """English, or the scripts."""
        return "English" if self.is_english else " and ".join(self.scripts[:3]) or "no letters"


def look_at(path: str | Path, reading: Reading = DEFAULT) -> TextLook:
    """Look at what data.path names.

    Raises:
        UserError: as `find_text_files` and `iter_text`.
    """
    files = find_text_files(path)
    sample = sample_of(files, reading)
    letters = Counter(script_of(character) for character in sample if character.isalpha())
    words = re.findall(r"[^\W\d_]+", sample.lower())
    size = sum(os.path.getsize(file) * (UNPACKED if is_packed(file) else 1) for file in files)
    if len(sample) < SAMPLE // max(1, len(files)) and any(map(is_packed, files)):
        size = len(sample.encode(errors="replace"))  # the sample is the whole text
    return TextLook(
        bytes=size,
        files=len(files),
        characters=len(set(sample)),
        bytes_per_character=len(sample.encode(errors="replace")) / max(1, len(sample)),
        english=sum(word in ENGLISH for word in words) / max(1, len(words)),
        scripts=tuple(name for name, count in letters.most_common() if count * 100 >= letters.total()),
        vocabulary=vocabulary_of(sample[: len(sample) * TRAINING_SHARE // 100]),
    )


def vocabulary_of(text: str) -> int:
    """How many tokens a BPE can learn from a text at least.

    Merging ends, at the latest, when every word of the text is one token; some merges lead to none of them.
    """
    words = set(re.findall(r" ?\w+| ?[^\w\s]+", text))
    return MIN_VOCABULARY + sum(1 < len(word.encode(errors="replace")) <= MAX_TOKEN_BYTES for word in words)


def sample_of(files: FileList, reading: Reading = DEFAULT) -> str:
    """The beginnings of up to FILES files, SAMPLE characters together."""
    chosen = list(islice(files, 0, None, max(1, -(-len(files) // FILES))))
    share = SAMPLE // max(1, len(chosen))
    plain = replace(reading, documents=None, separator=None)  # pieces as they are read, or rows
    return "\n".join(beginning(iter_text([file], plain), share) for file in chosen)


def beginning(pieces: Iterable[str], characters: int) -> str:
    """So many characters of a text; of more pieces than they can be, no more is read."""
    found, size = [], 0
    for piece in pieces:
        found.append(re.sub(EITHER, "\n", piece))
        size += len(piece)
        if size >= characters:
            break
    return "".join(found)[:characters]


def is_packed(file: Path) -> bool:
    """Whether a file holds more text than it has bytes."""
    return file.suffix.lower() in COMPRESSIONS or inner_suffix(file) == ".parquet"


def script_of(letter: str) -> str:
    """Latin, Cyrillic, Cjk ...: the first word of a letter's name in Unicode."""
    return unicodedata.name(letter, "unknown").split()[0].split("-")[0].capitalize()
