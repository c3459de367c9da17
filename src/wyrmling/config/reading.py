"""A project file as TOML has it, with overrides, to settings; or what is wrong in it and how to mend it."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from wyrmling.config.settings import Settings, default_steps
from wyrmling.core.errors import BadSetting, UsageError


def parse(raw: dict[str, Any], *, where: str) -> Settings:
    """Validated settings. Raises BadSetting that names each bad setting and the nearest known one."""
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(problem, raw) for problem in error.errors()]
        raise BadSetting(
            "\n".join(problems),
            where=where,
            fix="the settings are described in docs/settings.md and by: wyrmling schema",
        ) from error


def _explain(problem: Any, raw: dict[str, Any]) -> str:
    location = problem["loc"]
    name = _dotted(location, raw)
    if problem["type"] == "extra_forbidden":
        key = str(location[-1])
        near = difflib.get_close_matches(key, _known_keys(location[:-1]), n=1)
        prefix = name[: -len(key)]
        return f"{name}: unknown setting" + (f", did you mean {prefix}{near[0]}?" if near else "")
    if problem["type"] == "missing":
        return f"{name}: required setting is missing"
    # The two ways of TOML to write several tables are easily taken for each other.
    if problem["type"] == "dict_type" and isinstance(problem["input"], list):
        return f"{name}: one table for each, [{name}.NAME], not [[{name}]]"
    if problem["type"] == "tuple_type" and isinstance(problem["input"], dict):
        return f"{name}: a list of tables, [[{name}]], not [{name}]"
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name}: {text}" if name else text
    return f"{name} = {json.dumps(problem['input'], default=str)}: {text}"


def _dotted(location: tuple[str | int, ...], raw: Any) -> str:
    """`train.tune.lr` rather than `train.1.lr`: list items are called by their name."""
    parts: list[str] = []
    at = raw
    for part in location:
        try:
            at = at[part]
        except (KeyError, IndexError, TypeError):
            at = None
        named = isinstance(part, int) and isinstance(at, dict) and "name" in at
        parts.append(str(at["name"]) if named else str(part))
    return ".".join(parts)


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    section: type[BaseModel] = Settings
    for part in location:
        # A list's index and a source's name are not fields; the section under them is already found.
        if part in section.model_fields:
            section = _section_of(section.model_fields[str(part)].annotation) or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _section_of(inner)) is not None:
            return found
    return None


def overridden(raw: dict[str, Any], settings: Settings, overrides: Sequence[str]) -> Settings:
    """Validated settings after `section.key=value` overrides. Raises UsageError for a bad one."""
    for override in overrides:
        raw = _override(raw, settings, override)
    try:
        return parse(raw, where="--set")
    except BadSetting as error:
        raise UsageError(error.what, where=error.where, fix=error.fix) from error


def _override(raw: dict[str, Any], settings: Settings, text: str) -> dict[str, Any]:
    """`raw` with one `a.b.c=value` applied. Values are TOML; anything else is taken as text."""
    key, equals, value_text = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            f"--set {text!r} is not of the form section.key=value", fix="for example --set train.tune.lr=1e-4"
        )
    try:
        value = tomllib.loads(f"value = {value_text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = value_text.strip()
    changed: dict[str, Any] = json.loads(json.dumps(raw, default=str))
    at: Any = changed
    *path, last = key.strip().split(".")
    if path and path[0] == "train" and not changed.get("train"):
        changed["train"] = [s.model_dump(exclude_defaults=True) for s in default_steps(settings)]
    for part in path:
        if isinstance(at, list):
            found = [item for item in at if item.get("name") == part]
            if not found:
                names = [item.get("name") for item in at]
                raise UsageError(f"--set {key}: there is no train step {part!r}", fix=f"the steps are {names}")
            at = found[0]
        else:
            at = at.setdefault(part, {})
            if not isinstance(at, (dict, list)):
                raise UsageError(f"--set {key}: {part!r} is a value, not a section")
    if isinstance(at, list):
        raise UsageError(f"--set {key}: name the train step, as in train.tune.{last}=...")
    at[last] = value
    return changed
