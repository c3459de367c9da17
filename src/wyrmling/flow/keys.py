"""`wyrmling keys`: the API keys of a project's server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from wyrmling.config import Project
from wyrmling.core.store import ApiKey, Store


def listing(project: Project) -> tuple[dict[str, Any], str]:
    """Every key by name and first characters; never a secret."""
    with closing(Store.open(project.database_url)) as store:
        keys = store.list_keys()
    lines = [_line(key) for key in keys] or ["there is no key yet; make one with: wyrmling keys create NAME"]
    return {"keys": [_document(key) for key in keys]}, "\n".join(lines)


class Limits(NamedTuple):
    """How much a key may ask; None does not limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    usd_per_month: float | None = None


def create(
    project: Project, name: str, *, scopes: Sequence[str], days: int | None, limits: Limits
) -> tuple[dict[str, Any], str]:
    """A new key. Its secret is shown this once; the database keeps only its sha256. days: None never expires."""
    expires = None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="microseconds")
    with closing(Store.open(project.database_url)) as store:
        key, secret = store.create_key(name, scopes=scopes, expires=expires, **limits._asdict())
    text = f"{secret}\n{key.id} {name}: keep the secret now, it can't be shown again"
    return {**_document(key), "secret": secret}, text


def revoke(project: Project, key_id: str) -> tuple[dict[str, Any], str]:
    """Close a key for good."""
    with closing(Store.open(project.database_url)) as store:
        key = store.revoke_key(key_id)
    return _document(key), _line(key)


def _document(key: ApiKey) -> dict[str, Any]:
    return asdict(key) | {"scopes": list(key.scopes)}


def _line(key: ApiKey) -> str:
    state = f"revoked {key.revoked}" if key.revoked else "valid" if key.valid else f"expired {key.expires}"
    limits = (
        (key.requests_per_minute, "{} requests a minute"),
        (key.tokens_per_minute, "{} tokens a minute"),
        (key.usd_per_month, "{:g} USD a month"),
    )
    allowed = ", ".join([" ".join(key.scopes), *(text.format(limit) for limit, text in limits if limit is not None)])
    return f"{key.id}  {key.prefix}...  {key.name:<20} made {key.created}  {state}  {allowed}"
