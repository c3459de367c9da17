from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting
from wyrmling.data import run

Rows = Callable[[Artifact], list[dict[str, Any]]]

FINDER = """
import re

def find(text):
    return [match.span() for match in re.finditer(r"Ann Lee|Bob", text)]

def wrong(text):
    return [(0, len(text) + 1)]
"""
SOURCE = '[data.sources.a]\npath = "a.jsonl"\n[data.split]\nval = 0\n[data.clean]\nnames = "{}"\n'


def project_with(make_project: Callable[..., Project], name: str, reference: str) -> Project:
    texts = ["Ann Lee wrote to Bob at b@x.org, and Ann Lee waits.", "Nobody is named here.", "Bob answered Ann Lee."]
    lines = "".join(f'{{"text": "{text}"}}\n' for text in texts)
    return make_project({"a.jsonl": lines, f"{name}.py": FINDER}, SOURCE.format(reference))


def test_names_that_a_function_of_the_project_finds_are_masked_and_counted(
    make_project: Callable[..., Project], examples: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = run.run(project_with(make_project, "people_a", "people_a:find"))
    assert {row["text"] for row in examples(artifact)} == {
        "<NAME_1> wrote to <NAME_2> at <EMAIL_1>, and <NAME_1> waits.",
        "Nobody is named here.",
        "<NAME_1> answered <NAME_2>.",
    }
    assert artifact.manifest["figures"]["redactions"] == {"EMAIL": 1, "NAME": 5}
    card = (artifact.path / "card.md").read_text()
    assert "Names are those that `people_a:find` finds" in card
    assert "names of people are not looked for" not in capsys.readouterr().err


def test_without_a_function_the_output_and_the_card_say_that_names_stay(
    make_project: Callable[..., Project], examples: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    project = project_with(make_project, "people_b", "people_b:find")
    text = (project.root / config.PROJECT_FILE).read_text()
    (project.root / config.PROJECT_FILE).write_text(text.replace('names = "people_b:find"', ""))
    artifact = run.run(config.load(project.root))
    assert any("Ann Lee" in row["text"] for row in examples(artifact))
    assert "names of people are not looked for, see data.clean.names" in capsys.readouterr().err
    assert "Names of people and postal addresses are not looked for" in (artifact.path / "card.md").read_text()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("people_c:none", "people_c:none.*can't be imported"),
        ("no_such_module:find", "no_such_module"),
        ("people_c", "can't be imported"),
        ("people_c:wrong", r"gives the span \(0, "),
    ],
)
def test_a_function_that_is_none_or_gives_wrong_spans_is_an_error(
    make_project: Callable[..., Project], reference: str, message: str
) -> None:
    with pytest.raises(BadSetting, match=message) as raised:
        run.run(project_with(make_project, "people_c", reference))
    assert raised.value.where == "data.clean.names"
