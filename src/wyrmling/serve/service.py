"""What every endpoint needs: the model, its engine, where usage is kept; and the way from a request to an answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from wyrmling.config import Serve
from wyrmling.core.errors import WyrmlingError
from wyrmling.core.store import Store, Usage
from wyrmling.serve.engine import Engine, Event, Ticket
from wyrmling.serve.guard import MAX_BODY_BYTES
from wyrmling.serve.loaded import Job, Loaded
from wyrmling.serve.metrics import Metrics
from wyrmling.serve.openai import ApiError, Wire, model_not_found, parse

Shape = TypeVar("Shape", bound=Wire)
Handler = Callable[["Service", Request], Awaitable[Response]]

_log = logging.getLogger("wyrmling.serve")


@dataclass(frozen=True)
class Service:
    """A loaded model behind its engine.

    watts   power of the machine under load, for the energy of an answer
    """

    loaded: Loaded
    engine: Engine
    store: Store
    metrics: Metrics
    settings: Serve
    watts: float
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        return self.loaded.found.name

    @property
    def names(self) -> set[str]:
        """What a request may call the model: its name, or a registered one with its version."""
        version = self.loaded.found.version
        return {self.name} if version is None else {self.name, f"{self.name}:{version}"}

    @property
    def fingerprint(self) -> str:
        """The first digits of the sha256 of the model folder that answers."""
        return f"fp_{self.loaded.found.digest[:12]}"

    def check_model(self, model: str, job: Job, endpoint: str) -> None:
        """Raises ApiError 404 for another model than the one that is served, 400 when it does another job."""
        if model not in self.names:
            self.metrics.rejected("unknown_model")
            raise model_not_found(model)
        try:
            self.loaded.need(job, endpoint)
        except WyrmlingError as error:
            raise ApiError(400, f"{error.what}; {error.fix}", code="unsupported_model", param="model") from None


@dataclass
class Asked:
    """One request while it is answered: its events as they come, and the usage row at the end."""

    service: Service
    endpoint: str
    prefix: str
    key_id: str | None
    prompt: Any
    """JSON of what was asked; only its hash is kept, unless prompts are logged."""
    id: str = ""
    ticket: Ticket | None = None
    arrived: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    recorded: bool = False

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
        """What the engine says, step by step; an empty list when it says nothing for so long."""
        while True:
            try:
                yield await asyncio.wait_for(self._events.get(), patience_seconds)
            except TimeoutError:
                yield []

    async def record(self, *, prompt_tokens: int, completion_tokens: int, finish: str, answer: str) -> None:
        """Write the usage row. Comes before the end of the answer, so that feedback finds it."""
        usage = self._usage(prompt_tokens, completion_tokens, finish, answer)
        await run_in_threadpool(self.service.store.add_usage, usage)

    def abandon(self, *, prompt_tokens: int, completion_tokens: int, finish: str = "abort") -> None:
        """Free the place of a request nobody waits for any more, and still account for it. Never waits."""
        if self.ticket is not None:
            self.service.engine.cancel(self.ticket)
        if not self.recorded:
            usage = self._usage(prompt_tokens, completion_tokens, finish, "")
            self._loop.run_in_executor(None, self.service.store.add_usage, usage)

    def _usage(self, prompt_tokens: int, completion_tokens: int, finish: str, answer: str) -> Usage:
        service = self.service
        seconds = time.monotonic() - self.arrived
        joules = service.watts * (self.ticket.busy_seconds if self.ticket is not None else 0.0)
        service.metrics.joules.inc(joules)
        service.metrics.latency.observe(seconds)
        self.recorded = True
        text = json.dumps(self.prompt, ensure_ascii=False)
        return Usage(
            id=self.id,
            endpoint=self.endpoint,
            model=service.name,
            model_digest=service.loaded.found.digest,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            latency_ms=seconds * 1000,
            wh=joules / 3600,
            finish_reason=finish,
            prompt_sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            key_id=self.key_id,
            prompt=text if service.settings.log_prompts else None,
            answer=answer if service.settings.log_prompts else None,
        )


async def read(shape: type[Shape], request: Request) -> Shape:
    """The request's body as `shape`. Raises ApiError 400, or 413 for one that is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(
                413,
                f"the body is larger than {MAX_BODY_BYTES:,} bytes",
                code="request_too_large",
                headers={"connection": "close"},
            )
    return parse(shape, bytes(body))


def answering(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The handler as an endpoint: whatever goes wrong becomes an error body of the API."""

    async def endpoint(request: Request) -> Response:
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
            request_id = request.state.request_id
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
        for task in (working, going):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
