"""Make token shards for data=streaming: yinggem shard --data poems/ --tokenizer gpt2 --output shards"""

import argparse
import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from yinggem.common import files
from yinggem.common.command_line import Parser, number, whole_number
from yinggem.common.errors import UserError
from yinggem.common.program import typed
from yinggem.common.progress_bar import show_progress
from yinggem.text.corpus import open_corpus
from yinggem.text.reading import DEFAULT, DOCUMENTS, Reading
from yinggem.text.splitting import TokenizedSplit, tokenize
from yinggem.text.tokenizer import KINDS, BPETokenizer, Tokenizer
from yinggem.text.tokens import token_cache
from yinggem.text.tokens.token_array import TokenArray
from yinggem.text.tokens.token_shards import BLOCK, checksums_of, litdata

ITEM = 1 << 16  # tokens handed to litdata at once
CHUNK_TOKENS = 1 << 25  # 64 MiB of uint16, litdata's own chunk size for object storage


def write_shards(output: Path, split: TokenizedSplit, tokenizer: Tokenizer, chunk_tokens: int = CHUNK_TOKENS) -> None:
    """Write the folder, whole or not at all.

    Args:
        chunk_tokens: per file, a multiple of BLOCK.
        split: its two parts are joined and cut again, a multiple of BLOCK tokens before the end.

    Raises:
        UserError: the folder exists; the text is shorter than a block for each part; the disk is full.
    """
    litdata()
    if output.exists():
        raise UserError(f"{output} exists already; choose another --output, or remove it first.")
    ids = split.train + split.val
    cut = len(ids) - len(split.val) // BLOCK * BLOCK
    if not 0 < cut < len(ids):
        raise UserError(
            f"A validation part of {len(split.val)} tokens is too short for shards, which need at least {BLOCK}; "
            "use a longer text or a larger --val-fraction."
        )
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        with show_progress("Writing", len(ids)) as advance:
            for name, part in (("train", ids.part(0, cut)), ("val", ids.part(cut))):
                for count in _write_part(partial / name, part, chunk_tokens):
                    advance(count)
        with open(partial / "tokenizer.json", "wb") as file:
            token_cache.write_tokenizer(file, tokenizer)
        names = [str(path.relative_to(partial)) for path in sorted(partial.glob("*/*"))]
        checksums = dict(zip(names, checksums_of(partial, names), strict=True))
        (partial / "checksums.json").write_text(json.dumps(checksums), encoding="utf-8")
        partial.rename(output)
    except OSError as error:
        raise files.cannot_write(output, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_part(folder: Path, ids: TokenArray, chunk_tokens: int) -> Iterator[int]:
    from litdata.streaming import TokensLoader
    from litdata.streaming.cache import Cache

    folder.mkdir()
    cache = Cache(str(folder), chunk_size=chunk_tokens, item_loader=TokensLoader())
    size = min(ITEM, chunk_tokens)
    for count, start in enumerate(range(0, len(ids), size)):
        block = ids[start : start + size]
        cache[count] = block.astype(ids.dtype.newbyteorder("="))  # a copy: litdata keeps it until the chunk is full
        yield len(block)
    cache.done()
    with contextlib.redirect_stdout(None):  # it prints an empty line
        cache.merge()


def shard_parser() -> argparse.ArgumentParser:
    """The options of `yinggem shard`."""
    parser = Parser("yinggem shard", description="Make token shards for data=streaming.", allow_abbrev=False)
    add = parser.add_argument
    add("--data", default="shakespeare", metavar="NAME", help="shakespeare, tinyshakespeare, or a path to text")
    add("--data-path", metavar="FILE", help="where tinyshakespeare is, if not in the cache")
    add("--tokenizer", choices=sorted(KINDS), default="gpt2", help="default: gpt2")
    add("--vocab-size", type=whole_number(1), metavar="N", help="tokens to learn, for --tokenizer bpe (default: 1024)")
    add("--documents", choices=DOCUMENTS, help="what is a document of the text (default: it is one long text)")
    add("--separator", metavar="REGEX", help="for --documents pattern: what stands between two documents")
    add("--field", default=DEFAULT.field, metavar="NAME", help="the column of rows that holds text (default: text)")
    add("--encoding", default=DEFAULT.encoding, metavar="NAME", help="of the files (default: utf-8)")
    add("--val-fraction", type=number, default=0.1, metavar="X", help="share of the validation part (default: 0.1)")
    add(
        "--chunk-tokens",
        type=whole_number(BLOCK),
        default=CHUNK_TOKENS,
        metavar="N",
        help="tokens in a file (default: 2^25)",
    )
    add("--output", required=True, metavar="FOLDER", help="to be created; copy it to object storage as it is")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Tokenize through the cache, which continues where it was interrupted, and write the shards."""
    options = shard_parser().parse_args(arguments)
    litdata()
    if options.vocab_size is not None and options.tokenizer != "bpe":
        raise UserError(f"--vocab-size is for --tokenizer bpe; {options.tokenizer} has a vocabulary of its own.")
    named = options.data in ("shakespeare", "tinyshakespeare")
    reading = Reading(options.documents, options.separator, options.field, options.encoding)
    corpus = open_corpus(
        options.data if named else "text", options.data_path if named else options.data, reading=reading
    )
    tokenizer = BPETokenizer(options.vocab_size) if options.vocab_size else KINDS[options.tokenizer]()
    split = tokenize(corpus, tokenizer, None, options.val_fraction, "tokens")
    output = Path(options.output).expanduser()
    write_shards(output, split, tokenizer, options.chunk_tokens // BLOCK * BLOCK)
    count = len(split.train) + len(split.val)
    print(f"{count:,} tokens ({tokenizer.name}, vocabulary of {tokenizer.vocab_size:,}) in {output}")
    print(f"Next:  {typed('train')} data=streaming data.path={output}")
