"""Errors as OpenAI's clients expect them."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from yinggem.common.errors import UserError
from yinggem.common.explain import in_short
from yinggem.serving.batcher import FullError, TimeLimitError
from yinggem.serving.body import HARMLESS, READ, SAMPLING, RequestError
from yinggem.serving.served_model import NoModelError

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
STATUS: dict[type[Exception], int] = {FullError: 429, TimeLimitError: 503, NoModelError: 503, UserError: 400}


def error_content(status: int, sentence: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """What is under "error"."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"message": sentence, "type": kind, "param": param, "code": code}


def error_response(
    status: int, sentence: str, param: str | None = None, code: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """A response that says what is wrong."""
    return JSONResponse({"error": error_content(status, sentence, param, code)}, status, headers)


def response_to(error: Exception, asked: bool = True) -> Response:
    """The response to an error.

    Args:
        asked: whether a UserError is about what was asked for, and not about the model.
    """
    status = status_of(error, asked)
    headers = {"Retry-After": "1"} if status == 429 or isinstance(error, NoModelError) else {}
    if isinstance(error, TimeLimitError):
        headers["x-should-retry"] = "false"  # the clients of OpenAI would wait as long once more
    return error_response(status, sentence_of(error), *_details(error), headers=headers)


def content_of(error: Exception) -> dict[str, Any]:
    """What is sent of an error behind the beginning of a response."""
    return error_content(status_of(error, asked=False), sentence_of(error), *_details(error))


def status_of(error: Exception, asked: bool) -> int:
    """The status of the response to an error."""
    if isinstance(error, RequestError):
        return error.status
    found = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    return found if found != 400 or asked else 500


def sentence_of(error: Exception) -> str:
    """What a client is told."""
    return str(error) if isinstance(error, UserError) else in_short(error)


def _details(error: Exception) -> tuple[str | None, str | None]:
    """The field that is at fault, with which its sentence begins, and the code."""
    if isinstance(error, RequestError) and (error.param or error.code):
        return error.param, error.code
    first = str(error).partition(" ")[0].partition("=")[0]
    return (first if first in (*READ, *SAMPLING, *HARMLESS) else None), None


async def not_served(request: Request, error: Exception) -> Response:
    """The handler of paths and methods that there are not."""
    assert isinstance(error, HTTPException)
    sentence = f"{request.method} {request.url.path} is not served here; GET / shows a page, /v1/models the model."
    return error_response(error.status_code, sentence, headers=dict(error.headers or {}))


async def failed(request: Request, error: Exception) -> Response:
    """The handler of all other errors."""
    return response_to(error)
