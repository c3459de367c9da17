"""Answers kept in artifacts and read back: the ladder of a task with written answers, and answers to another test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluate.conftest import Make
from evaluate.test_remote import roomy
from wyrmling import config
from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.evaluate import cheap, kept, tasks
from wyrmling.flow import ladder


def test_written_answers_of_every_rung_are_compared_on_the_same_rows(make: Make, tmp_path: Path) -> None:
    made = make("chat")
    base = roomy(made, tmp_path / "base")
    step = '[{name="tune", objective="sft", steps=1}]'
    settings = ["objective.task=answer", f"model.base={base}", f"train={step}", "evaluate.answers=6"]
    project = config.load(
        made.project.root, [*settings, "evaluate.answer_tokens=4", 'objective.accept=["rouge1 >= 0"]']
    )
    with pytest.raises(BadSetting, match="compared by their written answers"):
        ladder.run(config.load(made.project.root, [*settings, "evaluate.answers=0"]))
    with pytest.raises(UsageError, match="has no rung 'unigram'"):
        ladder.run(project, ["unigram"])
    found, _ = ladder.run(project, ["bm25", "zero-shot", "few-shot"])
    assert [line.rung.name for line in found.lines] == ["bm25", "zero-shot", "few-shot"] and found.left_out == ()
    assert (found.metric, found.rows, found.reference) == ("token_f1", 6, "bm25")
    assert {line.quality.n for line in found.lines} == {6}
    nearest = found.lines[0]
    assert nearest.quality.value is not None and nearest.quality.value > 0.5  # "It is N, I think." but for the number
    assert all(line.difference is not None and line.difference.value < 0 for line in found.lines[1:])
    assert nearest.rung.verdict is not None and nearest.rung.verdict.status == "PASS"


def test_the_nearest_answer_can_be_a_condition(make: Make) -> None:
    from wyrmling.evaluate import accept

    (line,) = accept.parse(["token_f1 >= baseline.bm25 + 0.1"], "answer")
    assert (line.against, line.threshold) == ("bm25", 0.1)
    with pytest.raises(Exception, match="bpb can't be compared with a baseline"):
        accept.parse(["bpb <= baseline.bm25"], "answer")


def test_answers_to_another_test_are_refused(make: Make) -> None:
    made = make("classify")
    artifact = cheap.run(made.project, made.data, "majority")
    rows = tasks.from_artifact(made.data, "classify").test
    assert kept.read(artifact, rows)["row_id"] == [row["row_id"] for row in rows]
    with pytest.raises(BadInput, match="to none of the 79 test rows"):
        kept.read(artifact, rows[1:])


def test_a_row_without_an_answer_is_wrong(make: Make) -> None:
    made = make("classify")
    rows = tasks.from_artifact(made.data, "classify")
    labels = json.loads((made.data.path / "labels.json").read_text())["labels"]
    right = [row["label"] for row in rows.test]
    missing = [None, *right[1:]]
    found = kept.outcomes("classify", rows, {"all": {"predicted": right}, "one": {"predicted": missing}}, labels, 100)
    assert found["all"].score("accuracy").value == 1
    assert found["one"].score("accuracy").value == pytest.approx(1 - 1 / len(right))
