"""The settings as documents: the page `docs/settings.md`, made from the descriptions in `config`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from wyrmling import config

HEAD = """\
# Settings

Every setting of `wyrmling.toml`, in pipeline order. `-` as the default means None: derived, or off, as the text says;
`wyrmling plan` prints what was derived and why. Any of them can be overridden for one command:
`--set train.tune.lr=1e-4`. This page is printed by `wyrmling schema --markdown`.
"""


def page() -> str:
    """All settings as Markdown, one table per section."""
    parts = [HEAD.rstrip()]
    _section(parts, config.Settings, "")
    return "\n\n".join(parts) + "\n"


def _section(parts: list[str], section: type[BaseModel], path: str) -> None:
    rows, inner = [], []
    for name, field in section.model_fields.items():
        found = _section_of(field.annotation)
        if found is None:
            # A cell is one line.
            meaning = " ".join((field.description or "").split())
            rows.append(f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {meaning} |")
        else:
            inner.append((found, _path(path, name, field.annotation)))
    if rows:
        parts.append(f"## [{path}]" if path else "## At the top")
        if section.__doc__:
            parts.append(section.__doc__.strip())
        parts.append("\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows]))
    for found, where in inner:
        _section(parts, found, where)


def _path(path: str, name: str, annotation: Any) -> str:
    where = f"{path.strip('[]')}.{name}" if path else name
    if get_origin(annotation) is dict:
        return f"{where}.NAME"
    return f"[{where}]" if get_origin(annotation) is tuple else where


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_of(inner)) is not None), None)


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin is tuple:
        return "list of text"
    if origin is not None:
        return " or ".join(_type(inner) for inner in get_args(annotation) if inner is not type(None))
    return {str: "text", bool: "true or false", int: "integer", float: "number"}.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "-"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{list(field.default)}`" if isinstance(field.default, tuple) else f"`{field.default}`"
