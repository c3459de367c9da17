"""Lists in pages: the query of a request, checked, and the shape of the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from wyrmling.serve.openai import ApiError, unsupported


def query_of(request: Request, known: Iterable[str]) -> dict[str, str]:
    """The query of a request. Raises ApiError 400 for a key that would be ignored."""
    for name in request.query_params:
        if name not in known and not (name.startswith("metadata[") and "metadata" in known):
            raise unsupported(name[:100])
    return dict(request.query_params)


def limit_of(query: dict[str, str], *, default: int, most: int) -> int:
    """How many rows a page has. Raises ApiError 400 outside 1 to `most`."""
    raw = query.get("limit")
    if raw is None:
        return default
    if not (raw.isascii() and raw.isdigit() and 1 <= int(raw[:9]) <= most):
        raise ApiError(400, f"limit: must be a number from 1 to {most}", code="invalid_value", param="limit")
    return int(raw)


def page_of(found: Callable[[], tuple[Sequence[Any], bool]], shown: Callable[[Any], dict[str, Any]]) -> JSONResponse:
    """A page. An `after` that is not in the list is refused: page one again would let a client go round for ever."""
    try:
        rows, more = found()
    except KeyError:
        raise ApiError(400, "after: there is no such row in this list", code="invalid_value", param="after") from None
    data = [shown(row) for row in rows]
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": more,
        }
    )
