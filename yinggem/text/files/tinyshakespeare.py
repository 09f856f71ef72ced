"""Tiny Shakespeare, the text of published figures: the user's file, a cached copy, or a download."""

import hashlib
import http.client
import urllib.request
from pathlib import Path

from yinggem.common.cache_folder import cached_file
from yinggem.common.errors import UserError
from yinggem.text.files.text_files import find_text_files, sha256_of

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "3037b8d446d3abf01b1e322fdc0d701e49a8408140fd77212ea69cbe106e536a"
BYTES = 1_115_394


def find_tinyshakespeare(path: str | Path | None, cache_dir: Path) -> Path:
    """The file at `path`, else the copy in `cache_dir`, else a download into it; its SHA-256 is always verified.

    Raises:
        UserError: the file holds something else; there is none, and it cannot be downloaded.
    """
    if path is not None:
        file = next(iter(find_text_files(path)))
        if sha256_of(file) != SHA256:
            raise UserError(f"{file} is not tiny Shakespeare (its SHA-256 differs); use data=text for other texts.")
        return file

    def verified(cached: Path) -> Path | None:
        return cached if cached.is_file() and sha256_of(cached) == SHA256 else None

    return cached_file(cache_dir / "tinyshakespeare.txt", lambda file: file.write(_download()), verified)


def _download() -> bytes:
    remedy = "fetch it elsewhere and set data.path=FILE, or use data=shakespeare, which ships with the package"
    try:
        with urllib.request.urlopen(URL, timeout=30) as response:
            content: bytes = response.read(BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"Cannot download tiny Shakespeare from {URL} ({error}); {remedy}.") from None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{URL} does not hold tiny Shakespeare; {remedy}.")
    return content
