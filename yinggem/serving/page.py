"""The page at /: its files, and what they ask beside completions."""

from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from yinggem.serving.body import Limits
from yinggem.serving.page_facts import STATIC, model_facts, run_facts, sliders
from yinggem.serving.served_model import ModelSource, ServedModel

KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# Nothing comes from elsewhere, nothing in the document runs or styles it, and no other page shows it in a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def files() -> dict[str, Path]:
    """Under which path which file is."""
    found = {f"/{path.name}": path for path in sorted(STATIC.iterdir()) if path.suffix in KINDS}
    return found | {"/": found.pop("/index.html")}


def routes() -> list[Route]:
    """The paths of the page."""
    return [*(Route(path, show) for path in files()), Route("/settings", settings), Route("/run", run)]


async def show(request: Request) -> Response:
    """A file of the page."""
    path = files()[request.url.path]
    return Response(path.read_bytes(), media_type=KINDS[path.suffix], headers=HEADERS)


async def settings(request: Request) -> Response:
    """What can be set, and within which bounds."""
    service = request.app.state.service
    model: ServedModel = await service.model()
    limits: Limits = service.limits
    found = sliders(model.tokenizer.name, model.memory is not None, limits.max_tokens)
    return JSONResponse({"sliders": found, "characters": 8 * limits.prompt_tokens})


async def run(request: Request) -> Response:
    """The curve and the settings of the run, and which model is served."""
    service = request.app.state.service
    return JSONResponse(await run_in_threadpool(run_of, service.source, service.name))


def run_of(source: ModelSource, name: str) -> dict[str, Any]:
    """What the page shows of a run."""
    told, model = run_facts(source.run, name), source.current
    return told if model is None else told | model_facts(model.config, model.tokenizer, model.step, model.about)
