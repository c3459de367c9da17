"""The chat widget: one script that a page of your own site includes; see static/widget.js for its settings."""

from __future__ import annotations

from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from wyrmling.serve.service import Front

PATH = "/widget.js"


@cache
def _script() -> bytes:
    return (resources.files("wyrmling.serve") / "static" / "widget.js").read_bytes()


async def widget(service: Front, request: Request) -> Response:
    """The script. It needs no key: it is the same for everybody, and a browser sends none for a script."""
    headers = {"cache-control": "public, max-age=300", "cross-origin-resource-policy": "cross-origin"}
    return Response(_script(), media_type="text/javascript; charset=utf-8", headers=headers)
