"""Another server with the OpenAI API behind this one: keys, limits, usage and feedback are kept here, answers come from
there. Requests and answers pass as they are, but for the name of the model and the id of the answer, which are ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import httpx2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from wyrmling.config import Feedback, Serve
from wyrmling.core.energy import Tariff
from wyrmling.core.errors import BadInput
from wyrmling.core.store import Store
from wyrmling.serve import widget
from wyrmling.serve.app import Routes, feedback, live, metrics
from wyrmling.serve.engine import Ticket
from wyrmling.serve.loaded import Loaded
from wyrmling.serve.metrics import Metrics
from wyrmling.serve.moderations import moderations
from wyrmling.serve.openai import ApiError, model_not_found, overloaded
from wyrmling.serve.recorder import Recorder
from wyrmling.serve.responses import ModelCard, ModelList
from wyrmling.serve.service import Asked, body_of, internal_error, timed_out, unless_gone

# How long the other server may take to accept a connection, and to list its models when this one starts.
CONNECT_SECONDS = 10.0

_log = logging.getLogger("wyrmling.serve")


class Gate:
    """How many requests are with the other server. It stands where a model's engine would: started, drained, joined.

    room   requests that may be there at a time; more are refused
    """

    def __init__(self, room: int, metrics: Metrics) -> None:
        self._room, self._metrics, self._inside, self._open = room, metrics, 0, True

    @property
    def ready(self) -> bool:
        return self._open

    @property
    def inside(self) -> int:
        return self._inside

    def start(self) -> None:
        """Nothing has to be started here."""

    def drain(self, seconds: float) -> None:
        """Take nothing new. What is under way ends by itself, or with its connection."""
        self._open = False

    def join(self) -> None:
        """Nothing is left running by this side."""

    @contextlib.contextmanager
    def pass_through(self) -> Iterator[None]:
        """Count a request inside the block. Raises ApiError 503 when there is no room, or the server stops."""
        if not self._open:
            self._metrics.rejected("stopping")
            raise overloaded("the server is stopping", retry_after_seconds=5)
        if self._inside >= self._room:
            self._metrics.rejected("queue_full")
            raise overloaded("too many requests are waiting; try again", retry_after_seconds=1)
        self._inside += 1
        self._metrics.running.set(self._inside)
        try:
            yield
        finally:
            self._inside -= 1
            self._metrics.running.set(self._inside)


@dataclass(frozen=True)
class Upstream:
    """Another server, and what is kept here of its answers.

    name     of the model, here; `remote` is its name there
    url      up to and including /v1
    watts    power of the machine that answers, as `machine.watts` says; 0 when it does not
    """

    name: str
    remote: str
    url: str
    client: httpx2.AsyncClient
    engine: Gate
    store: Store
    metrics: Metrics
    settings: Serve
    recorder: Recorder
    watts: float = 0.0
    tariff: Tariff = field(default_factory=Tariff)
    feedback: Feedback = field(default_factory=Feedback)
    started: int = field(default_factory=lambda: int(time.time()))
    foreman: None = None
    pool: None = None

    @property
    def digest(self) -> str:
        """Which weights answer is not known here: only where they are."""
        return hashlib.sha256(f"{self.url}\0{self.remote}".encode()).hexdigest()

    @property
    def example(self) -> tuple[str, dict[str, Any]]:
        """A route and a request that it answers."""
        return "chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}

    @property
    def routes(self) -> Routes:
        """What is passed on, and what is answered here."""
        return ROUTES

    def give_up(self, ticket: Ticket) -> None:
        """The connection is closed with the request, which is how the other server hears of it."""

    def answered_by(self, digest: str) -> Loaded | None:
        return None


def connect(url: str, name: str, *, key: str | None, store: Store, metrics: Metrics, settings: Serve) -> Upstream:
    """The server at a URL, which is asked for its models.

    name     of the model, here and there; a server with a single model may call it anything
    key      sent along with every request. None: none is
    Raises   BadInput when it can't be reached, refuses the key, or has other models
    """
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        answer = httpx2.get(f"{url}/models", headers=headers, timeout=CONNECT_SECONDS)
        names = [str(model["id"]) for model in answer.raise_for_status().json()["data"]]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{url}/models does not answer as the OpenAI API does: {error}",
            where="serve.engine",
            fix="give the address of a running server, with /v1; its key is taken from WYRMLING_ENGINE_KEY",
        ) from error
    if name not in names and len(names) != 1:
        raise BadInput(
            f"the server at {url} has no model {name!r}", where="--model", fix=f"name one of {', '.join(names[:20])}"
        )
    timeout = httpx2.Timeout(settings.timeout_seconds, connect=CONNECT_SECONDS)
    room = settings.max_sequences + settings.max_queue
    limits = httpx2.Limits(max_connections=room, max_keepalive_connections=room)
    client = httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits)
    remote = name if name in names else names[0]
    return Upstream(name, remote, url, client, Gate(room, metrics), store, metrics, settings, Recorder(store))


class Kind(NamedTuple):
    """One of the routes that are passed on: its path, what usage calls it, how its ids begin, and where its text is."""

    path: str
    endpoint: str
    prefix: str
    prompt: str


CHAT = Kind("chat/completions", "chat", "chatcmpl", "messages")
COMPLETIONS = Kind("completions", "completions", "cmpl", "prompt")
EMBEDDINGS = Kind("embeddings", "embeddings", "embd", "input")


@dataclass
class Passing:
    """One request on its way there and back."""

    front: Upstream
    asked: Asked[Upstream]
    kind: Kind
    body: dict[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish: str = "stop"
    text: str = ""

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    def send(self) -> contextlib.AbstractAsyncContextManager[httpx2.Response]:
        sent = self.body | {"model": self.front.remote}
        if self.stream:
            # Asked for in any case: usage is accounted for here.
            sent["stream_options"] = {**(self.body.get("stream_options") or {}), "include_usage": True}
        # Escaped, so that half a surrogate pair in a text is no error on this side.
        content, headers = json.dumps(sent).encode(), {"content-type": "application/json"}
        return self.front.client.stream("POST", f"{self.front.url}/{self.kind.path}", content=content, headers=headers)

    def ours(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer, or a piece of one, under our names; what it says of itself is noted."""
        used = answer.get("usage") or {}
        self.prompt_tokens = int(used.get("prompt_tokens") or self.prompt_tokens)
        self.completion_tokens = int(used.get("completion_tokens") or self.completion_tokens)
        for choice in answer.get("choices") or ():
            said = choice.get("message") or choice.get("delta") or choice
            self.text += said.get("content") or said.get("text") or ""
            self.finish = choice.get("finish_reason") or self.finish
        named = answer | {"model": self.front.name}
        # Embeddings have no id; ours goes along, so that they can be spoken of too.
        return named | {"id": self.asked.id}

    def take_time(self) -> None:
        """The share of the other server's time: it works on all that are there at once."""
        if self.asked.ticket is not None:
            self.asked.ticket.busy_seconds = (time.monotonic() - self.asked.arrived) / max(1, self.front.engine.inside)

    async def record(self) -> None:
        self.take_time()
        counts = self.front.metrics
        counts.prompt_tokens.inc(self.prompt_tokens)
        counts.generation_tokens.inc(self.completion_tokens)
        counts.finished("length" if self.finish == "length" else "stop")
        await self.asked.record(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            finish=self.finish,
            answer=self.text,
        )

    def abandon(self, finish: str = "abort") -> None:
        self.take_time()
        self.front.metrics.finished("abort")
        self.asked.abandon(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens, finish=finish)


async def chat_completions(front: Upstream, request: Request) -> Response:
    return await _pass_on(front, request, CHAT)


async def completions(front: Upstream, request: Request) -> Response:
    return await _pass_on(front, request, COMPLETIONS)


async def embeddings(front: Upstream, request: Request) -> Response:
    return await _pass_on(front, request, EMBEDDINGS)


async def _pass_on(front: Upstream, request: Request, kind: Kind) -> Response:
    body = _object(await body_of(request))
    if body.get("model") != front.name:
        front.metrics.rejected("unknown_model")
        raise model_not_found(str(body.get("model")))
    user = body.get("user") or body.get("safety_identifier")
    caller = replace(request.state.caller, user=user if isinstance(user, str) else None)
    request.state.caller = caller
    asked = Asked(front, kind.endpoint, kind.prefix, caller, body.get(kind.prompt))
    asked.ticket = Ticket(asked.deliver)
    passing = Passing(front, asked, kind, body)
    if not passing.stream:
        return await unless_gone(request, _whole(passing), passing.abandon)
    stream = _stream(passing, caller.request_id)
    try:
        # What the other server refuses is an error of this request, not an event of a stream that began well.
        first = await anext(stream)
    except StopAsyncIteration:
        first = b""
    return StreamingResponse(_after(first, stream), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_value")
    if not isinstance(found.get("stream_options") or {}, dict):
        raise ApiError(400, "stream_options: not a JSON object", code="invalid_value", param="stream_options")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def _whole(passing: Passing) -> Response:
    with passing.front.engine.pass_through():
        try:
            async with passing.send() as answer:
                await answer.aread()
                _check(answer)
                shown = passing.ours(_answered(answer.content))
        except (httpx2.HTTPError, ApiError) as error:
            passing.abandon("error")
            raise _failed(error, passing.front.settings.timeout_seconds) from error
        await passing.record()
    return JSONResponse(shown)


async def _stream(passing: Passing, request_id: str) -> AsyncIterator[bytes]:
    """Server-sent events. The first item is empty: it says that the other server has begun to answer."""
    began = False
    try:
        with passing.front.engine.pass_through():
            async with passing.send() as answer:
                if answer.status_code != 200:
                    await answer.aread()
                _check(answer)
                began = True
                yield b""
                async for event in _events(passing, answer):
                    yield event
    except (httpx2.HTTPError, ApiError) as error:
        passing.abandon("error")
        refused = _failed(error, passing.front.settings.timeout_seconds)
        if not began:
            raise refused from error
        yield b"data: " + refused.json_bytes() + b"\n\n"
    except Exception:
        _log.exception("%s stream", request_id)
        yield b"data: " + internal_error(request_id).json_bytes() + b"\n\n"
    finally:
        if not passing.asked.recorded:
            passing.abandon()


async def _events(passing: Passing, answer: httpx2.Response) -> AsyncIterator[bytes]:
    first = True
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            yield line.encode() + b"\n\n"
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            await passing.record()
            yield b"data: [DONE]\n\n"
            return
        piece = _answered(data.encode())
        if "error" in piece:
            raise _of_upstream(500, piece)
        shown = passing.ours(piece)
        if first and passing.text:
            first = False
            passing.front.metrics.first_token.observe(time.monotonic() - passing.asked.arrived)
        # The piece with the usage is passed on to those who asked for it.
        if shown.get("choices") or passing.wants_usage:
            yield b"data: " + json.dumps(shown).encode() + b"\n\n"
    raise _broken("the model server ended its answer before it was finished")


async def _after(first: bytes, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    try:
        async for event in stream:
            yield event
    finally:
        # Closed at once, not when it is collected: the place and the connection are free then.
        await stream.aclose()  # type: ignore[attr-defined]


def _answered(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _broken("the model server's answer is not JSON")
    return found


def _check(answer: httpx2.Response) -> None:
    """Raise ApiError for an answer that is an error."""
    if answer.status_code == 200:
        return
    try:
        body = json.loads(answer.content)
    except ValueError:
        body = None
    raise _of_upstream(answer.status_code, body)


def _of_upstream(status: int, body: Any) -> ApiError:
    """What a client may know of an error: what was wrong with its request. The rest is in the log."""
    error = body.get("error") if isinstance(body, Mapping) else None
    error = error if isinstance(error, Mapping) else {}
    if status in (400, 404, 413, 422):
        message = str(error.get("message") or "the model server refused the request")[:2000]
        param = error.get("param")
        code = str(error.get("code") or "invalid_value")
        return ApiError(400, message, code=code, param=param if isinstance(param, str) else None)
    _log.warning("the model server answered %s: %s", status, str(error.get("message"))[:500])
    if status in (429, 503):
        return overloaded("the model server is busy; try again", retry_after_seconds=1)
    return _broken("the model server failed; the log says more")


def _broken(message: str) -> ApiError:
    return ApiError(502, message, code="engine_error", kind="server_error")


def _failed(error: Exception, seconds: float) -> ApiError:
    if isinstance(error, ApiError):
        return error
    _log.warning("the model server: %s: %s", type(error).__name__, error)
    if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
        return timed_out(seconds)
    return overloaded("the model server can't be reached", retry_after_seconds=5)


async def models(front: Upstream, request: Request) -> Response:
    """The one model."""
    return Response(ModelList(object="list", data=[_card(front)]).json_bytes(), media_type="application/json")


async def model(front: Upstream, request: Request) -> Response:
    """Its card."""
    if request.path_params["model"] != front.name:
        raise model_not_found(request.path_params["model"])
    return Response(_card(front).json_bytes(), media_type="application/json")


def _card(front: Upstream) -> ModelCard:
    return ModelCard(id=front.name, object="model", created=front.started, owned_by="wyrmling")


async def ready(front: Upstream, request: Request) -> Response:
    """Requests are taken, and the other server lists its models."""
    if not front.engine.ready:
        raise ApiError(503, "the server is stopping", code="not_ready", kind="server_error")
    try:
        answer = await front.client.get(f"{front.url}/models", timeout=CONNECT_SECONDS)
    except httpx2.HTTPError:
        raise ApiError(503, "the model server can't be reached", code="not_ready", kind="server_error") from None
    if answer.status_code != 200:
        raise ApiError(503, "the model server does not answer", code="not_ready", kind="server_error")
    return JSONResponse({"status": "ok", "model": front.name})


ROUTES: Routes = (
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{model:path}", model),
    ("POST", "/v1/completions", completions),
    ("POST", "/v1/chat/completions", chat_completions),
    ("POST", "/v1/embeddings", embeddings),
    ("POST", "/v1/moderations", moderations),
    ("POST", "/v1/feedback", feedback),
    ("GET", "/livez", live),
    ("GET", "/readyz", ready),
    ("GET", "/health", ready),
    ("GET", "/metrics", metrics),
    ("GET", widget.PATH, widget.widget),
)
