"""Who may ask what, and how much: API keys with scopes and limits, the Host header; and what every answer carries.

Without keys only this machine may ask. A page in a browser can reach 127.0.0.1 too, so no CORS header is sent except to
the sites that the settings name, and the Host header must name this machine: a foreign name that points here (DNS
rebinding) is refused.
"""

from __future__ import annotations

import ipaddress
import math
import secrets
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Send
from starlette.types import Scope as Connection

from wyrmling.core.errors import BadSetting
from wyrmling.core.store import KEY_PREFIX, Store
from wyrmling.core.tables import ApiKey, Scope
from wyrmling.serve import widget
from wyrmling.serve.access import AccessLog
from wyrmling.serve.caller import Caller
from wyrmling.serve.limits import Limits
from wyrmling.serve.metrics import Metrics
from wyrmling.serve.openai import ApiError
from wyrmling.serve.tracing import Tracing

PUBLIC = frozenset({"/livez", "/readyz", "/health", widget.PATH})
# The scope that a path asks for, the first prefix that fits. Cards of models and metrics are for every key.
SCOPES: tuple[tuple[str, Scope], ...] = (
    ("/v1/files", "files"),
    ("/v1/fine_tuning/", "train"),
    ("/v1/feedback", "feedback"),
    ("/v1/", "infer"),
)

# The first key closes an open server within this time.
KEYLESS_SECONDS = 1.0

# As they are sent: every answer has them.
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]


# What a page of an allowed site may send and read. No cookies: a key is sent by the page itself.
CORS_HEADERS = {
    "access-control-allow-methods": "GET, POST, DELETE",
    "access-control-allow-headers": "authorization, content-type",
    "access-control-expose-headers": "x-request-id, retry-after",
    "access-control-max-age": "600",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_bind(host: str, store: Store) -> None:
    """Raises BadSetting when `host` lets other machines in and no key exists to keep strangers out."""
    if not is_loopback(host) and not any(key.revoked is None for key in store.list_keys()):
        raise BadSetting(
            f"serve.host = {host!r} lets other machines ask, and there is no API key to tell who may",
            where="serve.host",
            fix="make a key with: wyrmling keys create NAME, or listen on 127.0.0.1",
        )


class Keyless:
    """Whether no key was ever made. The database is asked once in `KEYLESS_SECONDS`, and no more once there is one."""

    def __init__(self, store: Store) -> None:
        self._store, self._until, self._ever = store, -math.inf, False

    def __bool__(self) -> bool:
        if not self._ever and (at := time.monotonic()) >= self._until:
            self._ever, self._until = self._store.has_keys(), at + KEYLESS_SECONDS
        return not self._ever


@dataclass(frozen=True)
class Guard:
    """ASGI middleware around the whole application.

    store      where the keys are
    loopback   True: only this machine can connect, so a key is asked for only once one has been made
    tracing    gets a span of each request; None: nobody asked for traces
    origins    sites whose pages may ask from a browser, such as "https://example.com"
    `scope["state"]["caller"]` of a request that was let in says who asks.
    """

    app: Starlette
    store: Store
    loopback: bool
    metrics: Metrics
    limits: Limits
    log: AccessLog
    origins: frozenset[str] = frozenset()
    tracing: Tracing | None = None

    @cached_property
    def _keyless(self) -> Keyless:
        return Keyless(self.store)

    def use(self, service: Any) -> None:
        """Let another service answer from the next request on."""
        self.app.state.service = service

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, answered = time.monotonic(), {"status": 0, "bytes": 0}
        caller = Caller("req-" + secrets.token_hex(12), None, self.limits)
        allowance = self._cors(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered["status"] = message["status"]
                own = [(b"x-request-id", caller.request_id.encode())]
                own += [(name.encode(), value.encode("latin-1")) for name, value in allowance.items()]
                present = {name for name, _ in message["headers"]}
                added = [header for header in own + SECURITY_HEADERS if header[0] not in present]
                message["headers"] = [*message["headers"], *added]
            else:
                answered["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            self._check_host(scope)
            if allowance and scope["method"] == "OPTIONS":
                # A browser asks before it sends a key, and can't send one with that question.
                await Response(status_code=204)(scope, receive, send_guarded)
                return
            caller = replace(caller, key=self._check_key(scope))
            if caller.key is not None:
                self._check_scope(scope, caller.key)
                if scope["method"] == "POST":
                    allowance |= self.limits.admit(caller.key)
            scope.setdefault("state", {})["caller"] = caller
            await self.app(scope, receive, send_guarded)
        except ApiError as error:
            answer = JSONResponse(error.body(), error.status, headers=error.headers)
            await answer(scope, receive, send_guarded)
        finally:
            # The route as it is written in the table of routes: a path can hold anything.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(route, answered["status"])
            entry = {
                "request": caller.request_id,
                "key": caller.key_id,
                "method": scope["method"],
                "route": route,
                "status": answered["status"],
                "bytes": answered["bytes"],
                "ms": round((time.monotonic() - started) * 1000, 3),
                **caller.noted,
            }
            self.log.write(entry)
            if self.tracing is not None:
                self.tracing.record(entry, Headers(scope=scope))

    def _cors(self, scope: Connection) -> dict[str, str]:
        """The headers that let a page of an allowed site read the answer; none for others."""
        origin = Headers(scope=scope).get("origin", "")
        return (
            {"access-control-allow-origin": origin, "vary": "origin", **CORS_HEADERS} if origin in self.origins else {}
        )

    def _check_host(self, scope: Connection) -> None:
        if not self.loopback:
            # Every request needs a key here, which a rebinding page does not have.
            return
        host = Headers(scope=scope).get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not is_loopback(name):
            raise ApiError(400, f"this server does not answer as {name[:100]!r}", code="invalid_host")

    def _check_key(self, scope: Connection) -> ApiKey | None:
        if scope["path"] in PUBLIC:
            return None
        scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        secret = secret.strip()
        looked_up = scheme.lower() == "bearer" and secret.startswith(KEY_PREFIX)
        key = self.store.check_key(secret) if looked_up else None
        if key is None:
            if self.loopback and self._keyless:
                return None
            raise ApiError(
                401,
                "a valid API key is needed, sent as: Authorization: Bearer sk-...",
                code="invalid_api_key",
                kind="authentication_error",
                headers={"www-authenticate": "Bearer"},
            )
        return key

    def _check_scope(self, scope: Connection, key: ApiKey) -> None:
        if scope["path"].startswith("/v1/models"):
            needed: Scope | None = "train" if scope["method"] == "DELETE" else None
        else:
            needed = next((needed for prefix, needed in SCOPES if scope["path"].startswith(prefix)), None)
        if needed is not None and not key.allows(needed):
            raise ApiError(
                403,
                f"this key may not do that: it has the scopes {', '.join(key.scopes)}, but {needed} is needed",
                code="missing_scope",
                kind="permission_error",
            )
