"""Challenger against champion, condition by condition, on evaluations as they lie on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wyrmling.config import Retrain
from wyrmling.core.artifact import Artifact
from wyrmling.flow import duel
from wyrmling.flow.duel import Evidence

LABELS = ["a", "b", "c", "d"]
SETTINGS = Retrain()
N = 200


def gold(n: int = N) -> list[str]:
    return [LABELS[i % 4] for i in range(n)]


def evaluation(
    folder: Path, name: str, predicted: list[str], *, difference=(0.0, -0.01, 0.01), lines=(), learned=0, **figures
):
    """An evaluation of a classifier whose answers are these."""
    path = folder / name
    path.mkdir()
    n = len(predicted)
    near = np.full((n, 4), 0.1)
    for row, label in enumerate(predicted):
        near[row, LABELS.index(label)] = 0.6
        near[row, (LABELS.index(label) + 1) % 4] = 0.2
    table = pa.table(
        {
            "row_id": [f"{i:016x}" for i in range(n)],
            "origin": [f"t.csv:{i}" for i in range(n)],
            "gold": gold(n),
            "predicted": predicted,
            "probabilities": near.tolist(),
            "near_train": ["same" if i < learned else None for i in range(n)],
        }
    )
    pq.write_table(table.replace_schema_metadata({"labels": json.dumps(LABELS)}), path / "predictions.parquet")
    value, low, high = difference
    score = {"value": 0.8, "low": 0.75, "high": 0.85, "n": n}
    cost = {name: {"value": 10.0} for name in ("latency_p95_ms", "wh_per_1k", "model_mb")}
    against = {
        "metrics": {"macro_f1": score},
        "difference": {"macro_f1": {"value": value, "low": low, "high": high, "se": (high - low) / 3.92}},
    }
    figures = {
        "main": "macro_f1", "metrics": {"macro_f1": score, **cost}, "opponents": {"against": against},
        "verdict": {"status": "PASS", "lines": list(lines)},
    } | figures  # fmt: skip
    return Artifact(path, {"id": name, "figures": figures})


@pytest.fixture
def data(tmp_path: Path) -> Artifact:
    path = tmp_path / "data"
    path.mkdir()
    table = {
        "row_id": [f"{i:016x}" for i in range(N)],
        "source": ["web" if i < 100 else "mail" for i in range(N)],
        "split": ["test"] * N,
        "text": [f"row {i} " + "x" * (i % 30) for i in range(N)],
        "messages": [None] * N,
    }
    pq.write_table(pa.table(table), path / "examples.parquet")
    return Artifact(path, {"id": "data"})


def evidence(data: Artifact, new: Artifact, old: Artifact, **more) -> Evidence:
    given = {
        "new_frozen": None,
        "old_frozen": None,
        "accepted": None,
        "unseen": frozenset(range(N)),
        "same_shape": True,
    }
    given |= more
    return Evidence(data, new, old, **given)


def statuses(found) -> dict[str, str]:
    return {condition.name: condition.status for condition in found}


@pytest.mark.parametrize(
    ("difference", "status"),
    [
        ((0.01, -0.005, 0.025), "PASS"),
        ((-0.005, -0.015, 0.005), "PASS"),
        ((-0.01, -0.04, 0.02), "INCONCLUSIVE"),
        ((-0.05, -0.07, -0.03), "FAIL"),
        ((0.0, None, None), "INCONCLUSIVE"),
    ],
)
def test_the_whole_interval_must_be_above_the_margin(tmp_path, data, difference, status):
    if difference[1] is None:
        new = evaluation(tmp_path, "new", gold())
        found = new.figures["opponents"]["against"]["difference"]["macro_f1"]
        found |= {"low": None, "high": None}
    else:
        new = evaluation(tmp_path, "new", gold(), difference=difference)
    conditions = duel.judge(evidence(data, new, evaluation(tmp_path, "old", gold())), SETTINGS)
    assert statuses(conditions)["macro_f1"] == status
    assert duel.overall(conditions) == status
    wide = duel.judge(evidence(data, new, evaluation(tmp_path, "older", gold())), Retrain(margin=0.5))
    assert statuses(wide)["macro_f1"] == ("PASS" if difference[1] is not None else "INCONCLUSIVE")
    if difference == (-0.01, -0.04, 0.02):
        assert "more test rows would tell" in conditions[0].text


def test_losses_are_turned_round(tmp_path, data):
    difference = {"value": -0.05, "low": -0.06, "high": -0.04, "se": 0.005}
    score = {"value": 1.0, "n": N}
    against = {"metrics": {"bpb": score}, "difference": {"bpb": difference}}
    figures = {"main": "bpb", "metrics": {"bpb": score}, "opponents": {"against": against}}
    new = evaluation(tmp_path, "new", gold(), **figures)
    (main, *_) = duel.judge(evidence(data, new, evaluation(tmp_path, "old", gold())), SETTINGS)
    assert (main.status, "gain +0.05" in main.text) == ("PASS", True)


def test_a_part_that_got_clearly_worse_stops_a_model_that_is_no_worse_overall(tmp_path, data):
    right = gold()
    # A third of one label breaks; as many rows of the others are mended.
    new = ["b" if label == "a" and i % 3 == 0 else label for i, label in enumerate(right)]
    old = ["d" if label == "c" and i % 3 == 0 else label for i, label in enumerate(right)]
    both = evaluation(tmp_path, "new", new), evaluation(tmp_path, "old", old)
    parts = next(one for one in duel.judge(evidence(data, *both), SETTINGS) if one.name == "parts")
    assert parts.status == "FAIL" and "label=a" in parts.text and "label=c" not in parts.text
    lenient = duel.judge(evidence(data, *both), Retrain(slice_margin=0.5))
    assert statuses(lenient)["parts"] == "PASS"


def test_many_parts_do_not_make_chance_a_failure(tmp_path, data):
    draw, right = np.random.default_rng(0), gold()
    failures = 0
    for trial in range(20):
        answers = [[LABELS[draw.integers(4)] if draw.random() < 0.2 else label for label in right] for _ in range(2)]
        folder = tmp_path / str(trial)
        folder.mkdir()
        both = evaluation(folder, "new", answers[0]), evaluation(folder, "old", answers[1])
        failures += statuses(duel.judge(evidence(data, *both), SETTINGS))["parts"] == "FAIL"
    assert failures <= 3


@pytest.mark.parametrize(
    ("broken", "fixed", "status"), [(0, 0, "PASS"), (2, 0, "PASS"), (3, 0, "FAIL"), (3, 3, "FAIL"), (3, 4, "PASS")]
)
def test_frozen_feedback_that_was_right_stays_right(tmp_path, data, broken, fixed, status):
    right = gold(40)
    wrong = [LABELS[(LABELS.index(label) + 1) % 4] for label in right]
    new = wrong[:broken] + right[broken:]
    old = right[: 40 - fixed] + wrong[40 - fixed :]
    frozen = evaluation(tmp_path, "nf", new), evaluation(tmp_path, "of", old)
    both = evaluation(tmp_path, "new", gold()), evaluation(tmp_path, "old", gold())
    found = duel.judge(evidence(data, *both, new_frozen=frozen[0], old_frozen=frozen[1]), SETTINGS)
    condition = next(one for one in found if one.name == "regressions")
    assert condition.status == status
    assert f"{broken} of 40 frozen items newly wrong (2 allowed), {fixed} newly right" in condition.text
    strict = duel.judge(evidence(data, *both, new_frozen=frozen[0], old_frozen=frozen[1]), Retrain(new_failures=0))
    assert statuses(strict)["regressions"] == ("PASS" if broken == 0 else "FAIL")


def test_frozen_feedback_that_the_projects_own_rows_repeat_is_no_test(tmp_path, data):
    right = gold(40)
    frozen = evaluation(tmp_path, "nf", ["a" if x != "a" else "b" for x in right[:10]] + right[10:], learned=10)
    both = evaluation(tmp_path, "new", gold()), evaluation(tmp_path, "old", gold())
    before = evaluation(tmp_path, "of", right)
    found = duel.judge(evidence(data, *both, new_frozen=frozen, old_frozen=before), SETTINGS)
    condition = next(one for one in found if one.name == "regressions")
    assert condition.status == "PASS" and "0 of 30 frozen items" in condition.text and "10 stand in" in condition.text


def answers(right: list[str], near: int, far: int) -> list[str]:
    """Answers to rows with these labels: `near` errors have the right label second, `far` more have it third."""
    steps = [3] * near + [2] * far
    return [LABELS[(LABELS.index(label) + (steps[i] if i < len(steps) else 0)) % 4] for i, label in enumerate(right)]


@pytest.mark.parametrize(
    ("near", "far", "near_errors", "far_errors", "status"),
    [
        (0, 0, 20, 5, "PASS"),
        (40, 10, 40, 10, "PASS"),
        # a weak champion: half of its errors on test rows are as far off
        (45, 45, 60, 60, "PASS"),
        (60, 30, 60, 60, "PASS"),
        (10, 40, 40, 10, "FAIL"),
        (0, 40, 0, 0, "FAIL"),
        # three corrections say nothing against four errors
        (0, 3, 3, 1, "PASS"),
    ],
)
def test_corrections_are_as_likely_as_the_right_labels_of_errors_on_test_rows(
    tmp_path, data, near, far, near_errors, far_errors, status
):
    accepted = evaluation(tmp_path, "accepted", answers(gold(100), near, far))
    both = evaluation(tmp_path, "new", gold()), evaluation(tmp_path, "old", answers(gold(), near_errors, far_errors))
    condition = next(
        one for one in duel.judge(evidence(data, *both, accepted=accepted), SETTINGS) if one.name == "feedback"
    )
    assert condition.status == status
    if near + far:
        assert condition.text.startswith(f"{far} of {near + far} corrections are not among the champion's 2 likeliest")
    assert ("review them, such as t.csv:" in condition.text) == (status == "FAIL")
    lenient = duel.judge(evidence(data, *both, accepted=accepted), Retrain(implausible=1))
    assert statuses(lenient)["feedback"] == "PASS"
    # Confirmed answers say nothing about the corrections, and what the champion learned from can't be judged by it.
    later = evidence(data, *both, accepted=accepted, unseen=frozenset(range(near + far, 100)))
    assert statuses(duel.judge(later, SETTINGS))["feedback"] == "PASS"


def test_random_corrections_of_a_weak_champion_are_told_from_right_ones(tmp_path, data):
    draw, labels = np.random.default_rng(1), [f"l{i:02}" for i in range(77)]

    def asked(n: int, wrong: float) -> Artifact:
        """Rows whose right label the champion has first in 40 %, among its five likeliest in 65 %."""
        rank = np.where(
            draw.random(n) < 0.4, 0, np.where(draw.random(n) < 0.42, draw.integers(1, 5, n), draw.integers(5, 77, n))
        )
        given = np.where(draw.random(n) < wrong, draw.integers(0, 77, n), rank)
        path = tmp_path / f"{n}-{wrong}"
        path.mkdir()
        orders = [draw.permutation(77) for _ in range(n)]
        table = pa.table(
            {
                "row_id": [f"{i:016x}" for i in range(n)],
                "origin": [f"t.csv:{i}" for i in range(n)],
                "gold": [labels[order[place]] for order, place in zip(orders, given, strict=True)],
                "predicted": [labels[order[0]] for order in orders],
                "probabilities": [(1.0 / (1 + np.argsort(order))).tolist() for order in orders],
            }
        )
        pq.write_table(table.replace_schema_metadata({"labels": json.dumps(labels)}), path / "predictions.parquet")
        return Artifact(path, {"id": path.name})

    old, new = asked(3000, 0), evaluation(tmp_path, "new", gold())
    unseen = frozenset(range(270))
    for wrong, status in ((0.0, "PASS"), (0.3, "FAIL")):
        found = duel._plausible(Evidence(data, new, old, None, None, None, unseen, True), asked(270, wrong), SETTINGS)
        assert found.status == status, found.text


def test_cost_counts_when_the_sizes_differ(tmp_path, data):
    new = evaluation(tmp_path, "new", gold())
    old = evaluation(tmp_path, "old", gold())
    new.figures["metrics"]["wh_per_1k"]["value"] = 13.0
    same = statuses(duel.judge(evidence(data, new, old), SETTINGS))
    assert same["cost"] == "PASS"
    differ = statuses(duel.judge(evidence(data, new, old, same_shape=False), SETTINGS))
    assert (differ["wh_per_1k"], differ["latency_p95_ms"]) == ("FAIL", "PASS")
    assert (
        statuses(duel.judge(evidence(data, new, old, same_shape=False), Retrain(extra_cost=0.5)))["wh_per_1k"] == "PASS"
    )


def test_a_missed_objective_is_a_failure(tmp_path, data):
    line = {"criterion": "macro_f1 >= 0.9", "status": "FAIL", "reason": "0.8"}
    new = evaluation(tmp_path, "new", gold(), lines=[line])
    found = statuses(duel.judge(evidence(data, new, evaluation(tmp_path, "old", gold())), SETTINGS))
    assert (found["objective"], found["contamination"]) == ("FAIL", "PASS")


@pytest.mark.parametrize(("source", "status"), [("accepted_feedback", "FAIL"), ("tickets", "PASS")])
def test_feedback_that_asks_what_a_test_row_asks_is_a_failure(tmp_path, data, source, status):
    table = pq.read_table(data.path / "examples.parquet").to_pylist()
    learned = {"row_id": "f" * 16, "source": source, "split": "train", "text": "ROW 0!", "messages": None}
    pq.write_table(pa.Table.from_pylist([*table, learned]), data.path / "examples.parquet")
    both = evaluation(tmp_path, "new", gold()), evaluation(tmp_path, "old", gold())
    assert statuses(duel.judge(evidence(data, *both), SETTINGS))["contamination"] == status
