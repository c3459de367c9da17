"""Acceptance conditions: grammar, errors at planning time, verdicts, and rows that would settle them."""

from __future__ import annotations

import numpy as np
import pytest

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.evaluate import accept
from wyrmling.evaluate.accept import parse
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.outcomes import Score
from wyrmling.evaluate.statistics import Difference
from wyrmling.evaluate.verdict import Status, judge


def score(value: float | None, low: float | None = None, high: float | None = None, se: float = 0.01) -> Score:
    return Score(value, low, high, 500, "test", se)


def test_every_part_of_a_line_is_read() -> None:
    (one,) = parse(["recall[lost or stolen] >= 0.8"], "classify")
    assert (one.metric, one.label, one.op, one.threshold, one.point) == ("recall", "lost or stolen", ">=", 0.8, False)
    (two,) = parse(["  macro_f1>baseline.tfidf + 0.01 @point"], "classify")
    assert (two.metric, two.op, two.against, two.threshold, two.point) == ("macro_f1", ">", "tfidf", 0.01, True)
    assert [c.threshold for c in parse(["bpb <= 1.3", "latency_p95_ms < 2e2"], "complete")] == [1.3, 200]
    assert parse(["accuracy >= baseline.tfidf - 0.02"], "classify")[0].threshold == -0.02


@pytest.mark.parametrize(
    ("line", "task", "message"),
    [
        ("macro_f1", "classify", "not of the form"),
        ("macrof1 >= 0.8", "classify", "unknown metric 'macrof1'.*did you mean 'macro_f1'"),
        ("bpb <= 1.2", "classify", "unknown metric 'bpb' for the task 'classify'"),
        ("macro_f1 >= high", "classify", "'high' is neither a number"),
        ("macro_f1 >= nan", "classify", "'nan' is neither a number"),
        ("recall[refunds] >= 0.8", "classify", "there is no label 'refunds', did you mean 'refund'"),
        ("recal[refund] >= 0.8", "classify", "'recal' has no value per label, did you mean 'recall'"),
        ("recall >= 0.8", "classify", r"recall\[LABEL\]"),
        ("f1[x] >= 0.8", "complete", "has no labels to slice by"),
        ("macro_f1 >= baseline.tfdf", "classify", "unknown baseline 'tfdf', did you mean 'tfidf'"),
        ("log_loss <= baseline.tfidf", "classify", "can't be compared with a baseline"),
    ],
)
def test_a_bad_line_is_an_error_that_names_the_nearest(line: str, task: str, message: str) -> None:
    with pytest.raises(BadSetting, match=message) as caught:
        parse([line], task, ["refund", "other"] if task == "classify" else None)
    assert caught.value.where == "objective.accept"


@pytest.mark.parametrize(
    ("line", "low", "high", "status"),
    [
        ("macro_f1 >= 0.8", 0.80, 0.90, "PASS"),
        ("macro_f1 > 0.8", 0.80, 0.90, "INCONCLUSIVE"),
        ("macro_f1 >= 0.8", 0.79, 0.90, "INCONCLUSIVE"),
        ("macro_f1 >= 0.8", 0.60, 0.79, "FAIL"),
        ("log_loss <= 0.8", 0.60, 0.80, "PASS"),
        ("log_loss <= 0.8", 0.70, 0.90, "INCONCLUSIVE"),
        ("log_loss <= 0.8", 0.81, 0.90, "FAIL"),
    ],
)
def test_the_interval_decides(line: str, low: float, high: float, status: Status) -> None:
    middle = (low + high) / 2
    verdict = judge(
        parse([line], "classify"), {"macro_f1": score(middle, low, high), "log_loss": score(middle, low, high)}
    )
    assert verdict.status == verdict.lines[0].status == status
    assert verdict.exit_code == {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}[status]


def test_one_fail_outweighs_and_one_inconclusive_holds_back() -> None:
    lines = parse(["accuracy >= 0.5", "macro_f1 >= 0.8", "mcc >= 0.9"], "classify")
    scores = {"accuracy": score(0.9, 0.8, 0.95), "macro_f1": score(0.8, 0.7, 0.9), "mcc": score(0.5, 0.4, 0.6)}
    assert [line.status for line in judge(lines, scores).lines] == ["PASS", "INCONCLUSIVE", "FAIL"]
    assert judge(lines, scores).status == "FAIL"
    assert judge(lines[:2], scores).status == "INCONCLUSIVE"
    assert judge([], scores).status == "PASS"


def test_an_inconclusive_line_says_how_many_rows_would_settle_it() -> None:
    (line,) = judge(parse(["macro_f1 >= 0.80"], "classify"), {"macro_f1": score(0.82, 0.79, 0.85, 0.015)}).lines
    assert line.rows_needed is not None and line.rows_needed > 500
    assert f"{line.rows_needed - 500:,} more test rows" in line.reason
    assert line.text.startswith("INCONCLUSIVE  macro_f1 >= 0.80: 0.82 [0.79, 0.85]")
    (line,) = judge(parse(["macro_f1 >= 0.80"], "classify"), {"macro_f1": score(0.8001, 0.79, 0.85, 0.015)}).lines
    assert "move the threshold" in line.reason


def test_a_value_without_interval_is_inconclusive_unless_it_is_exact_or_asked_for_by_point() -> None:
    scores = {"macro_f1": score(0.9), "model_mb": score(3.0), "latency_p95_ms": score(10.0, 9.0, None)}
    assert judge(parse(["macro_f1 >= 0.8"], "classify"), scores).status == "INCONCLUSIVE"
    pointed = judge(parse(["macro_f1 >= 0.8 @point"], "classify"), scores)
    assert pointed.status == "PASS" and "point value" in pointed.lines[0].reason
    assert judge(parse(["model_mb <= 4"], "classify"), scores).status == "PASS"
    assert judge(parse(["model_mb <= 2"], "classify"), scores).status == "FAIL"
    assert judge(parse(["latency_p95_ms <= 200"], "classify"), scores).status == "INCONCLUSIVE"


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_value_that_is_no_number_is_an_error_never_a_fail(value: float | None) -> None:
    with pytest.raises(BadInput, match=r"entity_f1 >= 0\.5.*can't be judged"):
        judge(parse(["entity_f1 >= 0.5"], "tag"), {"entity_f1": score(value)})


def test_a_label_without_test_rows_is_an_error() -> None:
    with pytest.raises(BadInput, match="the test rows have no such label"):
        judge(parse(["recall[refund] >= 0.5"], "classify", ["refund"]), {})


def test_a_baseline_is_beaten_by_the_paired_difference() -> None:
    lines = parse(["macro_f1 >= baseline.tfidf - 0.01"], "classify")
    scores = {"macro_f1": score(0.9, 0.88, 0.92)}
    for low, high, status in ((-0.005, 0.02, "PASS"), (-0.02, 0.02, "INCONCLUSIVE"), (-0.05, -0.02, "FAIL")):
        difference = Difference((low + high) / 2, low, high, 0.01, 0.5, "paired bootstrap")
        assert judge(lines, scores, {("macro_f1", "tfidf"): difference}).status == status
    with pytest.raises(BadInput, match="baselines were not run"):
        judge(lines, scores)


def test_what_cannot_pass_is_said_before_training() -> None:
    lines = parse(["recall[a] >= 0.95", "recall[b] >= 0.95", "accuracy >= 1", "macro_f1 >= 0.99"], "classify")
    problems = accept.impossible(lines, 500, {"a": 40, "b": 80})
    assert len(problems) == 2
    assert "40 rows, all right, prove at most 0.912; it needs 73 rows" in problems[0]
    assert "no number of rows" in problems[1]


def test_a_real_recall_of_forty_right_rows_does_not_prove_95_percent() -> None:
    gold = np.repeat([0, 1], 40)
    scores = ClassOutcome(["a", "b"], gold, gold).per_class()
    named = {f"{metric}[{label}]": one for label, by in scores.items() for metric, one in by.items()}
    assert judge(parse(["recall[a] >= 0.95"], "classify"), named).status == "INCONCLUSIVE"
    assert judge(parse(["recall[a] >= 0.90"], "classify"), named).status == "PASS"
