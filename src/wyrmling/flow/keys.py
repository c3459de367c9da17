"""`wyrmling keys`: the API keys of a project's server."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from wyrmling.config import Project
from wyrmling.core.store import ApiKey, Store


def listing(project: Project) -> tuple[dict[str, Any], str]:
    """Every key by name and first characters; never a secret."""
    with closing(Store.open(project.database_url)) as store:
        keys = store.list_keys()
    lines = [_line(key) for key in keys] or ["there is no key yet; make one with: wyrmling keys create NAME"]
    return {"keys": [_document(key) for key in keys]}, "\n".join(lines)


def create(project: Project, name: str) -> tuple[dict[str, Any], str]:
    """A new key. Its secret is shown this once; the database keeps only its sha256."""
    with closing(Store.open(project.database_url)) as store:
        key, secret = store.create_key(name)
    text = f"{secret}\n{key.id} {name}: keep the secret now, it can't be shown again"
    return {**_document(key), "secret": secret}, text


def revoke(project: Project, key_id: str) -> tuple[dict[str, Any], str]:
    """Close a key for good."""
    with closing(Store.open(project.database_url)) as store:
        key = store.revoke_key(key_id)
    return _document(key), _line(key)


def _document(key: ApiKey) -> dict[str, Any]:
    return {"id": key.id, "name": key.name, "prefix": key.prefix, "created": key.created, "revoked": key.revoked}


def _line(key: ApiKey) -> str:
    state = f"revoked {key.revoked}" if key.revoked else "valid"
    return f"{key.id}  {key.prefix}...  {key.name:<20} made {key.created}  {state}"
