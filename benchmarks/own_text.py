"""Which settings suit a text of which size: the measurements behind yinggem/training/plan/text_recipe.py.

    python benchmarks/own_text.py works tiny=tinyshakespeare.txt [NAME=FILE_OR_FOLDER ...] [--sizes 5 20 100]
        [--trials chosen byte-0.2 starter-0.2] [--seeds 0 1 2] [--minutes 1 | --tokens 250000] [--results FILE]

Every trial trains on a slice of so many KB of a text, the first of it, and is evaluated by one full pass over the
slice's last tenth: bits per byte of the network at its best validation, of counting, and of both. `works` is the
corpus that ships; its first nine tenths trained the starter, so trials from the starter mean something on other texts
only. --tokens N is the short form: as many training tokens for every trial, whatever else the machine does. `chosen` is
what `data=text data.path=X` alone chooses, its length included.

Beside it, what compressors need for the last tenth when they were given the rest: PPMd for every window alone, of as
many bytes as the evaluation's, xz -9e for all of it in one piece. Both sizes are whole bytes.

Every figure is a line of the file of --results, and is not measured again. At its end the table is printed.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from counting import SIZES, compressed, ppmd_size

from yinggem import train
from yinggem.text.assets import SHAKESPEARE, read_asset
from yinggem.text.documents import iter_text
from yinggem.text.files.text_files import find_text_files

KILOBYTES = [5, 20, 100, 300, 1000, 5000]
CHOSEN, WINDOW = "chosen", 1024  # a trial; tokens of a window of an evaluation
WINDOWS = 10  # of which PPMd reads the training text again, at most
KINDS = ("bits_per_byte", "counting_bits_per_byte", "together_bits_per_byte")
PEERS = ("PPMd", "xz")
ALONE = ["experiment=null", "model=tiny", "data.eval_context_length=1024", "data.eval_batch_size=16"]


def trial_words(name: str) -> list[str]:
    """The settings of a trial: KIND-DROPOUT, and -SETTING=VALUE for others. KIND: byte, bpe512 ..., starter."""
    if name == CHOSEN:
        return []
    kind, dropout, *more = name.split("-", 2)
    words = [f"model.dropout={dropout}", *(more[0].split("-") if more else [])]
    if kind == "starter":
        return ["experiment=finetune", "data.eval_context_length=1024", "data.eval_batch_size=16", *words]
    if kind == "byte":
        return [*ALONE, "tokenizer=byte", "data.context_length=256", "data.batch_size=4", *words]
    shape = ["data.context_length=128", "data.batch_size=8"]
    return [*ALONE, "tokenizer=bpe", f"tokenizer.vocab_size={kind.removeprefix('bpe')}", *shape, *words]


def setting(name: str, words: list[str], default: int) -> int:
    """What the last of the words says of a number."""
    return int(next((word.partition("=")[2] for word in reversed(words) if word.startswith(f"{name}=")), default))


def length_words(name: str, words: list[str], minutes: float, tokens: int | None) -> list[str]:
    """How long a trial trains, with a validation after every tenth of it; the choice of a text says so itself."""
    if name == CHOSEN:
        return ["trainer.max_time=null"]
    if tokens:
        steps = max(10, tokens // setting("data.context_length", words, 128) // setting("data.batch_size", words, 8))
        length = [f"trainer.max_steps={steps}", "trainer.max_time=null"]
    else:
        steps = round(minutes * 600)  # about what there is time for: decides the interval of validations alone
        length = ["trainer.max_steps=-1", f"trainer.max_time=00:00:{int(minutes):02}:{round(minutes % 1 * 60):02}"]
    return [*length, "trainer.check_val_every_n_epoch=null", f"trainer.val_check_interval={max(1, steps // 10)}"]


def measure(text: bytes, name: str, seed: int, minutes: float, tokens: int | None) -> dict[str, Any]:
    """One trial, trained in a folder that is thrown away, and what compressors need."""
    words = trial_words(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_bytes(text)
        quiet = ["callbacks=[checkpoint]", "logger=csv", f"outputs={folder}/outputs", f"seed={seed}"]
        start = time.perf_counter()
        length = length_words(name, words, minutes, tokens)
        run = train(["data=text", f"data.path={path}", *quiet, *length, *words])
        seconds = time.perf_counter() - start
    figures = {name: run.figures[name] for name in (*KINDS, "loss", "steps", "best_step")}
    window = round(WINDOW * figures["loss"] / math.log(2) / figures["bits_per_byte"])  # bytes
    return figures | {"seconds": seconds} | compressors(text, window)


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
    kinds = (*KINDS, *PEERS)
    means = {key: [statistics.mean(one[kind] for one in found) for kind in kinds] for key, found in rows.items()}
    lines = ["| text | KB | trial | network | counting | both | PPMd | xz | best step |", "|" + "---|" * 9]
    for key in sorted(rows):
        best = min(figures[0] for other, figures in means.items() if other[:2] == key[:2])
        network, *others = means[key]
        shown = f"**{network:.2f}**" if network == best else f"{network:.2f}"
        steps = f"{rows[key][0]['best_step']:,} of {rows[key][0]['steps']:,}"
        lines.append(
            f"| {key[0]} | {key[1]:,} | {key[2]} | {shown} | {' | '.join(f'{one:.2f}' for one in others)} | {steps} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", default=["works"])
    parser.add_argument("--sizes", nargs="+", type=int, default=KILOBYTES)
    parser.add_argument("--trials", nargs="+", default=["byte-0", "byte-0.2", "bpe512-0.1", "bpe2048-0"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--results", type=Path, default=Path("own_text.jsonl"))
    options = parser.parse_args()
    known = options.results.read_text().splitlines() if options.results.exists() else []
    results = [json.loads(line) for line in known]
    asked = {"minutes": None if options.tokens else options.minutes, "tokens": options.tokens}
    for named in options.texts:
        name, _, place = named.partition("=")
        text = read_text(place or name)
        for size in [size for size in options.sizes if size * 1000 <= len(text) * 1.05]:
            slice_ = text[: size * 1000].decode(errors="ignore").encode()  # a slice ends with a whole character
            for trial in options.trials:
                for seed in options.seeds:
                    what = {"text": name, "kilobytes": size, "trial": trial, "seed": seed} | asked
                    if any(what.items() <= result.items() for result in results):
                        continue
                    results.append(what | measure(slice_, trial, seed, options.minutes, options.tokens))
                    with options.results.open("a") as file:
                        file.write(json.dumps(results[-1]) + "\n")
    print(table([result for result in results if asked.items() <= result.items()]))


if __name__ == "__main__":
    main()
