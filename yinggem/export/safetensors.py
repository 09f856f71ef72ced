"""--format safetensors: a checkpoint of the weights alone, without a pickle, which generate.py reads like any other."""

from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.common.files import check_file_replaceable
from yinggem.export.source import Source
from yinggem.inference.checkpoint import save_model
from yinggem.inference.files.safetensors_file import SUFFIX


def export(source: Source, output: Path) -> None:
    """Write the file; UserError where its name does not end as such names do."""
    if output.suffix != SUFFIX:
        raise UserError(f"{output} must end in {SUFFIX}; write {output.with_suffix(SUFFIX)}.")
    check_file_replaceable(output, b"yinggem", "yinggem export")
    save_model(output, source.model, source.tokenizer, source.memory, **source.about_text)
