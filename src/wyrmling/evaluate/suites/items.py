"""The items of a suite: read from its files, and turned into prompts, choices and expected answers."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from wyrmling.core.errors import BadInput
from wyrmling.evaluate.suites.definition import Suite
from wyrmling.tokenizer import sandbox

Fields = Mapping[str, Any]
# A worked example and the next are parted by an empty line.
_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Item:
    """One question of a suite.

    origin    file and line, or place in its list
    prompt    what the model reads first, worked examples included
    choices   the texts to choose among, the first `right` of them right
    answer    what is expected; of code its tests
    """

    origin: str
    prompt: str
    choices: tuple[str, ...] = ()
    right: int = 1
    answer: str = ""
    group: str = ""
    family: str = ""


def read(suite: Suite, folder: Path, *, shots: int | None = None) -> list[Item]:
    """All items of a suite's files in `folder`.

    shots    worked examples before each. None: as many as the suite says
    Raises   BadInput when no file fits, or an item lacks a field, naming it
    """
    files = sorted(folder.glob(suite.files)) if folder.is_dir() else []
    if not files:
        raise BadInput(
            f"{folder} holds no file {suite.files} of the suite {suite.name}",
            where=folder,
            fix=f"name the folder of its data: wyrmling suite {suite.name} --data DIR",
        )
    found = []
    for file in files:
        before = _worked(suite, folder, file, suite.shots if shots is None else shots)
        for origin, fields in _fields(file, suite.items):
            found.append(_item(suite, origin, {**fields, "file": file.stem}, before))
    return found


def _item(suite: Suite, origin: str, fields: Fields, before: str) -> Item:
    prompt = before + _text(suite.prompt, fields, origin)
    if suite.kind == "last_word":
        prompt, _, word = prompt.rpartition(" ")
        return Item(origin, prompt, answer=f" {word}")
    choices, right = _choices(suite, fields, origin)
    return Item(
        origin,
        prompt,
        choices=choices,
        right=right,
        answer=_text(suite.answer or "", fields, origin).strip(),
        group=_text(suite.group or "", fields, origin),
        family=_text(suite.family or "", fields, origin),
    )


def _choices(suite: Suite, fields: Fields, origin: str) -> tuple[tuple[str, ...], int]:
    """The texts to choose among, the right ones first, and how many those are."""
    if suite.kind != "choice":
        return (), 1
    # Choices that follow a prompt begin where a word does.
    space = " " if suite.prompt else ""
    if suite.key is not None:
        marked = fields.get(suite.key)
        if not isinstance(marked, Mapping) or set(marked.values()) - {0, 1} or 1 not in marked.values():
            raise BadInput(f"the field {suite.key!r} does not map texts to 1 and 0", where=origin, fix="mend the item")
        right = [text for text, is_right in marked.items() if is_right]
        return tuple(space + text for text in (*right, *(text for text in marked if text not in right))), len(right)
    texts = (
        [
            space + part.strip()
            for template in suite.choices
            for part in _text(template, fields, origin).split(suite.separator)
            if part.strip()
        ]
        if suite.separator
        else [space + _text(template, fields, origin) for template in suite.choices]
    )
    if len(texts) <= suite.right:
        raise BadInput("there is nothing to choose among", where=origin, fix="mend the item, or the suite's choices")
    return tuple(texts), suite.right


def _worked(suite: Suite, folder: Path, file: Path, shots: int) -> str:
    """The worked examples before every item of a file, each followed by an empty line."""
    if not shots or suite.shots_from is None:
        return ""
    wanted = _text(suite.shots_from, {"file": file.stem}, str(file))
    source = next(iter(sorted(folder.glob(wanted))), None)
    if source is None:
        raise BadInput(f"{folder} holds no {wanted} for the worked examples", where=folder, fix="use --shots 0")
    if source.suffix == ".txt":
        # The release puts a notice and a line of dashes first.
        return source.read_text(encoding="utf-8").partition("-----\n")[2].strip() + _BETWEEN
    examples = list(_fields(source, suite.items))[:shots]
    return "".join(_text(suite.shot or "", fields, origin) + _BETWEEN for origin, fields in examples)


def _fields(file: Path, key: str | None) -> Iterator[tuple[str, Fields]]:
    """(origin, fields) of every item of a file: lines of JSON, a list of JSON, or rows of CSV."""
    data = file.read_bytes()
    # A byte-order mark would become part of the first field's name.
    text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    try:
        if suffix == ".csv":
            for number, row in enumerate(csv.DictReader(text.splitlines(keepends=True)), 2):
                yield f"{file.name}:{number}", row
        elif suffix == ".jsonl":
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    yield f"{file.name}:{number}", json.loads(line)
        else:
            whole = json.loads(text)
            for number, item in enumerate(whole if key is None else whole[key], 1):
                yield f"{file.name}:{number}", item
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{file.name} can't be read as the items of a suite: {error}", where=file, fix="mend it"
        ) from error


def _text(template: str, fields: Fields, origin: str) -> str:
    try:
        return sandbox.render(_compiled(template), dict(fields))
    except sandbox.FAILURES as error:
        raise BadInput(
            f"the template {template[:60]!r} does not fit the item: {error}",
            where=origin,
            fix=f"the item has the fields {', '.join(map(str, fields))}",
        ) from error


@lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    environment = sandbox.Sandbox()
    # An item without the field is an error, not an empty text.
    environment.undefined = jinja2.StrictUndefined
    environment.keep_trailing_newline = True
    return environment.from_string(template)
