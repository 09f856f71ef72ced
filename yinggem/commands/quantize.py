"""Write a checkpoint with weights of 8 or 4 bits: yinggem quantize --output model-int8.ckpt

It is a fraction of the size, and is for generating and evaluating only.
"""

import os

from yinggem.common.command_line import Parser
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model, save_model
from yinggem.inference.files.stored_model import read_model
from yinggem.model.config import QUANTIZATIONS
from yinggem.model.quantization import quantization_of
from yinggem.model.weights import GROUP
from yinggem.runs.layout import find_checkpoint


def quantization_parser() -> Parser:
    """The options of `yinggem quantize`."""
    parser = Parser("yinggem quantize", description="Write a quantized checkpoint.", allow_abbrev=False)
    add = parser.add_argument
    add("--checkpoint", metavar="PLACE", help="a file or a run folder; default: the newest run's best, under outputs/")
    add("--output", metavar="FILE", required=True, help="the checkpoint to write")
    add("--quantize", choices=QUANTIZATIONS, default="int8", help="how (default: int8)")
    return parser


def is_quantized(path: str) -> bool:
    """Whether a file is a checkpoint that can be made again, and not one that was trained."""
    try:
        return bool(read_model(path).entry.get("quantization"))
    except UserError:
        return False


def main(arguments: list[str] | None = None) -> None:
    """Load, quantize, save, say how large it is.

    Raises:
        UserError: as `load_model` and `write_checkpoint`; the output is a file that is no quantized checkpoint.
    """
    options = quantization_parser().parse_args(arguments)
    path = find_checkpoint(options.checkpoint)
    if os.path.exists(options.output) and os.path.exists(path) and os.path.samefile(path, options.output):
        raise UserError(f"--output {options.output} is the checkpoint itself, and quantized weights cannot be trained; "
                        "name another file.")  # fmt: skip
    if os.path.isfile(options.output) and not is_quantized(options.output):
        raise UserError(f"--output {options.output} exists already and is no quantized checkpoint; name another file.")
    stored = read_model(path)
    model, tokenizer = load_model(path, quantization=options.quantize, stored=stored)
    kept = {name: stored.entry[name] for name in ("context_length", "data") if name in stored.entry}
    save_model(options.output, model, tokenizer, stored.memory, **kept)
    if quantization_of(model) != options.quantize:
        print(f"No row of its matrices is whole groups of {GROUP} weights, as 4 bits need: all keep 8 bits.")
    if stored.memory:
        print("The training text is in it, compressed, for its memory.")
    before, after = os.path.getsize(path), os.path.getsize(options.output)
    print(f"{options.output}: {after / 1e6:.1f} MB, {path}: {before / 1e6:.1f} MB")
