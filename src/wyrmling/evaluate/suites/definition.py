"""What a suite is: where its items are, how each is asked, and what counts as right. A few lines of TOML, no code.

Texts are Jinja templates over the fields of an item, in the sandbox that chat templates run in. The shipped
definitions are in `tasks/`; their data is not shipped, and is read from a folder.
"""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from wyrmling.config import Section, Strings
from wyrmling.core.errors import BadInput, BadSetting, UsageError

Templates = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else tuple(value) if value is not None else ()),
]


class Suite(Section):
    """One suite, as its file says."""

    name: str
    """What it is called."""
    about: str = ""
    """What it asks, in a sentence."""
    files: str
    """Which files of the data folder hold its items, as a glob: jsonl, json, csv."""
    items: str | None = None
    """The key of a JSON file under which the list of items is. None: the file is the list."""
    kind: Literal["choice", "answer", "last_word", "code"]
    """choice: the likeliest of several texts; answer: a written answer; last_word: the last word of a text; code: a
    program that passes the item's tests."""
    prompt: str = ""
    """What comes before the choices or the answer."""
    choices: Templates = ()
    """The texts to choose among, the right ones first; see `right`."""
    right: int = Field(default=1, ge=1)
    """So many of the choices are right."""
    separator: str | None = None
    """Cuts one choice template into several texts, such as ";"."""
    key: str | None = None
    """Instead of `choices`: the field that maps each text to 1 (right) or 0."""
    answer: str | None = None
    """The expected answer; for code the tests."""
    compare: Literal["number", "exact", "contains"] = "exact"
    """How a written answer is compared: as numbers, as texts without case and outer punctuation, or contained."""
    extract: str | None = None
    """A regular expression; the answer is its last match, or what its group 1 matched."""
    stop: Strings = ()
    """Texts that end an answer."""
    max_tokens: int = Field(default=256, ge=1)
    """Tokens of an answer at most."""
    shots: int = Field(default=0, ge=0)
    """Worked examples before each item."""
    shots_from: str | None = None
    """The file they come from: its first items; of a .txt file, all of it."""
    shot: str | None = None
    """One worked example."""
    group: str | None = None
    """The part of the suite an item belongs to; its parts are scored apart too."""
    family: str | None = None
    """What several parts belong to."""
    average: Literal["items", "groups"] = "items"
    """Whether the score is the mean over items, or over the means of the groups."""

    @model_validator(mode="after")
    def _asks_something(self) -> Suite:
        needed = {"choice": (self.choices or self.key), "last_word": self.prompt}.get(self.kind, self.answer)
        if not needed:
            raise ValueError(
                {"choice": "give choices or key", "last_word": "give prompt"}.get(self.kind, "give answer")
            )
        if self.average == "groups" and self.group is None:
            raise ValueError('average = "groups" needs group')
        if self.shots and not self.shots_from:
            raise ValueError("shots needs shots_from")
        return self


def shipped() -> dict[str, Suite]:
    """The definitions in the package, by name."""
    folder = resources.files("wyrmling.evaluate.suites") / "tasks"
    found = [
        parse(file.read_text(encoding="utf-8"), file.name)
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".toml")
    ]
    return {suite.name: suite for suite in found}


def find(reference: str) -> Suite:
    """The suite that a name or a TOML file means. Raises UsageError for neither; BadSetting for a bad file."""
    path = Path(reference)
    if path.suffix == ".toml":
        if not path.is_file():
            raise BadInput(f"{path} does not exist", where=path, fix="name a file that defines a suite")
        return parse(path.read_text(encoding="utf-8"), str(path))
    known = shipped()
    if reference not in known:
        raise UsageError(
            f"there is no suite {reference!r}", fix=f"use one of {', '.join(known)}, or a .toml file of yours"
        )
    return known[reference]


def parse(text: str, where: str) -> Suite:
    """The suite in a TOML text. Raises BadSetting naming what is wrong in it."""
    try:
        return Suite.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"not valid TOML: {error}", where=where, fix="mend the line that the message names") from error
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        given = (
            "" if problem["type"] in ("missing", "value_error") else f" = {json.dumps(problem['input'], default=str)}"
        )
        raise BadSetting(
            f"{name}{given}: {problem['msg'].removeprefix('Value error, ')}".lstrip(": "),
            where=where,
            fix="the settings of a suite are described in docs/suites.md",
        ) from error
