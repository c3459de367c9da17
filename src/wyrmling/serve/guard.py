"""Who may ask: API keys, the Host header, the size of a body; and what every answer carries.

Without keys only this machine may ask. A page in a browser can reach 127.0.0.1 too, so no CORS header is sent and the
Host header must name this machine: a foreign name that points here (DNS rebinding) is refused.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wyrmling.core.errors import BadSetting
from wyrmling.core.store import Store
from wyrmling.serve.metrics import Metrics
from wyrmling.serve.openai import ApiError

PUBLIC = frozenset({"/livez", "/readyz", "/health"})
MAX_BODY_BYTES = 1_000_000

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
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


@dataclass(frozen=True)
class Guard:
    """ASGI middleware around the whole application.

    store      where the keys are
    loopback   True: only this machine can connect, so a key is asked for only once one has been made
    `scope["state"]` of a request that was let in holds `request_id` and `key_id` (None without keys).
    """

    app: ASGIApp
    store: Store
    loopback: bool
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = "req-" + secrets.token_hex(12)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.answered(scope["path"], message["status"])
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check_host(scope)
            key_id = self._check_key(scope)
            scope.setdefault("state", {}).update(request_id=request_id, key_id=key_id)
            await self.app(scope, receive, send_guarded)
        except ApiError as error:
            answer = JSONResponse(error.body(), error.status, headers=error.headers)
            await answer(scope, receive, send_guarded)

    def _check_host(self, scope: Scope) -> None:
        if not self.loopback:
            # Every request needs a key here, which a rebinding page does not have.
            return
        host = Headers(scope=scope).get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not is_loopback(name):
            raise ApiError(400, f"this server does not answer as {name[:100]!r}", code="invalid_host")

    def _check_key(self, scope: Scope) -> str | None:
        if scope["path"] in PUBLIC or (self.loopback and not self.store.list_keys()):
            return None
        scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        key = self.store.check_key(secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise ApiError(
                401,
                "a valid API key is needed, sent as: Authorization: Bearer sk-...",
                code="invalid_api_key",
                kind="authentication_error",
                headers={"www-authenticate": "Bearer"},
            )
        return key.id
