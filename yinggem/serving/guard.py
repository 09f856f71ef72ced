"""Who may ask: the Host header, the key, and what other web pages must not do. It stands before everything else."""

import ipaddress
import secrets
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from yinggem.serving.errors import error_response
from yinggem.serving.page import files
from yinggem.serving.reading import PLACE

LOCAL = ("localhost", "127.0.0.1", "::1")
OPEN = ("/health", *files())  # without a key: they tell nothing of the model
# So are pages that were made of a text: a browser opens them as a link, and their names are known to who asked alone.


class Guard:
    """Passes on what may pass.

    A web page can let its own name point to this machine (DNS rebinding); then its requests have its name in the Host
    header. So names are known or refused, while an address cannot be pretended.

    Args:
        host: where the server listens.
        names: others that it is called by.
        key: what `Authorization: Bearer` has to hold; None: nothing.
    """

    def __init__(self, app: ASGIApp, host: str, names: Collection[str] = (), key: str | None = None) -> None:
        self.app, self.key = app, key
        self.names = {name.lower() for name in (*LOCAL, host, *names)}
        self.addresses = host not in LOCAL  # it is reached by an address of this machine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        refused = (
            self.refusal(Headers(scope=scope), scope["method"], scope["path"]) if scope["type"] == "http" else None
        )
        await (refused or self.app)(scope, receive, send)

    def refusal(self, headers: Headers, method: str, path: str) -> Response | None:
        """What is sent back in place of an answer."""
        name = host_name(headers.get("host", ""))
        if not (name in self.names or (self.addresses and is_address(name))):
            return error_response(
                403, f"This server is not called {name[:80]!r}; start it with --allow-host to say so."
            )
        is_open = path in OPEN or path.startswith(PLACE)
        if self.key and not is_open and method != "OPTIONS":
            given = headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
            if not secrets.compare_digest(given, self.key.encode()):
                return error_response(401, "The API key is missing or wrong.", code="invalid_api_key")
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return error_response(415, "POST needs Content-Type: application/json.")
        return None


def host_name(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower().rstrip(".")


def is_address(name: str) -> bool:
    """Whether it is a number and no name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
