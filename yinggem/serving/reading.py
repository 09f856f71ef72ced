"""How the model reads a text: the self-contained pages of attention and of surprise, made when they are asked for."""

import asyncio
import secrets
from collections.abc import Callable

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from yinggem.common.errors import UserError
from yinggem.inference.completion import prompt_ids
from yinggem.serving.batcher import FullError
from yinggem.serving.body import RequestError, read_json
from yinggem.serving.served_model import ServedModel

PLACE = "/reading/"
KEPT = 16  # pages; a few MB each
# The page's own policy says what runs in it; no other page shows it in a frame.
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Readings:
    """The last pages that were made, under names that cannot be guessed: a browser opens them without the key."""

    def __init__(self) -> None:
        self.making, self._pages = asyncio.Lock(), dict[str, str]()  # one at a time: each loads the weights into torch

    def keep(self, page: str) -> str:
        """The name of a page."""
        name = secrets.token_urlsafe(24)
        self._pages[name] = page
        while len(self._pages) > KEPT:
            del self._pages[next(iter(self._pages))]
        return name

    def get(self, name: str) -> str | None:
        """The page, if it is still there."""
        return self._pages.get(name)


def attention(model: ServedModel, text: str) -> str:
    """The page of attention maps."""
    from yinggem.inference.checkpoint import load_model  # torch: no other request needs it
    from yinggem.inference.pages.attention_page import attention_maps, attention_page, check_length

    ids = prompt_ids(model.tokenizer, text)
    check_length(len(ids))
    network, tokenizer = load_model(model.path, quantization=model.quantization)
    return attention_page(f"How {model.path.name} reads", attention_maps(network, ids), tokenizer, ids)


def surprise(model: ServedModel, text: str) -> str:
    """The page of surprise per token, as `yinggem evaluate --html` writes it."""
    from yinggem.inference.language_model import LanguageModel
    from yinggem.inference.pages.surprise_page import page_of_ids

    ids = np.array(prompt_ids(model.tokenizer, text), np.int64)
    language_model = LanguageModel.from_checkpoint(model.path, "cpu", model.quantization)
    return page_of_ids(f"How {model.path.name} reads", language_model, ids)


PAGES: dict[str, Callable[[ServedModel, str], str]] = {"attention": attention, "surprise": surprise}


def routes() -> list[Route]:
    """The paths."""
    return [Route(PLACE[:-1], make, methods=["POST"]), Route(PLACE + "{name}", show)]


async def make(request: Request) -> Response:
    """Make a page of the text under "prompt", and tell its path."""
    service, content = request.app.state.service, await read_json(request)
    text, kind = content.get("prompt"), content.get("page", "attention")
    if not (isinstance(text, str) and text):
        raise UserError("prompt must be a text that is not empty.")
    if not (isinstance(kind, str) and kind in PAGES):
        raise UserError(f"page must be {' or '.join(PAGES)}, not {str(kind)[:40]!r}.")
    model, readings = await service.model(), service.readings
    if readings.making.locked():
        raise FullError("Another page is being made; try again in a moment.")
    async with readings.making:
        page = await run_in_threadpool(PAGES[kind], model, text)
    return JSONResponse({"path": PLACE + readings.keep(page)}, 201)


async def show(request: Request) -> Response:
    """A page that was made."""
    page = request.app.state.service.readings.get(request.path_params["name"])
    if page is None:
        raise RequestError("This page is no longer kept; ask for it anew.", 404)
    return Response(page, media_type="text/html", headers=HEADERS)
