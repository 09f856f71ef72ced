"""Data that ships with the package: the complete works of Shakespeare, the GPT-2 vocabulary, and a small model.

`make_assets.py` beside this file made the first two and names their sources; benchmarks/starter.py made the model.
"""

import hashlib
import lzma
from pathlib import Path

from yinggem.common.errors import UserError

SHAKESPEARE = "shakespeare.txt.xz"
GPT2_RANKS = "gpt2.tiktoken.xz"
STARTER = "starter.ckpt"

# SHA-256 of the uncompressed content. The second is the hash tiktoken itself names for r50k_base.tiktoken.
SHA256 = {
    SHAKESPEARE: "952a44d889de240b525e2d19af11d52e77d2d82e7b84ebeb3912f4d0b31843d2",
    GPT2_RANKS: "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    STARTER: "63b972257e3e38d2e16b372888410500d85d6a63205b2e13a7d732f3de41dbb9",
}
MAX_BYTES = 16 << 20  # both are far smaller; a swapped file must not unpack to gigabytes


def read_asset(name: str) -> bytes:
    """The uncompressed content of the shipped file `name`, verified; UserError when it is missing or damaged."""
    path = Path(__file__).with_name(name)
    try:
        with lzma.open(path) as file:
            content = file.read(MAX_BYTES)
    except (OSError, EOFError, lzma.LZMAError):
        content = b""
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise UserError(f"The shipped file {path} is missing or damaged; reinstall the yinggem package.")
    return content


def verified_asset(name: str) -> Path:
    """The path of the shipped file `name`, which is read where it lies; UserError when it is missing or damaged."""
    path = Path(__file__).with_name(name)
    try:
        intact = hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[name]
    except OSError:
        intact = False
    if not intact:
        raise UserError(f"The shipped file {path} is missing or damaged; reinstall the yinggem package.")
    return path
