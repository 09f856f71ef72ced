"""Which settings suit a text of which size: the measurements behind yinggem/training/plan/text_recipe.py.

    python benchmarks/own_text.py works tiny=tinyshakespeare.txt [NAME=FILE_OR_FOLDER ...] [--sizes 5 20 100]
        [--trials chosen byte-0.2 starter-0.2 | --sweep plain] [--seeds 0 1 2] [--minutes 1 | --tokens 400000]
        [--words trainer.accelerator=gpu] [--processes 14] [--seconds 540] [--results FILE]

Every trial trains on a slice of so many KB of a text, the first of it, and is evaluated by one full pass over the
slice's last tenth: bits per byte of the network at its best validation. `works` is the corpus that ships; its first
nine tenths trained the starter, so trials from the starter mean something on other texts only. --tokens N is for the
sweeps and the short form: as many training tokens for every trial, whatever else the machine does. A sweep is 20
trials, and its trials are of the network alone.

`chosen` is what `data=text data.path=X` alone chooses, its length included, but no longer than --minutes; `scratch` is
what it chooses from random weights, as for a text that is not English. Beside the network they have what counting
reaches, and both together, and what compressors need for the last tenth when they were given the rest: PPMd for every
window alone, of as many bytes as the evaluation's, xz -9e for all of it in one piece. Both sizes are whole bytes.

Every figure is a line of the file of --results, and is not measured again. At its end the table is printed. Where other
processes, or a GPU, share the work, --minutes means nothing: name --tokens. After --seconds no trial begins.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from counting import SIZES, compressed, ppmd_size

from yinggem import train
from yinggem.text.assets import SHAKESPEARE, read_asset
from yinggem.text.documents import iter_text
from yinggem.text.files.text_files import find_text_files

KILOBYTES = [5, 20, 100, 300, 1000, 5000]
# Trials that are a text's choice: for the text as it is, and from random weights, as a typed word of the network asks.
CHOICES = {"chosen": [], "scratch": ["model.hidden_size=128"]}
WINDOW = 1024  # tokens of a window of an evaluation
WINDOWS = 10  # of which PPMd reads the training text again, at most
KINDS = ("bits_per_byte", "counting_bits_per_byte", "together_bits_per_byte")
PEERS = ("PPMd", "xz")
PLAIN = ["0.2", "0.1-optimizer=muon", "0.1-optimizer=muon_decay", "0.2-optimizer=muon_decay"]
STARTER = [
    "optimizer=muon_decay",
    "optimizer=adafactor-optimizer.lr=0.02",
    "optimizer=adafactor_decay",
    "optimizer=adafactor_decay-optimizer.weight_decay=0.2",
    "optimizer=adafactor_decay-optimizer.weight_decay=1.0",
]
SWEEPS = {
    "plain": [
        *("-".join(one) for one in itertools.product(("byte", "bpe512", "bpe1024", "bpe2048"), PLAIN)),
        *(f"{kind}/4-0.2-optimizer=muon_decay" for kind in ("byte", "bpe512", "bpe1024", "bpe2048")),
    ],
    "starter": ["-".join(one) for one in itertools.product(("starter", "starter/4"), ("0.1", "0.2"), STARTER)],
}
ALONE = ["experiment=null", "model=tiny", "data.eval_context_length=1024", "data.eval_batch_size=16"]


def trial_words(name: str) -> list[str]:
    """The settings of a trial: KIND[/PART]-DROPOUT, and -SETTING=VALUE for others.

    KIND is byte, bpe512 ..., starter; /4 ends after a quarter of the time.
    """
    if name in CHOICES:
        return CHOICES[name]
    kind, dropout, *more = name.split("-", 2)
    kind = kind.partition("/")[0]
    words = [f"model.dropout={dropout}", *(more[0].split("-") if more else [])]
    if kind == "starter":
        return ["experiment=finetune", "data.eval_context_length=1024", "data.eval_batch_size=16", *words]
    if kind == "byte":
        return [*ALONE, "tokenizer=byte", "data.context_length=256", "data.batch_size=4", *words]
    vocabulary = [f"tokenizer.vocab_size={kind.removeprefix('bpe')}", "tokenizer.at_most=true"]
    return [*ALONE, "tokenizer=bpe", *vocabulary, "data.context_length=128", "data.batch_size=8", *words]


def setting(name: str, words: list[str], default: int) -> int:
    """What the last of the words says of a number."""
    return int(next((word.partition("=")[2] for word in reversed(words) if word.startswith(f"{name}=")), default))


def length_words(name: str, words: list[str], minutes: float, tokens: int | None) -> list[str]:
    """How long a trial trains, with a validation after every tenth of it; the choice of a text says so itself."""
    time_limit = f"trainer.max_time=00:00:{int(minutes):02}:{round(minutes % 1 * 60):02}"
    if name in CHOICES:
        return ["trainer.max_time=null"] if tokens else [time_limit]
    if tokens:
        part = int(name.partition("-")[0].partition("/")[2] or 1)
        size = setting("data.context_length", words, 128) * setting("data.batch_size", words, 8) * part
        steps = max(10, tokens // size)
        length = [f"trainer.max_steps={steps}", "trainer.max_time=null"]
    else:
        steps = round(minutes * 400)  # about what there is time for: decides the interval of validations alone
        length = ["trainer.max_steps=-1", time_limit]
    return [*length, "trainer.check_val_every_n_epoch=null", f"trainer.val_check_interval={max(1, steps // 10)}"]


def measure(what: dict[str, Any], text: bytes, more: list[str]) -> dict[str, Any]:
    """One trial, trained in a folder that is thrown away; for the choice of a text what compressors need, too."""
    name, words = what["trial"], trial_words(what["trial"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_bytes(text)
        quiet = ["callbacks=[checkpoint]", "logger=csv", f"outputs={folder}/o", f"seed={what['seed']}"]
        quiet += [] if name in CHOICES else ["memory=none", "baseline=false"]
        start = time.perf_counter()
        length = length_words(name, words, what["minutes"] or 0, what["tokens"])
        run = train(["data=text", f"data.path={path}", *quiet, *length, *words, *more])
        seconds = time.perf_counter() - start
    figures = {name: run.figures[name] for name in (*KINDS, "loss", "steps", "best_step") if name in run.figures}
    window = round(WINDOW * figures["loss"] / math.log(2) / figures["bits_per_byte"])  # bytes
    peers = compressors(text, window) if name in CHOICES else {}
    return what | figures | {"seconds": seconds} | peers


def compressors(text: bytes, window: int) -> dict[str, float]:
    """Bits per byte of the last tenth of a text by compressors that were given the rest."""
    cut = int(len(text) * 0.9)
    return {
        "PPMd": compressed(ppmd_size, text[:cut], text[cut:], window, WINDOWS)["windows"],
        "xz": compressed(SIZES["xz"], text[:cut], text[cut:], window, 0)["reading on"],
    }


def read_text(place: str) -> bytes:
    """A text that is named NAME=PLACE, or the corpus."""
    if place == "works":
        return read_asset(SHAKESPEARE)
    return "".join(iter_text(find_text_files(place))).encode()


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: means over the seeds, the best network of every slice in bold."""
    rows: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for result in results:
        rows.setdefault((result["text"], result["kilobytes"], result["trial"]), []).append(result)
    best: dict[tuple[str, int], float] = {}
    for (text, size, _), found in rows.items():
        best[text, size] = min(best.get((text, size), math.inf), mean(found, KINDS[0]))
    lines = ["| text | KB | trial | network | counting | both | PPMd | xz | best step |", "|" + "---|" * 9]
    for (text, size, trial), found in sorted(rows.items()):
        network, *others = (mean(found, kind) for kind in (*KINDS, *PEERS))
        shown = [f"**{network:.3f}**" if network == best[text, size] else f"{network:.3f}"]
        shown += ["" if math.isnan(one) else f"{one:.3f}" for one in others]
        steps = f"{found[0]['best_step']:,} of {found[0]['steps']:,}"
        lines.append(f"| {text} | {size:,} | {trial} | {' | '.join(shown)} | {steps} |")
    return "\n".join(lines)


def mean(found: list[dict[str, Any]], kind: str) -> float:
    """Over the seeds; NaN for what was not measured."""
    return statistics.mean(one.get(kind, math.nan) for one in found)


def trials(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Everything that is asked for: what it is, and its text."""
    for named in options.texts:
        name, _, place = named.partition("=")
        text = read_text(place or name)
        for size in [size for size in options.sizes if size * 1000 <= len(text) * 1.05]:
            slice_ = text[: size * 1000].decode(errors="ignore").encode()  # a slice ends with a whole character
            for trial, seed in itertools.product(SWEEPS.get(options.sweep, options.trials), options.seeds):
                length = {"minutes": None if options.tokens else options.minutes, "tokens": options.tokens}
                yield {"text": name, "kilobytes": size, "trial": trial, "seed": seed, **length}, slice_


def measure_until(end: float, words: list[str], job: tuple[dict[str, Any], bytes]) -> dict[str, Any] | None:
    """A trial, unless the time is over."""
    return measure(*job, words) if time.time() < end else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", default=["works"])
    parser.add_argument("--sizes", nargs="+", type=int, default=KILOBYTES)
    parser.add_argument("--trials", nargs="+", default=["byte-0", "byte-0.2", "bpe512-0.1", "bpe2048-0"])
    parser.add_argument("--sweep", choices=sorted(SWEEPS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--words", nargs="+", default=[])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--results", type=Path, default=Path("own_text.jsonl"))
    options = parser.parse_args()
    known = options.results.read_text().splitlines() if options.results.exists() else []
    results = [json.loads(line) for line in known]
    asked = list(trials(options))
    jobs = [job for job in asked if not any(job[0].items() <= result.items() for result in results)]
    measure_one = partial(measure_until, time.time() + options.seconds, options.words)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for result in filter(None, pool.imap_unordered(measure_one, jobs)):
            results.append(result)
            with options.results.open("a") as file:
                file.write(json.dumps(result) + "\n")
    print(table([result for result in results if any(what.items() <= result.items() for what, _ in asked)]))


if __name__ == "__main__":
    main()
