"""Challenger against champion: what has to hold before a retrained model takes over, each with its numbers.

Quality is compared row by row on the same test rows. What is not shown either way is INCONCLUSIVE, with the number of
rows that would tell.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wyrmling.config import Retrain
from wyrmling.core.artifact import Artifact
from wyrmling.evaluate import metrics, power, statistics
from wyrmling.evaluate.accept import LENGTHS
from wyrmling.evaluate.verdict import Status
from wyrmling.feedback.collect import SOURCES, matching

# With fewer rows a part says nothing.
MIN_ROWS = 20
# A label among this many of the champion's likeliest is plausible, if the champion knows more than twice as many.
LIKELIEST = 5
SHOWN = 3
_TEST = [("split", "==", "test")]


@dataclass(frozen=True)
class Condition:
    """One condition, and how it came out."""

    name: str
    status: Status
    text: str

    @property
    def line(self) -> str:
        return f"{self.status:<12} {self.name}: {self.text}"


@dataclass(frozen=True)
class Evidence:
    """What is known about both models.

    data         what the challenger learned from and both were tested on
    new, old     their evaluations on the project's test rows; `new` was compared `against` the champion
    new_frozen, old_frozen  the same on the frozen share of the feedback; None without any
    accepted     the champion's evaluation on the labels that were accepted; None for texts, or without any
    unseen       the lines of the accepted labels that the champion did not learn from
    same_shape   whether both models have the same sizes, and so the same cost
    """

    data: Artifact
    new: Artifact
    old: Artifact
    new_frozen: Artifact | None
    old_frozen: Artifact | None
    accepted: Artifact | None
    unseen: frozenset[int]
    same_shape: bool


def judge(evidence: Evidence, settings: Retrain) -> list[Condition]:
    """Every condition, in the order a reader asks for them."""
    found = [_main(evidence, settings), *_accepted_objective(evidence), _parts(evidence, settings)]
    if evidence.new_frozen is not None and evidence.old_frozen is not None:
        found.append(_regressions(evidence.new_frozen, evidence.old_frozen, settings))
    if evidence.accepted is not None:
        found.append(_plausible(evidence, evidence.accepted, settings))
    return [*found, *_cost(evidence, settings), _contamination(evidence.data)]


def overall(conditions: Sequence[Condition]) -> Status:
    """Any FAIL is FAIL; else any INCONCLUSIVE is INCONCLUSIVE; else PASS."""
    statuses = {condition.status for condition in conditions}
    return "FAIL" if "FAIL" in statuses else "INCONCLUSIVE" if "INCONCLUSIVE" in statuses else "PASS"


def _main(evidence: Evidence, settings: Retrain) -> Condition:
    """Not worse than the champion by more than the margin, shown by the whole interval."""
    name = evidence.new.figures["main"]
    found = evidence.new.figures["opponents"]["against"]["difference"][name]
    scores = [evidence.new.figures["metrics"][name], evidence.new.figures["opponents"]["against"]["metrics"][name]]
    sign = -1 if name in metrics.LOWER_IS_BETTER else 1
    value, ends = sign * found["value"], sorted(sign * found[end] for end in ("low", "high") if found[end] is not None)
    text = f"{scores[0]['value']:.4f} against {scores[1]['value']:.4f} on {scores[0]['n']:,} rows, gain {value:+.4f}"
    if len(ends) < 2:
        return Condition(name, "INCONCLUSIVE", f"{text}; too few test rows for an interval")
    text += f" ({ends[0]:+.4f} to {ends[1]:+.4f}), margin {settings.margin:g}"
    if ends[0] > -settings.margin:
        return Condition(name, "PASS", text)
    if ends[1] < -settings.margin:
        return Condition(name, "FAIL", text)
    rows, se = scores[0]["n"], found["se"] or 0.0
    needed = power.rows_needed(rows, se, value, -settings.margin)
    more = "" if needed is None else f"; about {max(1, needed - rows):,} more test rows would tell"
    return Condition(name, "INCONCLUSIVE", text + more)


def _accepted_objective(evidence: Evidence) -> Iterator[Condition]:
    for line in evidence.new.figures["verdict"]["lines"]:
        yield Condition("objective", line["status"], f"{line['criterion']}: {line['reason']}")


# ---- parts of the test rows ----


def _parts(evidence: Evidence, settings: Retrain) -> Condition:
    """No part of the test rows is clearly worse: by label, length and source, corrected for looking at many."""
    rows = _paired(evidence.new, evidence.old)
    places: dict[str, list[int]] = defaultdict(list)
    for at, names in enumerate(_part_names(evidence.data, rows)):
        for name in names:
            places[name].append(at)
    gain_N = np.array([row["gain"] for row in rows])
    parts = [(name, gain_N[at]) for name, at in sorted(places.items()) if MIN_ROWS <= len(at) < len(rows)]
    p_values = statistics.holm([_p_worse(gain) for _, gain in parts])
    worse = [
        f"{name} {gain.mean():+.3f} on {len(gain):,} rows"
        for (name, gain), p in zip(parts, p_values, strict=True)
        if p < 1 - statistics.CONFIDENCE and gain.mean() < -settings.slice_margin
    ]
    if worse:
        return Condition("parts", "FAIL", f"worse by more than {settings.slice_margin:g}: {', '.join(worse[:SHOWN])}")
    return Condition("parts", "PASS", f"none of {len(parts)} parts is worse by more than {settings.slice_margin:g}")


def _part_names(data: Artifact, rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """The parts that each row belongs to."""
    import pyarrow.parquet as pq

    table = pq.read_table(data.path / "examples.parquet", columns=["row_id", "source", "text"], filters=_TEST)
    known = {row["row_id"]: row for row in table.to_pylist()}
    sizes = [row["bytes"] or len(known[row["row_id"]]["text"] or "") for row in rows]
    thirds = np.quantile(sizes, [1 / 3, 2 / 3])
    for row, size in zip(rows, sizes, strict=True):
        names = [f"length={LENGTHS[int((size > thirds).sum())]}", f"source={known[row['row_id']]['source']}"]
        yield [*names, *(f"label={label}" for label in row["labels"])]


def _p_worse(gain_N: statistics.Floats) -> float:
    """Two-sided p-value that neither model is better in a part; 1 where the new one is."""
    mean = float(gain_N.mean())
    if mean >= 0:
        return 1.0
    if set(np.unique(gain_N)) <= {-1.0, 0.0, 1.0}:
        return statistics.mcnemar(int((gain_N > 0).sum()), int((gain_N < 0).sum()))
    return statistics.two_sided_p(mean, float(gain_N.std(ddof=1)) / math.sqrt(len(gain_N)))


def _paired(new: Artifact, old: Artifact) -> list[dict[str, Any]]:
    """The rows of both evaluations: how much better the new model did each, in rows right or in bits per byte."""
    before = {row["row_id"]: row for row in _predictions(old)}
    return [
        {
            "gain": _did(row) - _did(before[row["row_id"]]),
            "row_id": row["row_id"],
            "labels": _labels_of(row),
            "bytes": row.get("bytes"),
            "learned": row.get("near_train") == "same",
        }
        for row in _predictions(new)
        if row["row_id"] in before
    ]


def _labels_of(row: dict[str, Any]) -> list[str]:
    """The label that a classified row has, or all of them; none of rows of other tasks."""
    gold = row.get("gold")
    if isinstance(gold, str):
        return [gold]
    # Tags are a list too, but have no probabilities.
    return gold if gold is not None and "probabilities" in row else []


def _did(row: dict[str, Any]) -> float:
    if "predicted" in row:
        return float(row["predicted"] == row["gold"])
    return -float(row["text_nats"]) / (max(1, int(row["bytes"])) * math.log(2))


def _predictions(evaluation: Artifact) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    from wyrmling.evaluate.run import PREDICTIONS

    rows: list[dict[str, Any]] = pq.read_table(evaluation.path / PREDICTIONS).to_pylist()
    return rows


# ---- feedback ----


def _regressions(new: Artifact, old: Artifact, settings: Retrain) -> Condition:
    """What people corrected or confirmed and no training saw: the champion's right answers stay right."""
    every = _paired(new, old)
    # The project's own sources may say the same: what was learned is no test.
    rows = [row for row in every if not row["learned"]]
    # Texts have no right or wrong: one is broken when it got clearly worse.
    least = 0.5 if "predicted" in _predictions(new)[0] else 0.25
    broken = sum(row["gain"] < -least for row in rows)
    fixed = sum(row["gain"] > least for row in rows)
    allowed = int(settings.new_failures * len(rows))
    # A weak champion's right answers change with every training. A share of 0 is meant: nothing may break.
    outweighed = broken < fixed and settings.new_failures > 0
    text = f"{broken} of {len(rows)} frozen items newly wrong ({allowed} allowed), {fixed} newly right"
    if len(rows) < len(every):
        text += f"; {len(every) - len(rows)} stand in the project's training rows and don't count"
    return Condition("regressions", "PASS" if broken <= allowed or outweighed else "FAIL", text)


def _plausible(evidence: Evidence, accepted: Artifact, settings: Retrain) -> Condition:
    """Could the texts mean what their corrections say?

    Where the champion errs on test rows, the right label is often one of its next likeliest. Right corrections are
    such errors too, so they are found among its likeliest as often; labels given at random are not. A weak champion
    thus is no reason to doubt a correction, and it does not matter how many answers were only confirmed.
    """
    labels = _labels(accepted)
    most = min(LIKELIEST, (len(labels) + 1) // 2)
    rows = [row for row in _predictions(accepted) if int(row["origin"].rpartition(":")[2]) in evidence.unseen]
    corrections = [row for row in rows if row["predicted"] != row["gold"]]
    if most < 2:
        return Condition("feedback", "PASS", f"{len(rows):,} labels are not judged: there are too few kinds of them")
    if not corrections:
        return Condition("feedback", "PASS", f"none of {len(rows):,} accepted labels is a correction")
    doubtful = [row for row in corrections if row["gold"] not in _likeliest(row, labels, most)]
    tests = _predictions(evidence.old)
    # A champion that makes no errors has no label of its own that it finds unlikely.
    errors = [row for row in tests if row["predicted"] != row["gold"]] or tests
    far = sum(row["gold"] not in _likeliest(row, labels, most) for row in errors)
    low, high = statistics.newcombe(len(doubtful), len(corrections), far, len(errors))
    text = (
        f"{len(doubtful)} of {len(corrections)} corrections are not among the champion's {most} likeliest labels, nor "
        f"are {far} of {len(errors)} right labels of its errors on test rows: {low:+.0%} to {high:+.0%}, "
        f"{settings.implausible:+.0%} allowed"
    )
    if low > settings.implausible:
        return Condition("feedback", "FAIL", f"{text}; review them, such as {doubtful[0]['origin']}")
    return Condition("feedback", "PASS", text)


def _labels(evaluation: Artifact) -> list[str]:
    """The labels that the columns of probabilities are of; none where a row may have several of them."""
    import pyarrow.parquet as pq

    from wyrmling.evaluate.run import PREDICTIONS

    about = pq.read_schema(evaluation.path / PREDICTIONS).metadata or {}
    labels: list[str] = json.loads(about.get(b"labels", b"[]"))
    return labels


def _likeliest(row: dict[str, Any], labels: Sequence[str], most: int) -> set[str]:
    return {labels[i] for i in np.argsort(row["probabilities"])[::-1][:most]}


# ---- cost, contamination ----


def _cost(evidence: Evidence, settings: Retrain) -> Iterator[Condition]:
    if evidence.same_shape:
        yield Condition("cost", "PASS", "the same sizes as the champion, so the same time and energy per answer")
        return
    new, old = evidence.new.figures["metrics"], evidence.old.figures["metrics"]
    for name in ("latency_p95_ms", "wh_per_1k", "model_mb"):
        ratio = new[name]["value"] / old[name]["value"]
        text = f"{new[name]['value']:.4g} against {old[name]['value']:.4g}, at most {1 + settings.extra_cost:g} times"
        yield Condition(name, "PASS" if ratio <= 1 + settings.extra_cost else "FAIL", text)


def _contamination(data: Artifact) -> Condition:
    """No feedback that is learned from asks what a test row asks."""
    import pyarrow.parquet as pq

    columns = ["source", "split", "text", "messages"]
    rows = pq.read_table(data.path / "examples.parquet", columns=columns).to_pylist()
    learned = {_asked(row) for row in rows if row["source"] in SOURCES and row["split"] == "train"}
    shared = sum(row["split"] == "test" and _asked(row) in learned for row in rows)
    text = f"{shared} test rows are among the {len(learned):,} texts of feedback that are learned from"
    return Condition("contamination", "PASS" if shared == 0 else "FAIL", text)


def _asked(row: dict[str, Any]) -> str:
    said = row["text"] or "\n".join(message["content"] for message in (row["messages"] or [])[:-1])
    return matching(said)


def same_shape(new: Path, old: Path) -> bool:
    """Whether two model folders hold models of the same sizes."""
    return (new / "config.json").read_bytes() == (old / "config.json").read_bytes()
