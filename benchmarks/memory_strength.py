"""How much of a memory is best while generating: what samples say with 0, 0.25, 0.5, 1 and 1.5 of it.

    python benchmarks/memory_strength.py RUN [RUN ...] [--samples 50] [--tokens 200]

RUN is the folder of a run with memory=ngram, or its checkpoint. For every X of `yinggem generate --memory X`, with the
default settings, seeds 0, 1 ... and no prompt: words that the training text does not have, runs of four words that came
before in the same sample, and the longest stretch in any sample that stands in the training text, in words.
"""

import argparse
import statistics

from yinggem.inference.completion import complete
from yinggem.inference.copying import TrainingText
from yinggem.inference.files.stored_model import read_model
from yinggem.inference.memory_step import memory_steps
from yinggem.inference.networks.opening import open_network
from yinggem.inference.sampling import sampling_for
from yinggem.memory.text_stats import text_stats
from yinggem.runs.layout import find_checkpoint

SHARES = (0.0, 0.25, 0.5, 1.0, 1.5)
BETWEEN = " \0 "  # a word that no text has: no copy goes on from one sample to the next


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    print("| run | X | words not in the text | repeated 4-grams | longest copy, words |\n|---|---|---|---|---|")
    for run in options.runs:
        stored = read_model(find_checkpoint(run))
        memory, tokenizer, network = stored.memory, stored.tokenizer, open_network(stored, "cpu")
        training, settings = TrainingText(memory, tokenizer), sampling_for(tokenizer.name)
        for share in SHARES:
            steps = memory_steps(memory, tokenizer, "", options.samples, share)
            pieces = complete(network, tokenizer, "", options.tokens, settings, range(options.samples), (), steps)
            last = {row: sample.text for row, _, sample in pieces}
            found = text_stats(BETWEEN.join(last.values()), training.chunks())
            repeated = statistics.mean(text_stats(text, []).repeated_4grams for text in last.values())
            figures = f"{found.unknown_words:.1%} | {repeated:.1%} | {found.longest_copy}"
            print(f"| {run} | {share:g} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
