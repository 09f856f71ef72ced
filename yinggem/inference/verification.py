"""Whether the file of a checkpoint is whole and holds plain data alone: checked without torch, before it loads."""

import os
import pickletools
import re
import zipfile
from pathlib import Path

from yinggem.common.errors import UserError

# What plain data and tensors need. weights_only allows more, such as torch.FloatTensor(10**12), which takes terabytes.
PLAIN = re.compile(
    r"collections (OrderedDict|Counter)|_codecs encode|builtins (set|complex)|torch (Size|device|\w+Storage)"
    r"|torch (bool|uint\d+|int\d+|float\d+|bfloat16|complex\d+)|torch\._utils _rebuild_(tensor_v2|parameter)"
)
MAX_PICKLE = 1 << 28  # bytes of structure, tensors apart


def refusal(path: str | Path, reason: str) -> UserError:
    """The error that a checkpoint is not used because it `reason`, such as "is damaged"."""
    return UserError(f"The checkpoint {path} {reason}; use another one, such as a last.ckpt that train.py wrote.")


def verify(path: str | Path) -> None:
    """Check the archive before torch opens it; torch.load compares no checksum. 540 MB take 0.25 s.

    Raises:
        UserError: the file cannot be read, is damaged, or holds more than plain data and tensors.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(0, "not a file")
        with open(path, "rb") as file:
            size, magic = os.fstat(file.fileno()).st_size, file.read(2)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot read the checkpoint {path} ({reason}); name a file that train.py wrote.") from None
    if magic != b"PK" and not zipfile.is_zipfile(path):
        raise refusal(path, "is empty" if not size else "is not a file of torch.save")
    try:
        with zipfile.ZipFile(path) as archive:
            _verify_entries(path, archive, size)
    except UserError:
        raise
    except Exception:  # zipfile raises half a dozen kinds on damaged headers
        raise refusal(path, "is damaged or cut short") from None


def _verify_entries(path: str | Path, archive: zipfile.ZipFile, size: int) -> None:
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > size or any(entry.compress_type for entry in entries):
        raise refusal(path, "is damaged or claims more than it holds")
    for entry in entries:
        with archive.open(entry) as file:
            while file.read(1 << 20):  # zipfile compares the checksum at the end
                pass
    structure = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(structure) != 1 or structure[0].file_size > MAX_PICKLE:
        raise refusal(path, "is not a file of torch.save")
    for opcode, name, _ in pickletools.genops(archive.read(structure[0])):
        if "GLOBAL" in opcode.name and not PLAIN.fullmatch(str(name)):
            thing = str(name)[:80].replace(" ", ".")
            raise refusal(path, f"was refused because it holds {thing!r}, which is not plain data and could run code")
