"""Asking the data stage's ledger: dry run, why, diff, restore."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest

from shell import ask_here, here
from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.errors import BadSetting, UsageError
from wyrmling.flow import ledger, stages

PROJECT = """name = "desk"   # kept
[objective]
task = "classify"

[data.sources.tickets]
path = "tickets.csv"

[data.sources.pages]
path = "pages"

[data.clean]          # rules
profile = "manuals"

[data.split]
test = 0.2
"""
DRAW = random.Random(3)
WORDS = [
    DRAW.choice("bdfgkl") + DRAW.choice("aeiou") + DRAW.choice("mnprst") + DRAW.choice("aeiou") for _ in range(200)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "".join(f"message {n} about {'cards' if n % 2 else 'fees'},{'ab'[n % 2]}\n" for n in range(40))
    (tmp_path / "tickets.csv").write_text(f"text,label\n{rows}MESSAGE 3 about cards!,b\n,a\n")
    (tmp_path / "pages").mkdir()
    for n in range(6):
        (tmp_path / "pages" / f"{n}.txt").write_text(" ".join(WORDS[30 * n : 30 * n + 30]))
    (tmp_path / "pages" / "short.txt").write_text("Ask ann@x.org")
    (tmp_path / "wyrmling.toml").write_text(PROJECT)
    return tmp_path


def load(folder: Path, *overrides: str) -> Project:
    return config.load(folder, overrides)


def test_a_dry_run_shows_examples_of_each_rule_and_writes_nothing(folder: Path) -> None:
    document, text = ledger.preview(load(folder))
    assert not (folder / "runs").exists()
    assert document["by_rule"] == {"exact_duplicate": 1, "words": 1, "empty": 1}
    (example,) = document["examples"]["words"]
    assert (example["origin"], example["value"], example["threshold"]) == ("pages/short.txt", "2", ">= 20")
    assert example["text"] == "Ask <EMAIL_1>"
    assert "pages/short.txt  [2; asks for >= 20]  Ask <EMAIL_1>" in text and "x.org" not in text
    assert document["artifact"] is None
    made = stages.data(load(folder))
    assert {name: made.figures[name] for name in ("read", "kept", "dropped", "by_rule")} == {
        name: document[name] for name in ("read", "kept", "dropped", "by_rule")
    }


def test_a_dry_run_says_what_would_stop_the_stage(folder: Path) -> None:
    document, text = ledger.preview(load(folder, "data.clean.min_chars=1000"))
    assert "none is left to learn from" in document["problem"]
    assert document["problem"] in text
    assert any("too_short" in line for line in document["warnings"])


def test_why_finds_rows_by_id_origin_and_file(folder: Path) -> None:
    project = load(folder)
    with pytest.raises(UsageError, match="no data artifact"):
        ledger.why(project, "tickets.csv:5")
    stages.data(project)
    # The longer of two equal texts stays.
    (row,) = ledger.why(project, "tickets.csv:5")[0]["rows"]
    assert row["why"] == "dropped: its text and label are those of a kept row"
    assert row["kept_origin"] == "tickets.csv:42"
    for name in (row["row_id"], row["row_id"][:8], "row-" + row["row_id"]):
        assert ledger.why(project, name)[0]["rows"] == [row]
    document, text = ledger.why(project, "tickets.csv")
    assert len(document["rows"]) == 42
    assert "42 rows in all" in text
    for name in ("pages/short.txt", "short.txt"):
        assert "2; the rule words asks for >= 20" in ledger.why(project, name)[1]
    assert ledger.why(project, "tickets.csv:2")[1].endswith("split, unchanged")
    with pytest.raises(UsageError, match="no row 'nothing'"):
        ledger.why(project, "nothing")


def test_diff_names_settings_inputs_and_rows_that_changed(folder: Path) -> None:
    before = stages.data(load(folder))
    (folder / "tickets.csv").write_text((folder / "tickets.csv").read_text() + "one more,a\n")
    project = load(folder, "data.clean.profile=table")
    after = stages.data(project)
    document, text = ledger.diff(project, before.id[:6], after.path.name)
    assert document["settings"] == {"data.clean.profile": ["manuals", "table"]}
    assert list(document["inputs"]) == ["tickets: tickets.csv"]
    assert (document["rows_added"], document["rows_removed"]) == (1, 0)
    assert sum(document["changed"].values()) == 1
    assert next(iter(document["changed"])).startswith("words -> ")
    assert "rows added 1" in text
    same, _ = ledger.diff(project, str(after.path), after.id)
    assert same["changed"] == same["settings"] == same["inputs"] == {}
    with pytest.raises(UsageError, match="no data artifact 'zzz'"):
        ledger.diff(project, "zzz", after.id)


def test_restore_edits_the_project_file_and_brings_the_rows_back(folder: Path) -> None:
    document, text = ledger.restore(load(folder), "words")
    assert document["restored"] == 1
    assert document["by_rule"] == {"exact_duplicate": 1, "empty": 1}
    written = (folder / "wyrmling.toml").read_text()
    assert written == PROJECT.replace("# rules\n", '# rules\nrestore = ["words"]\n')
    assert "1 rows are no longer dropped" in text
    again, _ = ledger.restore(load(folder), "exact_duplicate")
    assert again["by_rule"] == {"empty": 1}
    assert tomllib.loads((folder / "wyrmling.toml").read_text())["data"]["clean"]["restore"] == [
        "words",
        "exact_duplicate",
    ]
    assert ledger.restore(load(folder), "words")[0]["restored"] == 0


def test_restore_adds_the_section_when_there_is_none(folder: Path) -> None:
    plain = PROJECT.replace('[data.clean]          # rules\nprofile = "manuals"\n\n', "")
    (folder / "wyrmling.toml").write_text(plain)
    assert ledger.restore(load(folder), "exact_duplicate")[0]["restored"] == 1
    assert (folder / "wyrmling.toml").read_text() == f'{plain}\n[data.clean]\nrestore = ["exact_duplicate"]\n'


def test_what_can_not_be_restored_leaves_the_file_alone(folder: Path) -> None:
    with pytest.raises(BadSetting, match="no rule that can be restored"):
        ledger.restore(load(folder), "empty")
    inline = PROJECT.replace(
        '[data.clean]          # rules\nprofile = "manuals"\n', '[data]\nclean.profile = "manuals"\n'
    )
    (folder / "wyrmling.toml").write_text(inline)
    with pytest.raises(BadSetting, match=r'write under \[data.clean\]: restore = \["words"\]'):
        ledger.restore(load(folder), "words")
    assert (folder / "wyrmling.toml").read_text() == inline


def test_the_command_line_has_one_word_for_all_of_it(folder: Path) -> None:
    plan: dict[str, Any] = ask_here("data", "--project", folder, "--dry-run")
    assert plan["examples"]["words"]
    made = ask_here("data", "--project", folder)
    assert set(made) == {"read", "kept", "dropped", "errors", "by_rule", "artifact", "reused"}
    changed = ask_here("data", "--project", folder, "--set", "data.clean.profile=table")
    found = ask_here("data", "diff", "--project", folder, Path(made["artifact"]).name, Path(changed["artifact"]).name)
    assert found["settings"] == {"data.clean.profile": ["manuals", "table"]}
    assert ask_here("data", "why", "tickets.csv:5", "--project", folder)["rows"][0]["rule"] == "exact_duplicate"
    assert ask_here("data", "restore", "words", "--project", folder)["restored"] == 1
    misplaced = here("data", "--project", folder, "why", "tickets.csv:42", check=False)
    assert misplaced.exit_code == 2
    assert "after the word why" in misplaced.stderr
    wrong = here("data", "why", "nothing", "--project", folder, "--json", check=False)
    assert wrong.exit_code == 2
    assert "no row" in json.loads(wrong.stdout)["error"]["message"]


def test_restore_keeps_the_line_ends_of_the_file(folder: Path) -> None:
    (folder / "wyrmling.toml").write_bytes(PROJECT.replace("\n", "\r\n").encode())
    ledger.restore(load(folder), "words")
    written = (folder / "wyrmling.toml").read_bytes().decode()
    assert written.replace('restore = ["words"]\r\n', "").replace('restore = ["words"]\n', "") == PROJECT.replace(
        "\n", "\r\n"
    )
