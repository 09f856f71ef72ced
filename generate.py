"""Generate text from a checkpoint, token by token. The checkpoint is all it needs: neither Hydra nor Lightning."""

import json
import sys
from argparse import Namespace
from typing import Any

from yinggem.cli import choose_device, parse_generation, run, sampling_of
from yinggem.errors import UserError


def main() -> None:
    """Check the arguments, load the model, generate."""
    options = parse_generation()
    from yinggem.checkpoint import find_checkpoint, load_model  # torch takes a second: not for --help

    options.checkpoint = str(find_checkpoint() if options.checkpoint is None else options.checkpoint)
    model, tokenizer = load_model(options.checkpoint, choose_device(options.device), quantization=options.quantize)
    show_samples = converse if options.interactive else print_objects if options.json else print_text
    show_samples(model, tokenizer, options)


def samples(model: Any, tokenizer: Any, options: Namespace) -> tuple[Any, Any]:
    """The sampling settings, and the pieces of text as `yinggem.completion.complete` makes them."""
    from yinggem.completion import complete

    sampling, seeds = sampling_of(options, tokenizer.name), range(options.seed, options.seed + options.num_samples)
    return sampling, complete(model, tokenizer, options.prompt, options.max_new_tokens, sampling, seeds, options.stop)


def print_text(model: Any, tokenizer: Any, options: Namespace) -> None:
    """Print the first sample while it is made; the others, made beside it, follow when all are done."""
    _, pieces = samples(model, tokenizer, options)
    count, opening = options.num_samples, "" if options.interactive else options.prompt
    titles = [
        f"--- sample {k + 1} of {count}, seed {options.seed + k} ---\n" if count > 1 else "" for k in range(count)
    ]
    later = [title + opening for title in titles]
    show(later[0])
    for number, piece, _ in pieces:
        if number == 0:
            show(piece)
        else:
            later[number] += piece
    show("\n".join(["", *later[1:], ""]))


def print_objects(model: Any, tokenizer: Any, options: Namespace) -> None:
    """Print one JSON object per sample: `text` without prompt and stop string, `tokens` with every id drawn."""
    sampling, pieces = samples(model, tokenizer, options)
    settings = {name: getattr(options, name) for name in ("checkpoint", "max_new_tokens", "stop")} | sampling.to_dict()
    finished = {number: sample for number, _, sample in pieces}
    for _, sample in sorted(finished.items()):
        record = {"prompt": options.prompt, **sample.to_dict(), "settings": settings}
        show(json.dumps(record, ensure_ascii=False) + "\n")


def converse(model: Any, tokenizer: Any, options: Namespace) -> None:
    """Continue each line typed. Ctrl-C ends a text that is being made; at the prompt, it and Ctrl-D leave."""
    try:
        while True:
            options.prompt = input("> ")
            try:
                print_text(model, tokenizer, options)
            except UserError as error:
                show(f"error: {error}\n")
            except KeyboardInterrupt:
                show("\n")
    except (EOFError, KeyboardInterrupt):
        show("\n")


def show(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run(main))
