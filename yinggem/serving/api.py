"""The HTTP interface: OpenAI's completions protocol, and what tells about the server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from yinggem.common.errors import UserError
from yinggem.serving import page, reading
from yinggem.serving.batcher import ClosedError
from yinggem.serving.body import CompletionBody, Limits, RequestError, read_body, read_json
from yinggem.serving.completions import CompletionJob, Inbox
from yinggem.serving.errors import content_of, failed, not_served, response_to, sentence_of
from yinggem.serving.guard import Guard
from yinggem.serving.metrics import Metrics
from yinggem.serving.reading import Readings
from yinggem.serving.served_model import ModelSource, NoModelError, ServedModel
from yinggem.serving.tokenizing import detokenize, tokenize, tokenizer_info

SOON = 0.02  # seconds between two looks at whether the model is open
GONE = 499  # the status of a request whose client went away


@dataclass(frozen=True)
class Service:
    """What answers requests.

    Attributes:
        name: of the model, in the protocol.
    """

    source: ModelSource
    metrics: Metrics
    limits: Limits
    name: str = "yinggem"
    readings: Readings = field(default_factory=Readings)

    async def model(self) -> ServedModel:
        """The one that is served now, once it is open.

        Raises:
            NoModelError: there is none.
        """
        while self.source.is_opening:
            await asyncio.sleep(SOON)
        if self.source.current is None:
            failed = self.source.failure and f"The model cannot be opened: {sentence_of(self.source.failure)}"
            raise NoModelError(failed or "The run has no checkpoint yet; its first validation writes one.")
        return self.source.current


def make_app(
    service: Service, host: str = "127.0.0.1", names: Sequence[str] = (), key: str | None = None,
    origins: Sequence[str] = (),
) -> Starlette:  # fmt: skip
    """The application.

    Args:
        host, names, key: as `Guard`.
        origins: of web pages elsewhere that may ask, "*" for all.
    """
    guards = [Middleware(Guard, host=host, names=names, key=key)]
    if origins:  # before the key is asked for: a browser asks without it whether it may ask
        headers = ["Authorization", "Content-Type"]
        allowed = Middleware(CORSMiddleware, allow_origins=[*origins], allow_methods=["*"], allow_headers=headers)
        guards = [allowed, *guards]
    app = Starlette(
        routes=[
            Route("/health", health), Route("/metrics", metrics), Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model), Route("/v1/completions", completions, methods=["POST"]),
            Route("/tokenizer_info", about_tokenizer), Route("/tokenize", encode, methods=["POST"]),
            Route("/detokenize", decode, methods=["POST"]), *page.routes(), *reading.routes(),
        ],
        middleware=guards,
        exception_handlers={HTTPException: not_served, UserError: failed, Exception: failed},
    )  # fmt: skip
    app.state.service = service
    return app


def service_of(request: Request) -> Service:
    """The service of the application."""
    found: Service = request.app.state.service
    return found


async def health(request: Request) -> Response:
    """Whether there is a model."""
    source = service_of(request).source
    status = "loading" if source.is_opening else "ok" if source.current else "waiting for a checkpoint"
    return JSONResponse({"status": status}, 200 if status == "ok" else 503)


async def metrics(request: Request) -> Response:
    """For Prometheus."""
    service = service_of(request)
    now: dict[str, float] = {"yinggem_models_replaced_total": service.source.replaced}
    if model := service.source.current:
        batcher = model.batcher
        now |= {"yinggem_rows": batcher.count, "yinggem_rows_busy": batcher.busy}
        now |= {"yinggem_requests_waiting": batcher.waiting}
        now |= {"yinggem_model_step": model.step} if isinstance(model.step, int) else {}
    return PlainTextResponse(service.metrics.text(now), media_type="text/plain; version=0.0.4; charset=utf-8")


def model_entry(service: Service) -> dict[str, Any]:
    """The model, as the protocol lists it."""
    created = service.source.current.created if service.source.current else 0
    return {"id": service.name, "object": "model", "created": created, "owned_by": "yinggem"}


async def models(request: Request) -> Response:
    """The list of models, which is one."""
    return JSONResponse({"object": "list", "data": [model_entry(service_of(request))]})


async def one_model(request: Request) -> Response:
    """The model by its name."""
    check_name(service_of(request), request.path_params["name"])
    return JSONResponse(model_entry(service_of(request)))


def check_name(service: Service, name: str | None) -> None:
    """RequestError where another model is asked for."""
    if name not in (None, service.name):
        raise RequestError(
            f"The model {str(name)[:80]!r} is not served here; this one is called {service.name!r}.",
            404, "model", "model_not_found",
        )  # fmt: skip


async def completions(request: Request) -> Response:
    """Continue one or several prompts."""
    service, began, job = service_of(request), time.monotonic(), None
    try:
        content = await read_json(request)
        job, body = await _begun(service, content)
        if body.stream:
            return EventStream(job.events(content_of), partial(_ended, service, job, began))
        response = await _whole(request, job)
    except ClientDisconnect:
        response = Response(status_code=GONE)
    except Exception as error:
        response = response_to(error, asked=job is None)
    service.metrics.count_request(response.status_code, time.monotonic() - began)
    return response


async def _begun(service: Service, content: dict[str, Any]) -> tuple[CompletionJob, CompletionBody]:
    """The job that a request makes, handed to the model."""
    while True:
        model = await service.model()
        body = read_body(content, service.limits, model.tokenizer.name)
        check_name(service, body.model)
        job = await run_in_threadpool(CompletionJob, body, model, service.limits, service.name, Inbox())
        if not job.needs_model:
            job.finish_without_model()
            return job, body
        try:
            model.batcher.submit(job.work)
            return job, body
        except ClosedError:  # a newer checkpoint took its place meanwhile
            continue


async def _whole(request: Request, job: CompletionJob) -> Response:
    """The response once all is made; nothing more is made where the client goes away before."""
    made, left = asyncio.ensure_future(job.whole()), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((made, left), return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(made.result()) if made.done() else Response(status_code=GONE)
    finally:
        job.work.end()
        made.cancel()
        left.cancel()


def _ended(service: Service, job: CompletionJob, began: float) -> None:
    """Nothing more is sent of a job."""
    job.work.end()
    service.metrics.count_request(200 if job.sent else GONE, time.monotonic() - began)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Sends events as they come.

    Args:
        ended: is called at the end, whether all was sent or the client went away.
    """

    def __init__(self, events: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def about_tokenizer(request: Request) -> Response:
    """As vLLM tells it."""
    return JSONResponse(tokenizer_info((await service_of(request).model()).tokenizer))


async def encode(request: Request) -> Response:
    """Text to ids, as vLLM does it."""
    model = await service_of(request).model()
    return JSONResponse(await run_in_threadpool(tokenize, await read_json(request), model.tokenizer))


async def decode(request: Request) -> Response:
    """Ids to text, as vLLM does it."""
    model = await service_of(request).model()
    return JSONResponse(detokenize(await read_json(request), model.tokenizer))
