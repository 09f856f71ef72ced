"""--format html: one file with the page of `yinggem serve`, the model in 8 bits, and the engine as WebAssembly.

It opens from a disk and asks nothing of any network; its Content-Security-Policy allows no other script than its own.
Names, prompts and tokens are inside the compressed model alone: no character of them stands in the document.
"""

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from yinggem.common.errors import UserError
from yinggem.common.files import check_file_replaceable, write_atomically
from yinggem.engine.engine import ACTIVATIONS, NORMS, OPTIONS
from yinggem.export.html.bundle import bundle
from yinggem.export.html.contents import contents
from yinggem.export.source import Source, cannot_express
from yinggem.inference.pages.self_contained import MARK, digest
from yinggem.serving.page_facts import STATIC

SUFFIX = ".html"
OWN = Path(__file__).parent / "static"
MOST_PARAMETERS = 200_000_000  # a browser keeps the whole file in memory
PART = 3 << 20  # bytes of a part of the model; in base64 a third more
STYLE, SCRIPT = '<link rel="stylesheet" href="/page.css">', '<script type="module" src="/page.js"></script>'


def export(source: Source, output: Path) -> None:
    """Write the file.

    Raises:
        UserError: its name does not end as such names do; the model is too large, or one that the engine cannot run.
    """
    config = source.config
    if output.suffix != SUFFIX:
        raise UserError(f"{output} must end in {SUFFIX}; write {output.with_suffix(SUFFIX)}.")
    source.require_settings("html", OPTIONS, "--format hf or safetensors")
    for name, known in (("activation", ACTIVATIONS), ("norm", NORMS)):
        if getattr(config, name) not in known:
            raise cannot_express("html", f"model.{name}={getattr(config, name)}", "--format hf or safetensors")
    if config.parameters > MOST_PARAMETERS:
        raise UserError(
            f"{source.path} has {config.parameters / 1e6:.0f} million parameters, and --format html takes up to "
            f"{MOST_PARAMETERS / 1e6:.0f} million; use --format onnx or hf, or `yinggem serve`."
        )
    check_file_replaceable(output, MARK, "yinggem export")
    write_atomically(output, lambda file: _write(source, file))


def _write(source: Source, file: BinaryIO) -> None:
    stream = contents(source)
    begin = next(stream) + next(stream)  # what the model is called, and its first weights: enough to tell it apart
    head, tail = document(hashlib.sha256(begin).hexdigest()[:16])
    file.write(head.encode())
    for part in compressed(chain([begin], stream)):
        file.write(b'<script type="text/plain" class="part">' + b64encode(part) + b"</script>\n")
    file.write(tail.encode())


def document(mark: str) -> tuple[str, str]:
    """What stands before the parts of the model, and behind them.

    Args:
        mark: one word that tells this model from others.
    """
    page, worker = bundle("/page.js", scripts()), bundle("/worker.js", scripts())
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {digest(page)} 'wasm-unsafe-eval'; style-src {digest(style)}; "
        "worker-src blob:; base-uri 'none'; form-action 'none'"
    )
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    text = text.replace('<html lang="en">', f'<html lang="en" data-model="{mark}">')
    allowed = f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">'
    text = text.replace('<meta charset="utf-8">', allowed)
    text = text.replace(STYLE, f"<style>{style}</style>").replace(f"{SCRIPT}\n", "")
    head, end, tail = text.partition("</body>")
    head += f'<script>{page}</script>\n<script type="text/plain" id="worker">{worker}</script>\n'
    return head, end + tail


def scripts() -> dict[str, str]:
    """The modules of the page and of its worker by their paths; what is here stands for what is there."""
    found = [*STATIC.glob("*.js"), *OWN.glob("*.js")]
    return {f"/{path.name}": path.read_text(encoding="utf-8") for path in found}


def compressed(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The stream deflated, in parts of PART bytes."""
    packer, held = zlib.compressobj(), bytearray()
    for piece in chain(stream, [b""]):
        held += packer.compress(piece) if piece else packer.flush()
        while len(held) >= PART:
            yield bytes(held[:PART])
            del held[:PART]
    if held:
        yield bytes(held)
