from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput
from wyrmling.data import run
from wyrmling.data.labels import settle_tags
from wyrmling.data.rows import Row

MakeProject = Callable[..., Project]
Rows = Callable[[Artifact], list[dict[str, Any]]]

SOURCE = '[data.sources.a]\npath = "a.csv"\ntext = "text"\nlabel = "label"\n'
CARDS = ("card", "pin", "chip", "plastic", "contactless", "terminal")
FEES = ("fee", "charge", "rate", "price", "cost", "percent")


def tickets(count: int = 120, wrong: tuple[int, ...] = ()) -> str:
    """Two labels with words of their own; the rows in `wrong` carry the other label."""
    draw = random.Random(5)
    lines = ["text,label"]
    for n in range(count):
        kind = n % 2
        some = [draw.choice((CARDS, FEES)[kind]) for _ in range(4)]
        label = ("cards", "fees")[kind ^ (n in wrong)]
        lines.append(f"Number {n} asks about {' and '.join(some)},{label}")
    return "\n".join(lines) + "\n"


def review(data: Artifact) -> list[dict[str, str]]:
    with (data.path / "label_review.csv").open(encoding="utf-8-sig", newline="") as handle:
        return list(csv.DictReader(handle))


def decide(folder: Path, rows: list[dict[str, str]], *, delimiter: str = ",", encoding: str = "utf-8-sig") -> None:
    with (folder / "label_review.csv").open("w", encoding=encoding, newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


APPLY = 'data.labels.review="label_review.csv"'
CHECK = "data.labels.check=true"


def test_flipped_labels_are_listed_with_the_label_they_should_have(make_project: MakeProject) -> None:
    wrong = (10, 41, 77)
    project = make_project({"a.csv": tickets(wrong=wrong)}, SOURCE, task="classify")
    assert not (run.run(project).path / "label_review.csv").exists()
    done = run.run(config.load(project.root, [CHECK]))
    rows = review(done)
    assert {row["origin"] for row in rows[:3]} == {f"a.csv:{n + 2}" for n in wrong}
    assert {row["finding"] for row in rows} == {"likely_wrong"}
    assert all(row["suggested"] != row["label"] for row in rows)
    assert [float(row["confidence"]) for row in rows] == sorted(float(row["confidence"]) for row in rows)
    assert done.figures["labels_to_review"] == {"likely_wrong": len(rows)}
    assert "label_review.csv" in (done.path / "card.md").read_text()


def test_the_list_does_not_depend_on_the_order_of_the_rows(make_project: MakeProject) -> None:
    header, *lines = tickets(wrong=(3, 8)).splitlines()
    found = []
    for seed in range(2):
        random.Random(seed).shuffle(lines)
        project = make_project({"a.csv": "\n".join([header, *lines])}, SOURCE, task="classify")
        rows = review(run.run(config.load(project.root, [CHECK])))
        found.append([(row["row_id"], row["suggested"], row["confidence"]) for row in rows])
    assert found[0] == found[1]


def test_an_edited_review_is_applied_and_what_was_decided_is_not_asked_again(
    make_project: MakeProject, ledger: Rows, examples: Rows
) -> None:
    project = make_project({"a.csv": tickets(wrong=(10, 41, 77))}, SOURCE, task="classify")
    rows = review(run.run(config.load(project.root, [CHECK])))[:3]
    for row, decision in zip(rows, (rows[0]["suggested"], "drop", "keep"), strict=True):
        row["decision"] = decision
    for delimiter, encoding in ((",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-16")):
        decide(project.root, rows, delimiter=delimiter, encoding=encoding)
        done = run.run(config.load(project.root, [CHECK, APPLY]))
        decided = {row["origin"]: row for row in ledger(done)}
        relabelled, dropped, kept = (decided[row["origin"]] for row in rows)
        assert relabelled["rule"] == "relabelled"
        assert (dropped["verdict"], dropped["rule"]) == ("dropped", "review")
        assert kept["verdict"] == "kept"
        labels = {row["origin"]: row["label"] for row in examples(done)}
        assert labels[rows[0]["origin"]] == rows[0]["decision"]
        assert labels[rows[2]["origin"]] == rows[2]["label"]
        assert not {row["origin"] for row in review(done)} & {row["origin"] for row in rows}


def test_another_decision_gives_another_artifact(make_project: MakeProject) -> None:
    project = make_project({"a.csv": tickets(wrong=(10, 41, 77))}, SOURCE, task="classify")
    rows = review(run.run(config.load(project.root, [CHECK])))[:1]
    ids = set()
    for decision in ("", "keep", "drop"):
        rows[0]["decision"] = decision
        decide(project.root, rows)
        ids.add(run.run(config.load(project.root, [APPLY])).id)
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        ("row_id,label\nrow-1,a\n", "decision"),
        ("row_id,decision\nrow-{id},feez\n", "did you mean 'fees'"),
        ("row_id,decision\nrow-{id},drop\n{id},keep\n", "two decisions"),
    ],
)
def test_a_review_that_can_not_be_applied_says_why(
    make_project: MakeProject, ledger: Rows, content: str | None, said: str
) -> None:
    project = make_project({"a.csv": tickets()}, SOURCE, task="classify")
    row_id = ledger(run.run(project))[0]["row_id"]
    if content is not None:
        (project.root / "label_review.csv").write_text(content.replace("{id}", row_id), encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        run.run(config.load(project.root, [APPLY]))


def test_decisions_on_rows_that_are_gone_or_official_do_nothing(
    make_project: MakeProject, ledger: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    official = '[data.sources.b]\npath = "b.csv"\ntext = "text"\nlabel = "label"\nsplit = "test"\n'
    files = {"a.csv": tickets(), "b.csv": "text,label\nan official row about pins,cards\n"}
    project = make_project(files, SOURCE + official, task="classify")
    row_id = ledger(run.run(project))[-1]["row_id"]
    (project.root / "label_review.csv").write_text(f"row_id,decision\nrow-{row_id},drop\nrow-0,drop\n")
    assert run.run(config.load(project.root, [APPLY])).figures["dropped"] == 0
    assert "2 of 2 decisions" in capsys.readouterr().err


def test_equal_and_nearly_equal_texts_with_different_labels_are_named(make_project: MakeProject, ledger: Rows) -> None:
    long = "I sent money to my sister on Monday and it has not come yet, what is to be done"
    extra = f'"{long}",cards\n"{long} now",fees\nsame words,cards\nSame words!,fees\n'
    done = run.run(make_project({"a.csv": tickets() + extra}, SOURCE, task="classify"))
    rules = {row["origin"]: row["rule"] for row in ledger(done)[-4:]}
    assert list(rules.values()) == ["near_label_conflict"] * 2 + ["label_conflict"] * 2
    assert done.figures["labels_to_review"] == {"conflict": 2, "near_conflict": 2}
    assert [row["finding"] for row in review(done)].count("near_conflict") == 2
    assert {row["suggested"] for row in review(done)} == {""}


def test_a_label_of_few_rows_is_not_judged(make_project: MakeProject) -> None:
    rare = "".join(f"rare thing {n} about chip and pin,rare\n" for n in range(4))
    done = run.run(config.load(make_project({"a.csv": tickets() + rare}, SOURCE, task="classify").root, [CHECK]))
    assert not [row for row in review(done) if row["label"] == "rare"]


def tagged(tags: str, source: str = "s") -> Row:
    names = tags.split()
    return Row(source, "x", "conll", "tagged", words=["w"] * len(names), tags=names)


def test_types_without_prefix_become_bio() -> None:
    rows = [tagged("O PER PER O LOC PER"), tagged("O O")]
    settle_tags(rows)
    assert rows[0].tags == ["O", "B-PER", "I-PER", "O", "B-LOC", "B-PER"]
    assert rows[0].rules == ["bio"]
    assert rows[1].rules == []


def test_tags_in_bio_and_parts_of_speech_stay() -> None:
    rows = [tagged("B-PER I-PER O"), tagged("NOUN VERB DET", source="pos")]
    settle_tags(rows)
    assert all(row.verdict == "kept" for row in rows)


def test_a_tag_outside_the_scheme_drops_the_row_and_names_the_tag(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [tagged("B-PER O"), tagged("O PERS O"), tagged("B- O")]
    settle_tags(rows)
    assert [row.verdict for row in rows] == ["kept", "dropped", "dropped"]
    assert (rows[1].rules[-1], rows[1].value) == ("bad_tags", "PERS")
    assert "2 rows" in capsys.readouterr().err


def test_entities_are_counted_on_the_card(make_project: MakeProject) -> None:
    text = "\n\n".join(f"Anna{n}\tPER\nLee\tPER\nsleeps\tO" for n in range(20))
    sources = '[data.sources.a]\npath = "a.conll"\nformat = "conll"\n'
    done = run.run(make_project({"a.conll": text}, sources, task="tag"))
    card = (done.path / "card.md").read_text()
    counts = next(line for line in card.split("\n") if line.startswith("| PER |"))
    assert sum(int(cell) for cell in counts.split("|")[2:5]) == 20
