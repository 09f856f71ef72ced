"""Train the model that ships with the package and pack it: 8 bits a weight, no text, its figures beside its hash.

    python benchmarks/starter.py [--run RUN] [--output yinggem/text/assets/starter.ckpt]

Without --run it trains first: `python train.py experiment=starter`, on the first nine tenths of the corpus that ships.
The same machine makes the same bits. Put the hash that it prints into yinggem/text/assets/__init__.py.
"""

import argparse
import hashlib
from pathlib import Path

from yinggem import train
from yinggem.commands.quantize import main as quantize
from yinggem.inference.checkpoint import load_model
from yinggem.inference.counting import evaluate_with_counting
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.runs.layout import find_checkpoint
from yinggem.text.assets import STARTER
from yinggem.text.text_record import TextRecord, open_recorded_text

PLACE = Path(__file__).parents[1] / "yinggem" / "text" / "assets" / STARTER


def figures_of(path: Path) -> str:
    """Bits per byte on the last tenth of the corpus, in windows of the training's evaluations."""
    stored = read_model(path)
    model, tokenizer = load_model(path, stored=stored)
    entry = stored.entry
    split, _ = open_recorded_text(TextRecord.from_dict(entry["data"]), tokenizer)
    memory = NgramMemory(split.train[:], tokenizer.vocab_size)
    found = evaluate_with_counting(model, split.val, split.token_bytes, entry["context_length"], 16, memory)
    three = {"network": found.network, "counting": found.counting, "both": found.together}
    return ", ".join(f"{name} {one.bits_per_byte:.4f}" for name, one in three.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run")
    parser.add_argument("--output", type=Path, default=PLACE)
    options = parser.parse_args()
    run = options.run or train(["experiment=starter"]).folder
    quantize(["--checkpoint", str(run), "--output", str(options.output)])
    digest = hashlib.sha256(options.output.read_bytes()).hexdigest()
    print(f"{options.output.name}: {options.output.stat().st_size / 1e6:.2f} MB, SHA-256 {digest}")
    print(f"floats: {figures_of(find_checkpoint(run))}\nint8:   {figures_of(options.output)}  (bits per byte)")


if __name__ == "__main__":
    main()
