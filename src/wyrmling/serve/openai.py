"""The wire contract: the requests of the OpenAI API that are honoured, and its error bodies.

A request key is honoured, accepted because it can't change an answer here, or refused with 400 `unsupported_parameter`.
None is ignored in silence. The shapes of the answers are in `responses.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json, to_json

# A request that asks for more answers than this to one prompt is refused; OpenAI's own limit.
MAX_CHOICES = 128
# Inputs of one classification or tagging request.
MAX_INPUTS = 2048


class ApiError(Exception):
    """An answer that is an error: an HTTP status and the error body of the OpenAI API."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.kind = status, message, code, param, kind
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def json_bytes(self) -> bytes:
        return to_json(self.body())


def unsupported(param: str, why: str = "is not supported") -> ApiError:
    return ApiError(400, f"{param} {why}", code="unsupported_parameter", param=param)


def model_not_found(model: str) -> ApiError:
    # The name may be anything the client sent: it is cut, so that an error can't be grown by a request.
    return ApiError(
        404, f"the model {model[:100]!r} does not exist; see GET /v1/models", code="model_not_found", param="model"
    )


def too_long(tokens: int, context: int, param: str) -> ApiError:
    return ApiError(
        400,
        f"this input has {tokens} tokens, but the model reads at most {context}, the answer included; shorten it",
        code="context_length_exceeded",
        param=param,
    )


def overloaded(message: str, *, retry_after_seconds: int) -> ApiError:
    return ApiError(
        503,
        message,
        code="engine_overloaded",
        kind="server_error",
        headers={"retry-after": str(retry_after_seconds)},
    )


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StreamOptions(Wire):
    include_usage: bool = False
    # Padding against traffic analysis; the client may ask for it or not, we never pad.
    include_obfuscation: bool | None = None


class Harmless(Wire):
    """Keys that are accepted because they can't change an answer here. `user` is kept as a pseudonym."""

    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None

    @property
    def end_user(self) -> str | None:
        """Who asks, by the caller's name for them; `safety_identifier` is the newer word for it."""
        return self.user or self.safety_identifier or None


class Generation(Harmless):
    """What completions and chat completions have in common. None means the default of the API."""

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    # Not OpenAI's, but known to other servers: in the client's extra_body, like top_k.
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, max_length=64)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=0)
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Generation:
        if isinstance(self.stop, list) and len(self.stop) > 4:
            raise ValueError("stop: at most 4 stop texts are allowed")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed when stream is true")
        for token in self.logit_bias or {}:
            if not (token.isascii() and token.isdigit()):
                raise ValueError(f"logit_bias: {token[:20]!r} is not a token id")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


TokenIds = list[Annotated[int, Field(ge=0)]]


class CompletionRequest(Generation):
    prompt: str | list[str] | TokenIds | list[TokenIds]
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=5)
    # Only the values that ask for what is done anyway.
    best_of: int | None = Field(default=None, ge=1)
    suffix: None = None

    @model_validator(mode="after")
    def _can_answer(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of: not supported, unless it equals n")
        if isinstance(self.prompt, list) and not self.prompt:
            raise ValueError("prompt: the list is empty")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 is only useful with echo, which scores the prompt")
        if self.echo and self.stream:
            raise ValueError("echo: not supported together with stream")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt, text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [item for item in self.prompt if isinstance(item, int)]
        return [tokens] if tokens else [item for item in self.prompt if not isinstance(item, int)]


class ClassifyRequest(Harmless):
    model: str
    input: str | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class TagRequest(Harmless):
    """Texts, or lists of words for those who split their text themselves."""

    model: str
    input: str | Annotated[list[str] | list[list[str]], Field(min_length=1, max_length=MAX_INPUTS)]

    @property
    def texts(self) -> list[str | list[str]]:
        return [self.input] if isinstance(self.input, str) else list(self.input)


class FeedbackRequest(Wire):
    """What a person says about an answer: at least one of rating, correction, comment, preferred_over."""

    id: str = Field(min_length=1, max_length=64)
    rating: int | str | None = None
    correction: str | None = Field(default=None, max_length=100_000)
    comment: str | None = Field(default=None, max_length=10_000)
    preferred_over: str | None = Field(default=None, min_length=1, max_length=64)
    item: int = Field(default=0, ge=0)
    prompt: Any = None
    user: str | None = Field(default=None, min_length=1, max_length=1000)


Request = TypeVar("Request", bound=Wire)


def parse(shape: type[Request], body: bytes) -> Request:
    """The request in `body`. Raises ApiError 400 that names the first bad key as a dotted path."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, body) from None


def _refusal(error: ValidationError, body: bytes) -> ApiError:
    problems = error.errors(include_url=False, include_context=False)
    if problems[0]["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {problems[0]['msg']}", code="invalid_json")
    raw = from_json(body)
    # A union reports one problem per alternative; the deepest one belongs to the alternative that was meant.
    paths = [_path(problem["loc"], problem["type"], raw) for problem in problems]
    at = max(range(len(problems)), key=lambda index: len(paths[index]))
    problem, param = problems[at], ".".join(paths[at])
    if problem["type"] == "extra_forbidden":
        return unsupported(param)
    if problem["type"] == "missing":
        return ApiError(400, f"{param} is missing", code="missing_required_parameter", param=param)
    if problem["type"] == "value_error":
        field, _, reason = problem["msg"].removeprefix("Value error, ").partition(": ")
        param = ".".join([*paths[at], field])
        if reason.startswith("not supported"):
            return unsupported(param, f"is {reason}")
        return ApiError(400, f"{param}: {reason}", code="invalid_value", param=param)
    if problem["type"] in {"none_required", "literal_error", "too_long"} and _asks_for_more(paths[at]):
        return unsupported(param, "is not supported with this value")
    return ApiError(400, f"{param or 'the body'}: {problem['msg']}", code="invalid_value", param=param or None)


def _asks_for_more(path: list[str]) -> bool:
    """A key whose other values are known to the OpenAI API, but not honoured here."""
    known = {"suffix", "function_call", "audio", "store", "modalities", "type"}
    return bool(known & set(path[-2:]))


def _path(location: tuple[str | int, ...], kind: str, raw: Any) -> list[str]:
    """The keys of a problem's location that are in the request; pydantic also names the alternatives of a union."""
    path: list[str] = []
    at = raw
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(at, dict) and isinstance(part, str) and (part in at or (last and kind == "missing")):
            at = at.get(part)
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        else:
            continue
        path.append(str(part))
    return path
