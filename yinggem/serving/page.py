"""The page at /: its files, and what it has to know of the settings and of the run."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from yinggem.common.errors import UserError
from yinggem.inference.memory_step import MOST_SHARE
from yinggem.inference.sampling import Sampling, default_repetition_penalty
from yinggem.runs.layout import METRICS
from yinggem.runs.metrics_file import STEP, read_metrics
from yinggem.runs.record import read_overrides
from yinggem.serving.body import Limits
from yinggem.serving.served_model import ModelSource, ServedModel

STATIC = Path(__file__).parent / "static"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# Nothing comes from elsewhere, nothing in the document runs or styles it, and no other page shows it in a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# From, to and step of the sliders; a number beyond them can be typed. A filter that is not named goes from 0 to 1.
SLIDERS = {
    "temperature": (0, 2, 0.05), "top_k": (0, 200, 1), "repetition_penalty": (1, 2, 0.05),
    "repetition_window": (0, 1000, 10), "no_repeat_ngram_size": (0, 10, 1),
}  # fmt: skip
CURVES = ("train/loss", "val/loss", "val/bits_per_byte")
MOST_POINTS = 400  # of a curve


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
    return JSONResponse(settings_of(await service.model(), service.limits))


def settings_of(model: ServedModel, limits: Limits) -> dict[str, Any]:
    """The sliders, the fields of `Sampling` first."""
    sliders = []
    for one in fields(Sampling):
        low, high, step = SLIDERS.get(one.name, (0, 1, 0.01))
        off = one.metadata["off"]
        value: Any = (
            default_repetition_penalty(model.tokenizer.name) if one.name == "repetition_penalty" else one.default
        )
        start = (off[-1] if off else high) if value is None else value
        sliders.append(_slider(one.name, one.metadata["help"].replace("... ", "draw "), low, high, step, start))
    if model.memory is not None:
        meaning = "how much what counting knows of the training text is believed; 0 is the network alone"
        sliders.append(_slider("memory", meaning, 0, MOST_SHARE, 0.05, 1))
        sliders.append(
            _slider("max_copy", "repeat at most N words of the training text in a row; 0 is off", 0, 40, 1, 0)
        )
    sliders.append(_slider("max_tokens", "how long a continuation is", 1, min(500, limits.max_tokens), 1, 60))
    return {"sliders": sliders, "characters": 8 * limits.prompt_tokens}


def _slider(name: str, meaning: str, low: float, high: float, step: float, value: float) -> dict[str, Any]:
    return {"name": name, "meaning": meaning, "low": low, "high": high, "step": step, "value": value}


async def run(request: Request) -> Response:
    """The curve and the settings of the run, and which model is served."""
    service = request.app.state.service
    return JSONResponse(await run_in_threadpool(run_of, service.source, service.name))


def run_of(source: ModelSource, name: str) -> dict[str, Any]:
    """What the page shows of a run; of a checkpoint that lies elsewhere there is no curve."""
    folder, model = source.run, source.current
    rows = read_metrics(folder / METRICS) if folder else []
    try:
        words = read_overrides(folder) if folder else []
    except UserError:
        words = []
    told: dict[str, Any] = {"name": name, "settings": words, "curves": {one: _points(rows, one) for one in CURVES}}
    if model is not None:
        told |= {"step": model.step, "engine": model.about, "parameters": model.config.parameters}
        told |= {"tokenizer": model.tokenizer.name, "vocabulary": model.tokenizer.vocab_size}
    return told


def _points(rows: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    points = [(row[STEP], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    return points[:: math.ceil(len(points) / MOST_POINTS) or 1]
