"""What a client asks for: the body of a request to /v1/completions, checked."""

import difflib
import json
from dataclasses import dataclass, field, fields
from typing import Any

from starlette.requests import Request

from yinggem.common.checks import check_whole_number
from yinggem.common.errors import UserError
from yinggem.inference.sampling import Sampling, sampling_for

MOST_BYTES = 1 << 24  # of a request
MOST_LOGPROBS = 20
MOST_SAMPLES = 1024  # of one request, over all its prompts
MOST_STOPS = 64
SAMPLING = tuple(one.name for one in fields(Sampling))
IGNORED = ("user",)  # means nothing here, whatever it is
# Fields of the protocol that this server has no use for, with the values that ask for nothing.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},), "presence_penalty": (0,), "frequency_penalty": (0,), "suffix": ("",),
}  # fmt: skip


class RequestError(UserError):
    """A request that is refused with another status than 400, or for a field that the sentence does not begin with."""

    def __init__(self, sentence: str, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(sentence)
        self.status, self.param, self.code = status, param, code


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        prompt_tokens: of each prompt.
        max_tokens: of each sample.
        seconds: that it may take.
    """

    prompt_tokens: int = 65536
    max_tokens: int = 16384
    seconds: float = 600.0


@dataclass(frozen=True)
class CompletionBody:
    """A request for completions.

    Attributes:
        prompts: each a text or ids.
        seed: None: any.
    """

    prompts: list[str | list[int]]
    sampling: Sampling
    model: str | None = None
    max_tokens: int = 16
    n: int = 1
    best_of: int = 1
    stops: list[str] = field(default_factory=list)
    seed: int | None = None
    logprobs: int | None = None
    echo: bool = False
    stream: bool = False
    include_usage: bool = False
    ignore_end: bool = False
    memory: float | None = None
    max_copy: int | str | None = None
    generated: list[tuple[int, int]] = field(default_factory=list)


# The fields that are read, beside those of `Sampling`.
READ = ("prompt", "model", "max_tokens", "n", "best_of", "stop", "seed", "logprobs", "echo", "stream",
        "stream_options", "ignore_end", "memory", "max_copy", "generated")  # fmt: skip


async def read_json(request: Request) -> dict[str, Any]:
    """The object in a request's body.

    Raises:
        UserError: there is something else, or too much.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise RequestError(f"The request is longer than {MOST_BYTES >> 20} MB; send less at once.", 413)
        parts.append(part)
    try:
        content = json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise UserError(f"The request is not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise UserError("The request must be a JSON object.")
    return content


def read_body(content: dict[str, Any], limits: Limits, tokenizer_name: str) -> CompletionBody:
    """The request that a JSON object makes; null means what leaving a field out means.

    Raises:
        UserError: a field is unknown, of a wrong type or out of range.
    """
    _check_known(content)
    given = {name: value for name, value in content.items() if value is not None}
    for name, high in (("n", 128), ("best_of", 128), ("max_tokens", limits.max_tokens), ("logprobs", MOST_LOGPROBS)):
        check_whole_number(name, given.get(name), int(name in ("n", "best_of")), high, optional=True)
    check_whole_number("seed", given.get("seed"), -(1 << 63), (1 << 63) - 1, optional=True)
    for name, kind in (("echo", bool), ("stream", bool), ("ignore_end", bool), ("model", str)):
        if not isinstance(given.get(name, kind()), kind):
            wanted = "true or false" if kind is bool else "a text"
            raise UserError(f"{name} must be {wanted}, not {_shown(given[name])}.")
    n = given.get("n", 1)
    best_of, stream = given.get("best_of", n), given.get("stream", False)
    generated = _stretches(given.get("generated", []))
    prompts = _prompts(given.get("prompt", ""))
    if best_of < n:
        raise UserError(f"best_of must be at least n, which is {n}, not {best_of}.")
    if stream and best_of > n:
        raise UserError("best_of needs whole texts to compare; leave it out, or leave out stream.")
    if len(prompts) * best_of > MOST_SAMPLES:
        raise UserError(
            f"n makes {len(prompts) * best_of} samples of these prompts; ask for at most {MOST_SAMPLES} at once."
        )
    if generated and (len(prompts) > 1 or not isinstance(prompts[0], str)):
        raise UserError("generated needs one prompt, a text; send others on their own.")
    return CompletionBody(
        prompts, _sampling(given, tokenizer_name), given.get("model"), given.get("max_tokens", 16), n, best_of,
        _stops(given.get("stop", [])), given.get("seed"), given.get("logprobs"), given.get("echo", False), stream,
        _include_usage(given.get("stream_options", {})), given.get("ignore_end", False),
        given.get("memory"), given.get("max_copy"), generated,
    )  # fmt: skip


def _check_known(content: dict[str, Any]) -> None:
    for name, value in content.items():
        if name in HARMLESS:
            if value is not None and not any(type(value) is not bool and value == one for one in HARMLESS[name]):
                raise UserError(f"{name} is not known here, other than {HARMLESS[name][0]!r}; leave it out.")
        elif value is not None and name not in (*READ, *SAMPLING, *IGNORED):
            near = difflib.get_close_matches(name, (*READ, *SAMPLING), n=1)
            hint = f"did you mean {near[0]}?" if near else "leave it out."
            raise RequestError(f"There is no field {name[:40]!r}; {hint}", param=name[:40])


def _sampling(given: dict[str, Any], tokenizer_name: str) -> Sampling:
    return sampling_for(tokenizer_name, **{name: given[name] for name in SAMPLING if name in given})


def _prompts(value: Any) -> list[str | list[int]]:
    """A text, texts, ids, or lists of ids, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(type(one) is int for one in value):
            return [value]
        if all(isinstance(one, str) for one in value):
            return [*value]
        if all(isinstance(one, list) and one and all(type(token) is int for token in one) for one in value):
            return [*value]
    raise UserError(
        f"prompt must be a text, texts, ids, or lists of ids, of which no list is empty, not {_shown(value)}."
    )


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not (
        isinstance(stops, list) and len(stops) <= MOST_STOPS and all(isinstance(one, str) and one for one in stops)
    ):
        raise UserError(f"stop must be a text, or up to {MOST_STOPS}, none empty, not {_shown(value)}.")
    return stops


def _include_usage(value: Any) -> bool:
    if isinstance(value, dict):
        include = value.get("include_usage")
        if include is None or isinstance(include, bool):
            return bool(include)
    raise UserError(f'stream_options must be an object such as {{"include_usage": true}}, not {_shown(value)}.')


def _stretches(value: Any) -> list[tuple[int, int]]:
    """Pairs; whether they are stretches of the prompt is checked where it is read."""
    if isinstance(value, list) and all(
        isinstance(one, list) and len(one) == 2 and all(type(place) is int for place in one) for one in value
    ):
        return [(first, last) for first, last in value]
    raise UserError(f"generated must be a list of [from, to] in characters, not {_shown(value)}.")


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
