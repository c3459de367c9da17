"""Serve a model: check it, listen, say how to ask, and stop without losing an answer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import uvicorn

from wyrmling.config import Machine, Project, Quantize, Serve
from wyrmling.core.energy import Meter
from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.core.log import say, warn
from wyrmling.core.store import Store
from wyrmling.model.adapter import Adapters
from wyrmling.model.quantize import quantize_checked
from wyrmling.serve import threads, tracing
from wyrmling.serve.access import AccessLog
from wyrmling.serve.adapters import put_on
from wyrmling.serve.app import ROUTES, create_app
from wyrmling.serve.engine import Engine
from wyrmling.serve.follow import Follower
from wyrmling.serve.foreman import Foreman
from wyrmling.serve.guard import check_bind, is_loopback
from wyrmling.serve.loaded import Found, Loaded, find
from wyrmling.serve.metrics import Metrics
from wyrmling.serve.parity import load_checked
from wyrmling.serve.pool import DRAIN_SECONDS, Engines, Member, Pool
from wyrmling.serve.recorder import Recorder
from wyrmling.serve.service import Service
from wyrmling.serve.tracing import Tracing
from wyrmling.serve.workshop import Workshop

if TYPE_CHECKING:
    from wyrmling.serve.upstream import Gate, Upstream


def serve(
    project: Project | None,
    model: str | Path,
    *,
    host: str | None = None,
    port: int | None = None,
    quantize: Quantize | None = None,
    adapters: Mapping[str, str] | None = None,
    follow: bool = False,
) -> None:
    """Serve a model until SIGTERM or SIGINT. Prints a curl line that works on stdout once it answers.

    project  where settings, keys, usage and feedback are; None for a model folder outside any project
    model    a model folder, or a registered name
    follow   True: the champion of the model's name is meant, so when another becomes it, that one is served
    host, port, quantize, adapters   None: as the project's settings say; port 0 takes a free one
    Raises   BadSetting for an open address without keys; BadInput for a port in use; GateRefused for a changed model
    """
    settings = Serve() if project is None else project.settings.serve
    asked = {"quantize": quantize, "adapters": adapters}
    settings = settings.model_copy(update={name: value for name, value in asked.items() if value is not None})
    host, port = host or settings.host, settings.port if port is None else port
    folder = Path.cwd() if project is None else project.root
    traced = tracing.from_environment()
    with _store(project) as store, contextlib.closing(listen(host, port, store)) as listener:
        found = find(model, store)
        with Meter() if project is None else project.meter() as meter:
            device = _prepare(Machine() if project is None else project.settings.machine)
            loaded, tuned, served = load_with_adapters(found, settings, folder, device)
            cost = meter.cost()
        watts = cost.wh * 3600 / cost.seconds
        say(f"{found.name}: {found.folder}, digest {found.digest[:12]}; answers checked against the trained model's")
        metrics = Metrics(found.name)
        engine = new_engine(loaded, settings, metrics, tuned)
        service = Service(
            loaded, engine, store, metrics, settings, watts, Recorder(store), meter.tariff, adapters=served
        )
        if project is not None:
            service = replace(service, feedback=project.settings.feedback)
            service = with_workshop(service, Workshop(project, store), device)
        # Adapters are of one base, so with them the model stays what it was at the start.
        load = loader(service, device) if follow and not served else None
        _stays()
        Server(service, host, listener, AccessLog(settings.access_log, folder), follow=load, traced=traced).run()


def serve_behind(
    project: Project | None, model: str, url: str, *, host: str | None = None, port: int | None = None
) -> None:
    """Put this server's keys, limits, usage and feedback in front of another one with the OpenAI API.

    model    its name here, and there unless the other server has a single model
    url      of the other server, up to and including /v1; its key is taken from WYRMLING_ENGINE_KEY
    Raises   UsageError when the extra is missing; BadInput when the other server does not answer; else as `serve`
    """
    try:
        from wyrmling.serve import upstream
    except ImportError as error:
        raise UsageError("another engine needs an HTTP client", fix='pip install "wyrmling[upstream]"') from error
    settings, machine = Serve() if project is None else project.settings.serve, Machine()
    host, port = host or settings.host, settings.port if port is None else port
    traced = tracing.from_environment()
    with _store(project) as store, contextlib.closing(listen(host, port, store)) as listener:
        key = os.environ.get("WYRMLING_ENGINE_KEY")
        metrics = Metrics(model)
        front = upstream.connect(url.rstrip("/"), model, key=key, store=store, metrics=metrics, settings=settings)
        if project is not None:
            machine = project.settings.machine
            front = replace(front, tariff=project.meter().tariff, feedback=project.settings.feedback)
        front = replace(front, watts=machine.watts or 0.0)
        say(f"{front.name}: {front.remote} at {front.url}; what it answers can't be checked here")
        root = Path.cwd() if project is None else project.root
        _stays()
        Server(front, host, listener, AccessLog(settings.access_log, root), traced=traced).run()


def load_with_adapters(
    found: Found, settings: Serve, root: Path, device: str
) -> tuple[Loaded, Adapters | None, dict[str, Loaded]]:
    """The model, checked; and its adapters, which are put on before its weights are rounded."""
    if not settings.adapters:
        return load_checked(found, device=device, quantize=settings.quantize), None, {}
    loaded = load_checked(found, device=device)
    adapters, served = put_on(loaded, settings.adapters, root, rounded=settings.quantize is not None)
    if settings.quantize is not None:
        quantize_checked(found.folder, loaded.model, settings.quantize)
    return loaded, adapters, served


def new_engine(loaded: Loaded, settings: Serve, metrics: Metrics, adapters: Adapters | None = None) -> Engine:
    """An engine as the settings want it, not started yet."""
    return Engine(
        loaded,
        max_sequences=settings.max_sequences,
        max_queue=settings.max_queue,
        metrics=metrics,
        prefill_tokens=settings.prefill_tokens,
        prefix_bytes=settings.prefix_cache_mb * 1_000_000,
        adapters=adapters,
    )


def with_workshop(service: Service, workshop: Workshop, device: str) -> Service:
    """The service with what it needs for files, fine-tuning jobs and the models that come out of them."""
    foreman = Foreman(workshop, service.settings.max_jobs)
    pool = Pool(loader(service, device), service.settings.max_models)
    return replace(service, workshop=workshop, pool=pool, foreman=foreman)


def loader(service: Service, device: str) -> Callable[[Found], Member]:
    """What brings another model into memory, checked, with an engine that runs."""
    settings = service.settings

    def load(found: Found) -> Member:
        loaded = load_checked(found, device=device, quantize=settings.quantize)
        # A version of the served model itself is told apart by its number.
        label = f"{found.name}:{found.version}" if found.name == service.name else found.name
        metrics = Metrics(label, beside=service.metrics)
        engine = new_engine(loaded, settings, metrics)
        engine.start()
        return Member(loaded, engine, metrics)

    return load


class Server(uvicorn.Server):
    """uvicorn around one service: starts its engine, and lets it finish what it began when a signal comes.

    follow   loads the models that the aliases of the served name come to point at; None: the name means one version
    traced   gets a span of each request, and is closed in the end
    """

    def __init__(
        self,
        service: Service | Upstream,
        host: str,
        listener: socket.socket,
        log: AccessLog,
        *,
        follow: Callable[[Found], Member] | None = None,
        traced: Tracing | None = None,
    ) -> None:
        self._service, self._listener, self._traced = service, listener, traced
        self._address = f"http://{_in_url(host)}:{listener.getsockname()[1]}"
        routes = ROUTES if isinstance(service, Service) else service.routes
        app = create_app(service, loopback=is_loopback(host), log=log, routes=routes, tracing=traced)
        self._follower: Follower | None = None
        if follow is not None and isinstance(service, Service):
            self._follower = Follower(service, follow, app.use)
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                # The engine ends what is left with an error first; this is for clients that do not read it.
                timeout_graceful_shutdown=int(DRAIN_SECONDS) + 5,
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests until told to stop."""
        service = self._service
        service.engine.start()
        if service.foreman is not None:
            service.foreman.start()
        if self._follower is not None:
            self._follower.start()
        try:
            asyncio.run(self.serve(sockets or [self._listener]))
        finally:
            if self._follower is not None:
                self._follower.stop()
            if service.foreman is not None:
                service.foreman.stop()
            for engines in self._engines:
                engines.drain(0)
                engines.join()
            service.recorder.close()
            if self._traced is not None:
                self._traced.close()

    @property
    def _engines(self) -> list[Engine | Engines | Gate]:
        own: Engine | Engines | Gate = self._follower or self._service.engine
        return [own] if self._service.pool is None else [own, self._service.pool]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the doors, then say so."""
        await super().startup(sockets)
        needs_key = self._service.store.has_keys()
        say(f"listening on {self._address}; stop with Ctrl-C")
        line = curl_line(self._service.name, self._service.example, self._address, needs_key=needs_key)
        print(line, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets answers finish; a second Ctrl-C stops at once. Neither is an error."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        for engines in self._engines:
            engines.drain(DRAIN_SECONDS)


def listen(host: str, port: int, store: Store) -> socket.socket:
    """A socket bound to the address, not yet accepting.

    Raises   BadSetting for an open address without keys or an unknown host; BadInput for a port that can't be had
    """
    check_bind(host, store)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise BadSetting(
            f"serve.host = {host!r} is no address of this machine: {error.strerror}",
            where="serve.host",
            fix="use 127.0.0.1, or 0.0.0.0 for every address",
        ) from error
    listener = socket.socket(family, kind, protocol)
    if os.name == "posix":
        # Take a port whose last connections are still closing; on Windows the same option would steal one in use.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Listening now, not when the model is loaded, shows at once that another program has the port.
        listener.listen(1)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            what, fix = f"port {port} is in use", f"stop the program that has it, or choose another: --port {port + 1}"
        else:
            what, fix = f"can't listen on {host} port {port}: {error.strerror}", "choose another: --port 8000"
        raise BadInput(what, where=f"{host}:{port}", fix=fix) from error
    return listener


def curl_line(name: str, example: tuple[str, dict[str, Any]], address: str, *, needs_key: bool) -> str:
    """A command that asks the served model something."""
    route, body = example
    key = ' -H "authorization: Bearer $WYRMLING_API_KEY"' if needs_key else ""
    data = json.dumps({"model": name, **body})
    return f"curl {address}/v1/{route}{key} -H 'content-type: application/json' -d '{data}'"


@contextlib.contextmanager
def _store(project: Project | None) -> Iterator[Store]:
    """The project's database; without a project one that is gone when the server stops."""
    with contextlib.ExitStack() as stack:
        if project is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="wyrmling-"))
            warn("there is no project here, so usage and feedback are kept only while the server runs")
            url = f"sqlite:///{Path(folder) / 'wyrmling.db'}"
        else:
            url = project.database_url
        store = Store.open(url)
        stack.callback(store.close)
        yield store


def _prepare(machine: Machine) -> str:
    """Set the number of threads; the device to serve on."""
    if machine.threads is not None:
        threads.limit(machine.threads)
    return machine.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _stays() -> None:
    """What is in memory now stays: Python would look through all of it again and again while requests wait."""
    gc.collect()
    gc.freeze()


def _in_url(host: str) -> str:
    """The host as a client on this machine writes it."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host
