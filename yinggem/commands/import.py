"""Make a checkpoint of a folder that transformers loads: yinggem import DIR"""

import os
from pathlib import Path

from yinggem.common.command_line import Parser
from yinggem.common.errors import UserError
from yinggem.common.program import typed
from yinggem.export.hf_import import read_folder
from yinggem.inference.checkpoint import save_model


def import_parser() -> Parser:
    """The options of `yinggem import`."""
    parser = Parser("yinggem import", description="Make a checkpoint of a transformers folder.", allow_abbrev=False)
    add = parser.add_argument
    add("folder", metavar="DIR", help="with config.json, model.safetensors and tokenizer.json")
    add("--output", metavar="FILE", help="the checkpoint to write (default: DIR.ckpt, in the current folder)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Read, save, say what it is.

    Raises:
        UserError: as `read_folder` and `save_model`; the output exists.
    """
    options = import_parser().parse_args(arguments)
    folder = Path(options.folder)
    output = Path(options.output or f"{folder.resolve().name}.ckpt")
    if os.path.lexists(output):
        raise UserError(f"{output} exists already; name another file with --output.")
    model, tokenizer, about = read_folder(folder)
    save_model(output, model, tokenizer, **about)
    print(f"{output}: {model.parameters_count:,} parameters, tokenizer {tokenizer.name}")
    print(f"  {typed('generate')} --checkpoint {output}")
