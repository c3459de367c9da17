"""Rules that are told to drop nothing, and lines that a source's pages share."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting
from wyrmling.data import run
from wyrmling.data.filters import PROFILES, RESTORABLE

MakeProject = Callable[..., Project]
Rows = Callable[[Artifact], list[dict[str, Any]]]

DRAW = random.Random(3)
WORDS = [
    DRAW.choice("bdfgkl") + DRAW.choice("aeiou") + DRAW.choice("mnprst") + DRAW.choice("aeiou") for _ in range(300)
]
FILES = {f"docs/{n}.md": " ".join(WORDS[30 * n : 30 * n + 30]) + "." for n in range(9)}
SOURCE = '[data.sources.a]\npath = "docs"\n[data.clean]\nprofile = "manuals"\n'


def test_a_restored_rule_drops_nothing_and_the_next_rule_still_does(make_project: MakeProject, ledger: Rows) -> None:
    short = {"docs/short.md": "Two words, mail me@x.org", "docs/bad.md": "1 2 3 4"}
    project = make_project({**FILES, **short}, SOURCE)
    rules = {row["origin"]: row["rule"] for row in ledger(run.run(project))}
    assert (rules["docs/short.md"], rules["docs/bad.md"]) == ("words", "words")
    done = run.run(config.load(project.root, ['data.clean.restore=["words"]']))
    rows = {row["origin"]: row for row in ledger(done)}
    # What stays is masked like every kept row; what breaks another rule too is dropped by that one.
    assert (rows["docs/short.md"]["verdict"], rows["docs/short.md"]["rule"]) == ("changed", "restored_words,pii")
    assert rows["docs/bad.md"]["rule"] == "mean_word_length"
    assert done.figures["changes"]["restored_words"] == 1


@pytest.mark.parametrize(
    ("rule", "extra"),
    [
        ("exact_duplicate", {"docs/copy.md": FILES["docs/0.md"]}),
        ("near_duplicate", {"docs/x.md": FILES["docs/0.md"] + " Yes"}),
    ],
)
def test_duplicates_can_be_restored_and_stay_on_one_side(
    make_project: MakeProject, examples: Rows, rule: str, extra: dict[str, str]
) -> None:
    project = make_project({**FILES, **extra}, SOURCE)
    assert run.run(project).figures["by_rule"][rule] == 1
    done = run.run(config.load(project.root, [f'data.clean.restore=["{rule}"]']))
    assert done.figures["dropped"] == 0
    pair = [row for row in examples(done) if row["cluster"]]
    assert len(pair) == 2
    assert len({(row["cluster"], row["split"]) for row in pair}) == 1


@pytest.mark.parametrize(("rule", "said"), [("in_test", "no rule"), ("empty", "no rule"), ("wordz", "'words'")])
def test_what_can_not_be_restored_is_refused(make_project: MakeProject, rule: str, said: str) -> None:
    project = make_project(FILES, SOURCE)
    with pytest.raises(BadSetting, match=said):
        run.run(config.load(project.root, [f'data.clean.restore=["{rule}"]']))


def test_every_quality_rule_can_be_restored() -> None:
    assert {rule.name for rules in PROFILES.values() for rule in rules} <= set(RESTORABLE)
