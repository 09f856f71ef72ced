"""Write a model for other software: yinggem export --format hf DIR"""

import os
import sys
from pathlib import Path

from yinggem.common.command_line import Parser
from yinggem.common.errors import UserError
from yinggem.export.folder import clean_leftovers
from yinggem.export.formats import FORMATS
from yinggem.export.source import read_source
from yinggem.runs.layout import find_model


def export_parser() -> Parser:
    """The options of `yinggem export`."""
    parser = Parser("yinggem export", description="Write a model for other software.", allow_abbrev=False)
    add = parser.add_argument
    add("output", metavar="OUTPUT", help="the file or folder to write")
    formats = "; ".join(f"{name}: {one.reader}" for name, one in FORMATS.items())
    add("--format", choices=FORMATS, required=True, help=f"what will read it ({formats})")
    add(
        "--checkpoint",
        metavar="PLACE",
        help="a file, a run folder, or starter; default: the newest run's best, under outputs/",
    )
    add("--with-memory", action="store_true", help="keep the memory, and with it the training text")
    add("--license", default="unknown", metavar="NAME", help="licence of the weights, for the model card of hf")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Load, export, say how large it is and what it holds.

    Raises:
        UserError: the format cannot express the model; as `read_source`; the system refuses.
    """
    options = export_parser().parse_args(arguments)
    wanted, output = FORMATS[options.format], Path(options.output)
    path, said = find_model(options.checkpoint)
    if said:
        print(f"note: {said}", file=sys.stderr)
    if os.path.exists(output) and os.path.exists(path) and os.path.samefile(path, output):
        raise UserError(f"{output} is the checkpoint itself; name another file.")
    if options.with_memory and not wanted.holds_memory:
        able = " or ".join(name for name, one in FORMATS.items() if one.holds_memory)
        raise UserError(f"--format {options.format} has no place for a memory; leave --with-memory out, or use {able}.")
    source, left_memory = read_source(path, options.with_memory, options.license)
    wanted.export(source, output)
    clean_leftovers(output)
    if source.memory:
        print("The training text is in it, compressed, for its memory. Share it only if you may share the text.")
    elif left_memory:
        kept = ", or use --with-memory" if wanted.holds_memory else ""
        print(f"The memory was left out, for it holds the training text: the network is alone there{kept}.")
    print(f"{output}: {size_of(output) / 1e6:.1f} MB, {path}: {size_of(path) / 1e6:.1f} MB")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())
