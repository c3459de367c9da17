"""The API as an OpenAPI document, made from the routes and the shapes of their requests."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from wyrmling import __version__
from wyrmling.serve.conversation import ChatRequest
from wyrmling.serve.embeddings import EmbeddingRequest
from wyrmling.serve.fine_tuning import JobRequest
from wyrmling.serve.moderations import ModerationRequest
from wyrmling.serve.openai import ClassifyRequest, CompletionRequest, FeedbackRequest, TagRequest

BODIES: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/moderations": ModerationRequest,
    "/v1/classify": ClassifyRequest,
    "/v1/tag": TagRequest,
    "/v1/feedback": FeedbackRequest,
    "/v1/fine_tuning/jobs": JobRequest,
}
UPLOAD = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string"}},
    "required": ["file", "purpose"],
}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                name: {"type": ["string", "null"]} if name in ("param", "code") else {"type": "string"}
                for name in ("message", "type", "param", "code")
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def document(routes: Iterable[tuple[str, str, Callable[..., Awaitable[Any]]]]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes: method, path and handler of each."""
    _, shapes = models_json_schema(
        [(shape, "validation") for shape in BODIES.values()], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for method, path, handler in routes:
        # Starlette's way of saying that a name may hold slashes.
        plain = re.sub(r":path}", "}", path)
        paths.setdefault(plain, {})[method.lower()] = _operation(method, plain, handler)
    return {
        "openapi": "3.1.0",
        "info": {"title": "wyrmling", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**shapes.get("$defs", {}), "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # A key, or none where none was made.
        "security": [{"key": []}, {}],
    }


def _operation(method: str, path: str, handler: Callable[..., Awaitable[Any]]) -> dict[str, Any]:
    refused = {"$ref": "#/components/schemas/Error"}
    operation: dict[str, Any] = {
        "summary": (inspect.getdoc(handler) or "").partition("\n")[0],
        "responses": {
            "200": {"description": "The answer."},
            "default": {"description": "An error.", "content": {"application/json": {"schema": refused}}},
        },
    }
    names = re.findall(r"{(\w+)}", path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if method == "POST" and path in BODIES:
        shape = {"$ref": f"#/components/schemas/{BODIES[path].__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": shape}}}
    elif method == "POST" and path == "/v1/files":
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD}}}
    return operation
