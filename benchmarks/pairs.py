"""How many sums in words a small model answers exactly after seeing 2,000 pairs of a question and its answer.

    python benchmarks/pairs.py

The pairs are all sums and differences of two numbers up to 31, in an order of their own. The model is trained on nine
tenths of them by `data.format=pairs`; the others it has never seen. Answers are taken as the model ends them.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import yinggem
from yinggem.commands.train import train
from yinggem.inference.language_model import LanguageModel

ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty"]
LARGEST, COUNT = 31, 2000
SETTINGS = ["data=text", "data.format=pairs", "trainer.max_time=null"]  # all else is chosen for the text


def in_words(number: int) -> str:
    """23 -> "twenty three"."""
    if number < 0:
        return f"minus {in_words(-number)}"
    if number < 20:
        return ONES[number]
    return f"{TENS[number // 10]} {ONES[number % 10]}".removesuffix(" zero")


def pairs(count: int = COUNT, seed: int = 0) -> list[dict[str, str]]:
    """Questions with their answers, each once."""
    numbers = range(LARGEST + 1)
    made = [
        {"prompt": f"{in_words(a)} {word} {in_words(b)}", "completion": in_words(a + sign * b)}
        for a in numbers for b in numbers for word, sign in (("plus", 1), ("minus", -1))
    ]  # fmt: skip
    random.Random(seed).shuffle(made)
    return made[:count]


def exact(model: LanguageModel, questions: list[dict[str, str]]) -> float:
    """Share of the questions whose greedy answer is the right one, and ends where it should."""
    right = sum(
        model.generate(pair["prompt"], max_new_tokens=20, temperature=0.0, repetition_penalty=1.0) == pair["completion"]
        for pair in questions
    )
    return right / len(questions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", help="more settings of the run")
    options = parser.parse_args()
    made = pairs()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sums.jsonl")
        path.write_text("".join(json.dumps(pair) + "\n" for pair in made))
        start = time.perf_counter()
        where = [f"data.path={path}", f"outputs={folder}/outputs", f"seed={options.seed}"]
        run = train([*SETTINGS, *where, *options.settings])
        seconds = time.perf_counter() - start
        model = yinggem.load(run.folder, device="cpu")
        held_out = len(made) // 10
        for name, some in (("learnt", made[: -2 * held_out : 9]), ("never seen", made[-held_out:])):
            print(f"{name:11} {exact(model, some):6.1%} of {len(some)} answered exactly")
        print(f"{run.figures['steps']} steps in {seconds:.0f} s")


if __name__ == "__main__":
    main()
