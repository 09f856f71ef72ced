"""Make token shards for data=streaming from a text and a tokenizer.

python -m yinggem.shard --data poems/ --tokenizer gpt2 --output shards
"""

import argparse
import sys
from pathlib import Path

from yinggem.cli import Parser, number, run, whole
from yinggem.corpus import open_corpus, tokenize
from yinggem.errors import UserError
from yinggem.token_shards import BLOCK, CHUNK_TOKENS, litdata, write_shards
from yinggem.tokenizer import KINDS, BPETokenizer


def shard_parser() -> argparse.ArgumentParser:
    """The options of `python -m yinggem.shard`."""
    parser = Parser("python -m yinggem.shard", description="Make token shards for data=streaming.", allow_abbrev=False)
    add = parser.add_argument
    add("--data", default="shakespeare", metavar="NAME", help="shakespeare, tinyshakespeare, or a path to text")
    add("--data-path", metavar="FILE", help="where tinyshakespeare is, if not in the cache")
    add("--tokenizer", choices=sorted(KINDS), default="gpt2", help="default: gpt2")
    add("--vocab-size", type=whole(1), metavar="N", help="tokens to learn, for --tokenizer bpe (default: 1024)")
    add("--val-fraction", type=number, default=0.1, metavar="X", help="share of the validation part (default: 0.1)")
    add("--chunk-tokens", type=whole(BLOCK), default=CHUNK_TOKENS, metavar="N", help="tokens in a file (default: 2^25)")
    add("--output", required=True, metavar="FOLDER", help="is made; copy it to object storage as it is")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Tokenize through the cache, which continues where it was interrupted, and write the shards."""
    options = shard_parser().parse_args(arguments)
    litdata()
    if options.vocab_size is not None and options.tokenizer != "bpe":
        raise UserError(f"--vocab-size is for --tokenizer bpe; {options.tokenizer} has a vocabulary of its own.")
    named = options.data in ("shakespeare", "tinyshakespeare")
    corpus = open_corpus(options.data if named else "text", options.data_path if named else options.data)
    tokenizer = BPETokenizer(options.vocab_size) if options.vocab_size else KINDS[options.tokenizer]()
    split = tokenize(corpus, tokenizer, None, options.val_fraction, "tokens")
    output = Path(options.output).expanduser()
    write_shards(output, split, tokenizer, options.chunk_tokens // BLOCK * BLOCK)
    count = len(split.train) + len(split.val)
    print(f"{count:,} tokens ({tokenizer.name}, {tokenizer.vocab_size:,} kinds) in {output}")
    print(f"Next:  python train.py data=streaming data.path={output}")


if __name__ == "__main__":
    sys.exit(run(main))
