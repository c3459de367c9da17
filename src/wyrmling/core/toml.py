"""Writing TOML; the standard library only reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def lines(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The lines of a TOML table. JSON's strings, numbers, booleans and flat lists are TOML's too."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    rows = {
        key: value for key, value in table.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    for key, value in table.items():
        if key not in inner and key not in rows and value is not None:
            yield f"{key} = {json.dumps(value)}"
    for key, value in inner.items():
        yield f"[{prefix}{key}]"
        yield from lines(value, f"{prefix}{key}.")
    for key, items in rows.items():
        for item in items:
            yield f"[[{prefix}{key}]]"
            yield from lines(item, f"{prefix}{key}.")
