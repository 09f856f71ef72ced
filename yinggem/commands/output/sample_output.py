"""What generate prints: texts as they are made, or an object for each."""

import json
import math
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from yinggem.inference.sampling import Sampling, sampling_for

NARROWEST = 24  # columns of a sample beside others


def samples(network: Any, tokenizer: Any, options: Namespace, logs: Sequence[Any] = ()) -> tuple[Any, Any]:
    """The sampling settings, and the pieces of text as `yinggem.completion.complete` makes them.

    Args:
        logs: one for each sample, which note what its tokens are drawn from before any filter.
    """
    from yinggem.inference.completion import complete
    from yinggem.inference.memory_step import memory_steps

    sampling, seeds = sampling_of(options, tokenizer.name), range(options.seed, options.seed + options.num_samples)
    prompts = [options.prompt] * len(seeds)
    mixing = memory_steps(options.counts, tokenizer, options.prompt, len(seeds), options.memory)
    limits = options.training.steps(options.max_copy, prompts) if options.training else [[] for _ in seeds]
    noting = [[log] for log in logs] or [[] for _ in seeds]
    steps = [[*one, *two, *three] for one, two, three in zip(mixing, noting, limits, strict=True)]
    return sampling, complete(
        network, tokenizer, options.prompt, options.max_new_tokens, sampling, seeds, options.stop, steps,
        options.ignore_end,
    )  # fmt: skip


def print_text(network: Any, tokenizer: Any, options: Namespace) -> None:
    """Print the first sample while it is made; the others, made beside it, follow when all are done.

    Copies can be marked only once a sample is whole.
    """
    logs = logs_of(tokenizer, options) if options.logprobs is not None else []
    _, pieces = samples(network, tokenizer, options, logs)
    count, opening = options.num_samples, "" if options.interactive else shown_prompt(tokenizer, options.prompt)
    titles = [
        f"--- sample {k + 1} of {count}, seed {options.seed + k} ---\n" if count > 1 else "" for k in range(count)
    ]
    if has_room(count) and not (options.mark_copies or options.stats or logs):
        show_side_by_side(pieces, [f"sample {k + 1}, seed {options.seed + k}" for k in range(count)], opening)
        return
    texts = [""] * count
    show(titles[0] + opening)
    for row, piece, _ in pieces:
        texts[row] += piece
        if row == 0 and not options.mark_copies:
            show(piece)
    for row, text in enumerate(texts):
        if row:
            show(titles[row] + opening)
        if options.mark_copies:
            show_marked(text, options)
        elif row:
            show(text)
        show("\n")
        if logs:
            show_logprobs(logs[row])
        if options.stats:
            show(f"--- {stats_of(text, options)} ---\n")


def has_room(count: int) -> bool:
    """Whether several samples can stand side by side: there is a terminal, and it is wide enough."""
    return count > 1 and sys.stdout.isatty() and shutil.get_terminal_size().columns >= NARROWEST * count


def show_side_by_side(pieces: Any, titles: Sequence[str], opening: str) -> None:
    """Print samples in columns while they are made."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    texts = [opening] * len(titles)

    def columns() -> Table:
        table = Table.grid(expand=True, padding=(0, 2))
        for _ in titles:
            table.add_column(ratio=1, overflow="fold")
        table.add_row(*(Text(title, style="bold") for title in titles))
        table.add_row(*(Text(text) for text in texts))
        return table

    with Live(get_renderable=columns, refresh_per_second=10):
        for row, piece, _ in pieces:
            texts[row] += piece


def shown_prompt(tokenizer: Any, prompt: str) -> str:
    """What is printed before a sample: the prompt, and where a model answers it a line end."""
    return prompt if tokenizer.template is None or not prompt or prompt[-1].isspace() else f"{prompt}\n"


def print_objects(network: Any, tokenizer: Any, options: Namespace) -> None:
    """Print one JSON object per sample: `text` without prompt and stop string, `tokens` with every id drawn."""
    logs = logs_of(tokenizer, options)
    began = time.perf_counter()
    sampling, pieces = samples(network, tokenizer, options, logs)
    settings = {name: getattr(options, name) for name in ("checkpoint", "max_new_tokens", "stop")} | sampling.to_dict()
    settings |= {} if options.counts is None else {"memory": 1.0 if options.memory is None else options.memory}
    settings |= {} if options.max_copy is None else {"max_copy": options.max_copy}
    finished = {row: sample for row, _, sample in pieces}
    speed = sum(len(sample.tokens) for sample in finished.values()) / (time.perf_counter() - began)
    for row, sample in sorted(finished.items()):
        record = {"prompt": options.prompt, **sample.to_dict(), "engine": network.about, "settings": settings}
        told = logs[row].take(None)
        record |= {"logprobs": [token.logprob for token in told], "tokens_per_second": round(speed, 1)}
        record |= {"top_logprobs": [token.top for token in told]} if options.logprobs else {}
        if options.mark_copies:
            found = copies_of(sample.text, options)
            record |= {"longest_copy": found.longest, "copies": [copy.to_dict() for copy in found.stretches]}
        if options.stats:
            record["stats"] = stats_of(sample.text, options).to_dict()
        show(json.dumps(record, ensure_ascii=False) + "\n")


def logs_of(tokenizer: Any, options: Namespace) -> list[Any]:
    """What records the log-probabilities of each sample."""
    from yinggem.inference.token_log import TokenLog

    return [TokenLog(tokenizer, options.logprobs or 0) for _ in range(options.num_samples)]


def show_logprobs(log: Any) -> None:
    """Print a line for every token: how likely it was, and the likeliest beside it."""
    for token in log.take(None):
        ordered = sorted((token.top or {}).items(), key=lambda one: -one[1])
        others = "  ".join(f"{name!r} {math.exp(logprob):.3f}" for name, logprob in ordered)
        show(f"{token.name!r:16} {math.exp(token.logprob):.3f}  | {others}\n")


def copies_of(text: str, options: Namespace) -> Any:
    """The stretches of a sample that stand in the training text; one that begins in the prompt is cut there."""
    from yinggem.memory.copies import find_copies

    return find_copies(options.prompt + text, options.training.chunks(), after=len(options.prompt)).behind(
        len(options.prompt)
    )


def stats_of(text: str, options: Namespace) -> Any:
    """The figures of --stats."""
    from yinggem.memory.text_stats import text_stats

    return text_stats(text, options.training.chunks(), options.prompt)


def show_marked(text: str, options: Namespace) -> None:
    """Print a sample with its copies underlined, or in brackets where the output is not a terminal."""
    spans = copies_of(text, options).spans()
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        marked = Text(text)
        for start, end in spans:
            marked.stylize("bold underline", start, end)
        Console(highlight=False).print(marked, end="", soft_wrap=True)
        return
    for start, end in reversed(spans):
        text = f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"
    show(text)


def show(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def sampling_of(options: Namespace, tokenizer_name: str = "") -> Sampling:
    """The sampling settings of the options; the default of the repetition penalty depends on the tokenizer."""
    return sampling_for(tokenizer_name, **{field.name: getattr(options, field.name) for field in fields(Sampling)})
