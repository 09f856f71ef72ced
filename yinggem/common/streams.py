"""The standard streams of a command: any character can be printed, and a closed pipe need not end the work."""

import codecs
import contextlib
import errno
import io
import os
import sys
import time
from typing import Any

GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)  # Windows has another number for it


class LossyOutput(io.RawIOBase):
    """The bytes below a text stream. What cannot be written is dropped, so printing never makes a command fail.

    Args:
        stream: the text stream it replaces; kept, because it would close its file when it is deleted.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._raw = stream, _raw(stream)
        self.name, self.mode = getattr(self._raw, "name", "?"), "wb"

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self._raw.isatty())

    def fileno(self) -> int:
        """The file descriptor, also after its reader has gone."""
        return int(self._raw.fileno())

    def write(self, data: Any) -> int:
        """Write; if that fails, claim that all was written."""
        try:
            while (written := self._raw.write(data)) is None:  # the other side made it non-blocking, and reads slowly
                time.sleep(0.01)
            return int(written)
        except (OSError, ValueError):  # no reader, a full disk; a closed stream
            return len(data)


def make_streams_safe(keep_going: bool = False) -> None:
    """Make stdin, stdout and stderr take any character, also where the shell closed them. Call it once, at the start.

    A terminal, and whoever sets PYTHONIOENCODING, keeps its encoding: what it lacks is written as an escape such as
    \\u2500. Files and pipes get UTF-8, and so does ASCII, which is a part of it.

    Args:
        keep_going: drop what stdout does not take (no reader, a full disk), for a command whose result is not what it
            prints. Otherwise printing raises OSError. What goes to stderr is never a result.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the shell, as with >&-
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process lives
    _reconfigure(sys.stdin, "replace")
    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, "backslashreplace")
    if keep_going:
        sys.stdout = _lossy(sys.stdout)
    sys.stderr = _lossy(sys.stderr)


def discard_output() -> None:
    """Drop what stdout still buffers: Python would try to write it at exit, and complain."""
    with contextlib.suppress(OSError, ValueError):  # not a real file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reader_is_gone(error: OSError) -> bool:
    """Whether a write failed because its reader has gone, as with `| head`."""
    return error.errno in GONE and error.filename is None


def _reconfigure(stream: Any, errors: str) -> None:
    if not hasattr(stream, "reconfigure"):  # a notebook's, or a test's: its own matter
        return
    chosen = stream.isatty() or bool(os.environ.get("PYTHONIOENCODING"))
    keeps = chosen and codecs.lookup(stream.encoding).name != "ascii"
    stream.reconfigure(encoding=stream.encoding if keeps else "utf-8", errors=errors)


def _raw(stream: Any) -> Any:
    """The unbuffered file below a text stream; None where there is none. With `python -u` no buffer is between."""
    buffer = getattr(stream, "buffer", None)
    return buffer if isinstance(buffer, io.RawIOBase) else getattr(buffer, "raw", None)


def _lossy(stream: Any) -> Any:
    """The same stream over `LossyOutput`; itself where there is no file below, or it is lossy already."""
    if isinstance(_raw(stream), LossyOutput | None):
        return stream
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    # A stream of `python -u` writes through to no buffer; there is one now, which is flushed at the end of a line.
    return io.TextIOWrapper(
        io.BufferedWriter(LossyOutput(stream)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )
