"""What every endpoint needs: the model, its engine, where usage is kept; and the way from a request to an answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from wyrmling.config import Feedback, Serve
from wyrmling.core.energy import Tariff
from wyrmling.core.errors import WyrmlingError
from wyrmling.core.reviews import pseudonym
from wyrmling.core.store import Store, Usage
from wyrmling.feedback.ratings import prompt_hash, prompt_text
from wyrmling.feedback.sketches import sketch, texts_of
from wyrmling.model.folder import locate
from wyrmling.serve.caller import Caller
from wyrmling.serve.engine import Engine, Event, Ticket
from wyrmling.serve.foreman import Foreman
from wyrmling.serve.loaded import Found, Job, Loaded
from wyrmling.serve.metrics import Metrics
from wyrmling.serve.openai import ApiError, Harmless, Wire, model_not_found, parse
from wyrmling.serve.pool import Member, Pool
from wyrmling.serve.recorder import Recorder
from wyrmling.serve.turns import Turns
from wyrmling.serve.workshop import Workshop

Shape = TypeVar("Shape", bound=Wire)
# Of the service that the routes were made for.
Handler = Callable[[Any, Request], Awaitable[Response]]

# How long a client may take to send a request that is not a file.
BODY_SECONDS = 60.0
# A client that heard no answer sends the same again within this time.
RETRY_SECONDS = 600.0

_log = logging.getLogger("wyrmling.serve")


class Front(Protocol):
    """What accounts for answers: the model of this process behind its engine, or another server."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def store(self) -> Store: ...
    @property
    def recorder(self) -> Recorder: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def settings(self) -> Serve: ...
    @property
    def watts(self) -> float: ...
    @property
    def tariff(self) -> Tariff: ...
    @property
    def feedback(self) -> Feedback: ...

    def give_up(self, ticket: Ticket) -> None:
        """Free the place of a request."""
        ...

    def answered_by(self, digest: str) -> Loaded | None:
        """The model of this process that gave an answer, if it is here."""
        ...


Fronts = TypeVar("Fronts", bound=Front)


@dataclass(frozen=True)
class Canary:
    """A challenger that answers a share of the requests."""

    member: Member
    share: float

    def takes(self, caller: Caller) -> bool:
        """Whether a request is the challenger's. One end user always gets the same model, if requests name users."""
        who = caller.user or caller.request_id
        digest = hashlib.sha256(f"{self.member.loaded.found.digest}\0{who}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64


@dataclass(frozen=True)
class Service:
    """A loaded model behind its engine.

    watts     power of the machine under load, for the energy of an answer
    recorder  writes the usage rows
    tariff    what that energy and the machine cost
    workshop  the project's files and fine-tuning jobs; None outside a project
    pool      the fine-tuned models in memory; None outside a project
    turns     of the requests for embeddings
    canary    the challenger that answers some of the requests instead; None for none
    adapters  what answers under the names of the model's adapters
    """

    loaded: Loaded
    engine: Engine
    store: Store
    metrics: Metrics
    settings: Serve
    watts: float
    recorder: Recorder
    tariff: Tariff = field(default_factory=Tariff)
    feedback: Feedback = field(default_factory=Feedback)
    workshop: Workshop | None = None
    pool: Pool | None = None
    canary: Canary | None = None
    adapters: Mapping[str, Loaded] = field(default_factory=dict)
    foreman: Foreman | None = None
    turns: Turns = field(default_factory=lambda: Turns(room=64))
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        return self.loaded.found.name

    @property
    def digest(self) -> str:
        return self.loaded.found.digest

    @property
    def names(self) -> set[str]:
        """What a request may call the model: its name, or a registered one with its version."""
        version = self.loaded.found.version
        return {self.name} if version is None else {self.name, f"{self.name}:{version}"}

    @property
    def fingerprint(self) -> str:
        """The first digits of the sha256 of the model folder that answers."""
        return f"fp_{self.loaded.found.digest[:12]}"

    async def of(self, model: str, job: Job | None, endpoint: str, caller: Caller) -> Service:
        """The service of the model that a request names: this one, or that of a fine-tuned model.

        job      what the model must do; None takes any
        Raises   ApiError 404 for a model that does not answer to this caller, 400 when it does another job
        """
        if model in self.adapters:
            service = replace(self, loaded=self.adapters[model])
        else:
            service = self if model in self.names else await self._fine_tuned(model, caller)
        if model == self.name and self.canary is not None and self.canary.takes(caller):
            service = self.on(self.canary.member)
        try:
            if job is not None:
                service.loaded.need(job, endpoint)
        except WyrmlingError as error:
            raise ApiError(400, f"{error.what}; {error.fix}", code="unsupported_model", param="model") from None
        return service

    def on(self, member: Member, canary: Canary | None = None) -> Service:
        """The same service with another model."""
        return replace(self, loaded=member.loaded, engine=member.engine, metrics=member.metrics, canary=canary)

    @property
    def example(self) -> tuple[str, dict[str, Any]]:
        """A route and a request that the served model answers."""
        return self.loaded.example

    def give_up(self, ticket: Ticket) -> None:
        """Free the place of a request in the batch."""
        self.engine.cancel(ticket)

    def answered_by(self, digest: str) -> Loaded | None:
        """The model that gave an answer, if it is the champion or the challenger."""
        here = [self.loaded] if self.canary is None else [self.loaded, self.canary.member.loaded]
        return next((loaded for loaded in here if loaded.found.digest == digest), None)

    async def _fine_tuned(self, model: str, caller: Caller) -> Service:
        record = None
        if self.workshop is not None:
            record = await run_in_threadpool(self.workshop.model, model, caller.key_id)
        if record is None or self.pool is None:
            self.metrics.rejected("unknown_model")
            raise model_not_found(model)
        found = Found(record.name, locate(record.path), record.digest, record.version)
        member = await self.pool.get(found)
        # One model has the name of its job and those of its checkpoints; an answer says the one that was asked.
        loaded = replace(member.loaded, found=replace(found, name=model))
        return replace(self, loaded=loaded, engine=member.engine, metrics=member.metrics)

    def need_workshop(self) -> Workshop:
        """Where files and jobs are kept. Raises ApiError 400 when this server has no project to keep them in."""
        if self.workshop is None:
            message = "this server was started outside a project, so it keeps no files and trains nothing"
            raise ApiError(400, message, code="no_project")
        return self.workshop

    def wake_foreman(self) -> None:
        """Have the jobs looked at now."""
        if self.foreman is not None:
            self.foreman.wake()


class PromptFacts(NamedTuple):
    """What a usage record says of a prompt."""

    text: str
    sha256: str
    chars: int
    sketch: bytes | None


@dataclass
class Asked(Generic[Fronts]):
    """One request while it is answered: its events as they come, and the usage row at the end."""

    service: Fronts
    endpoint: str
    prefix: str
    caller: Caller
    prompt: Any
    """JSON of what was asked; only its hash is kept, unless prompts are logged."""
    id: str = ""
    ticket: Ticket | None = None
    arrived: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    recorded: bool = False
    items: int = 1
    """Texts that are labelled, or answers that one prompt gets."""
    labels: list[str] | None = None
    confidence: float | None = None
    formatted: bool | None = None
    """Whether the answer has the form that was demanded; None when none was."""

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._events: asyncio.Queue[list[Event]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def deliver(self, events: list[Event]) -> None:
        """Called by the engine's thread."""
        # The loop may be closed already when the server was told twice to stop.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, events)

    async def events(self, *, patience_seconds: float | None = None) -> AsyncIterator[list[Event]]:
        """What the engine says, step by step; an empty list when it says nothing for so long. Too late is an error."""
        # While the model works rather than after it.
        _ = self.facts
        limit = self.service.settings.timeout_seconds
        while (left := self.arrived + limit - time.monotonic()) > 0:
            events: list[Event] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, patience_seconds or left)):
                    events = await self._events.get()
            yield events
        yield [timed_out(limit)]

    @cached_property
    def facts(self) -> PromptFacts:
        """Of the prompt, for the record."""
        text, texts = prompt_text(self.prompt), list(texts_of(self.prompt))
        sketched = sketch(texts) if self.service.feedback.sketches else None
        return PromptFacts(text, prompt_hash(text), sum(map(len, texts)), sketched)

    async def record(self, *, prompt_tokens: int, completion_tokens: int, finish: str, answer: str) -> None:
        """Write the usage row. Comes before the end of the answer, so that feedback finds it."""
        usage = self._usage(prompt_tokens, completion_tokens, finish, answer)
        await asyncio.wrap_future(self.service.recorder.keep(usage))

    def answered(self, body: bytes) -> Response:
        """The whole answer, with the milliseconds that the model worked on it (W3C Server Timing)."""
        timing = f"model;dur={1000 * self._busy_seconds:.2f}"
        return Response(body, media_type="application/json", headers={"server-timing": timing})

    @property
    def _busy_seconds(self) -> float:
        return 0.0 if self.ticket is None else self.ticket.busy_seconds

    def abandon(self, *, prompt_tokens: int, completion_tokens: int, finish: str = "abort") -> None:
        """Free the place of a request nobody waits for any more, and still account for it. Never waits."""
        if self.ticket is not None:
            self.service.give_up(self.ticket)
        if not self.recorded:
            usage = self._usage(prompt_tokens, completion_tokens, finish, "")
            self.service.recorder.keep(usage)

    def _usage(self, prompt_tokens: int, completion_tokens: int, finish: str, answer: str) -> Usage:
        service = self.service
        seconds = time.monotonic() - self.arrived
        busy_seconds = self._busy_seconds
        joules = service.watts * busy_seconds
        service.metrics.joules.inc(joules)
        service.metrics.latency.observe(seconds)
        self.recorded = True
        tokens = prompt_tokens + completion_tokens
        noted = {"answer": self.id, "model": service.name, "tokens": tokens, "finish": finish}
        counted = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        self.caller.spend(tokens, noted | counted)
        logs, facts = service.settings.log_prompts, self.facts
        return Usage(
            id=self.id,
            endpoint=self.endpoint,
            model=service.name,
            model_digest=service.digest,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            latency_ms=seconds * 1000,
            wh=joules / 3600,
            finish_reason=finish,
            prompt_sha256=facts.sha256,
            key_id=self.caller.key_id,
            usd=service.tariff.usd(busy_seconds, joules / 3.6e6),
            prompt=facts.text if logs else None,
            answer=answer if logs else None,
            user=None if self.caller.user is None else pseudonym(self.caller.user),
            items=self.items,
            chars=facts.chars,
            labels=self.labels,
            confidence=self.confidence,
            formatted=self.formatted,
            sketch=facts.sketch,
        )


async def read(shape: type[Shape], request: Request) -> Shape:
    """The request's body as `shape`. Raises ApiError 400, and what `body_of` raises."""
    asked = parse(shape, await body_of(request))
    if isinstance(asked, Harmless):
        request.state.caller = replace(request.state.caller, user=asked.end_user)
    return asked


async def body_of(request: Request) -> bytes:
    """The request's body. Raises ApiError 413 for a body too large, 408 for one too slow."""
    limit = request.app.state.service.settings.max_body_bytes
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large(limit)
    except TimeoutError:
        raise too_slow(BODY_SECONDS) from None
    return bytes(body)


def sent_before(request: Request) -> str | None:
    """For a request that the official client sends again because it heard no answer: since when its first one may have
    been served. None for a request that is new.
    """
    count = request.headers.get("x-stainless-retry-count", "0")
    if not (count.isascii() and count.isdigit() and int(count[:9]) > 0):
        return None
    return (datetime.now(UTC) - timedelta(seconds=RETRY_SECONDS)).isoformat(timespec="microseconds")


def too_large(limit: int) -> ApiError:
    message, headers = f"the body is larger than {limit:,} bytes", {"connection": "close"}
    return ApiError(413, message, code="request_too_large", headers=headers)


def too_slow(seconds: float) -> ApiError:
    message, headers = f"the body did not arrive within {seconds:.0f} s", {"connection": "close"}
    return ApiError(408, message, code="request_timeout", headers=headers | {"x-should-retry": "false"})


def timed_out(seconds: float) -> ApiError:
    return ApiError(
        504,
        f"the answer was not finished within {seconds:g} s; ask for fewer tokens",
        code="timeout",
        kind="server_error",
        headers={"x-should-retry": "false"},
    )


def answering(handlers: Mapping[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
    """The handlers of a route, by method, as an endpoint: whatever goes wrong becomes an error body of the API."""

    async def endpoint(request: Request) -> Response:
        # HEAD is answered as GET; the server leaves the body out.
        handler = handlers.get(request.method) or handlers["GET"]
        try:
            return await handler(request.app.state.service, request)
        except ApiError as error:
            return JSONResponse(error.body(), error.status, headers=error.headers)
        except WyrmlingError as error:
            message = f"{error.what}; {error.fix}" if error.fix else error.what
            return JSONResponse(ApiError(400, message, code="invalid_value", param=error.where).body(), 400)
        except (ClientDisconnect, HTTPException):
            raise
        except Exception:
            # The edge of the process: the client learns an id, the log learns what happened.
            request_id = request.state.caller.request_id
            _log.exception("%s %s %s", request_id, request.method, request.url.path)
            return JSONResponse(internal_error(request_id).body(), 500)

    return endpoint


def internal_error(request_id: str) -> ApiError:
    return ApiError(
        500, f"the server failed; its log says more under {request_id}", code="internal_error", kind="server_error"
    )


async def unless_gone(request: Request, work: Awaitable[Response], give_up: Callable[[], None]) -> Response:
    """The response of `work`; when the client goes away first, `give_up` is called instead."""
    working = asyncio.ensure_future(work)
    going = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, going}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        give_up()
        # Nobody reads this; it only ends the request. 499 is nginx's word for it in logs.
        return Response(status_code=499)
    finally:
        going.cancel()
        if not working.done():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await working


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
