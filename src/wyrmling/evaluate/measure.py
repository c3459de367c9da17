"""One evaluation: the model's answers, and everything that is said about them in metrics.json and the report."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wyrmling.config import Project, Quantize
from wyrmling.core import artifact, steps
from wyrmling.core.energy import Cost
from wyrmling.core.errors import BadInput
from wyrmling.core.log import say, warn
from wyrmling.evaluate import (
    accept,
    calibration,
    costs,
    entities,
    neighbours,
    slices,
    systems,
    tasks,
    verdict,
)
from wyrmling.evaluate.accept import CHAMPION, Criterion
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.outcomes import Outcome, Score, scores
from wyrmling.evaluate.risks import RISKS
from wyrmling.evaluate.statistics import Difference, Ints
from wyrmling.evaluate.systems import Answered
from wyrmling.evaluate.tasks import Rows

if TYPE_CHECKING:
    from wyrmling.evaluate.score import Scorer


@dataclass(frozen=True)
class Evaluation:
    """Everything the report is drawn from.

    document   what metrics.json holds
    beside     the answers of the baselines and of other models, by name
    columns    what the rows can be sliced by
    near       the training rows nearest to each test row
    usd        what was paid to others for the answers
    """

    document: dict[str, Any]
    rows: Rows
    model: Answered
    beside: Mapping[str, Answered]
    columns: slices.Columns
    near: neighbours.Found
    usd: float = 0.0


def evaluate(
    project: Project, folder: Path, rows: Rows, opponents: Mapping[str, Path], quantize: Quantize | None = None
) -> Evaluation:
    """The evaluation of the model in `folder`, beside the cheap baselines and other models."""
    from wyrmling.evaluate import score

    settings = project.settings
    task, machine = settings.objective.task, settings.machine
    scorer = score.load(folder, device=machine.device, threads=machine.threads, quantize=quantize)
    tasks.check_head(task, scorer.model.head_name, folder)
    labels = scorer.labels if task == "classify" else entities.entity_types([scorer.tags])
    asked = test_of(project, rows, labels)
    with project.meter() as meter:
        model = systems.of_model(task, scorer, rows, settings.evaluate)
    cost = meter.cost()
    found = scores(model.outcome) | _costs(task, scorer, rows, cost, folder)
    found |= _risks(project, scorer, rows, [one.metric for one in asked.criteria if one.metric in RISKS[task]])
    baselines = fitted(project, rows, scorer.labels, scorer.tags)
    others = {name: _opponent(project, rows, scorer, path) for name, path in opponents.items()}
    made = Measured(model, found, cost, temperature=_temperature(scorer, rows, model))
    return written(project, folder, asked, made, baselines, others)


@dataclass(frozen=True)
class Test:
    """The test rows with what is known of them and asked of a model before it has answered.

    near       the training rows nearest to each test row
    columns    what the rows can be sliced by
    criteria   the conditions of objective.accept, one per slice where a line is about all of them
    """

    rows: Rows
    near: neighbours.Found
    columns: slices.Columns
    criteria: Sequence[Criterion]


def test_of(project: Project, rows: Rows, labels: Sequence[str]) -> Test:
    """labels: those that conditions may name. Raises BadInput for test rows that are training rows too, as refused."""
    settings, task = project.settings, project.settings.objective.task
    near = neighbours.find([tasks.text_of(row) for row in rows.train], [tasks.text_of(row) for row in rows.test])
    near = near._replace(
        flags=[flag or ("near" if i in rows.given_away else None) for i, flag in enumerate(near.flags)]
    )
    if rows.own_file and settings.evaluate.overlap == "refuse":
        _refuse_overlap(rows, near)
    columns = slices.columns(rows.test, near.flags)
    known = labels if task in accept.SLICED_TASKS else None
    criteria = accept.parse(settings.objective.accept, task, known, slices.values_of(columns))
    return Test(rows, near, columns, accept.expand(criteria, slices.large(columns)))


@dataclass(frozen=True)
class Measured:
    """What a model answered, its scores and what answering took.

    main    the metric that stands for the model. None: that of the task
    part    the metric that slices are compared in. None: that of the task
    """

    answered: Answered
    found: Mapping[str, Score]
    cost: Cost
    temperature: dict[str, Any] | None = None
    main: str | None = None
    part: str | None = None


def written(
    project: Project,
    folder: Path,
    test: Test,
    made: Measured,
    baselines: Mapping[str, Beside],
    others: Mapping[str, Beside],
) -> Evaluation:
    """The evaluation of a model that has answered, with the verdict."""
    settings, task = project.settings, project.settings.objective.task
    rows, near, columns, criteria, model = test.rows, test.near, test.columns, test.criteria, made.answered
    per_class = model.outcome.per_class()
    beside = {name: one.answered.outcome for name, one in {**baselines, **others}.items()}
    absent = () if CHAMPION in others else (CHAMPION,)
    judged = judge(criteria, model.outcome, made.found, columns, beside, absent)
    main, part = made.main or tasks.MAIN_METRIC[task], made.part or slices.METRIC.get(task, slices.DEFAULT_METRIC)
    document = {
        "task": task,
        "goal": settings.objective.goal,
        "objective": artifact.digest(settings.objective.model_dump(mode="json")),
        "rows": len(rows.test),
        "clusters": _clusters(model.outcome),
        "train_rows": len(rows.train),
        "main": main,
        "metrics": {name: one.as_dict() for name, one in made.found.items()},
        "per_class": {label: {name: one.as_dict() for name, one in by.items()} for label, by in per_class.items()},
        "confusion": _confusion(model),
        "reliability": _reliability(model),
        "temperature": made.temperature,
        "slices": [one.as_dict() for one in slices.compared(part, model.outcome, columns)],
        "slice_metric": part,
        "overlap": _overlap((main, part), model.outcome, near),
        "baselines": {name: _beside(task, model, one) for name, one in baselines.items()},
        "opponents": {name: _beside(task, model, one) for name, one in others.items()},
        "verdict": judged.as_dict(),
        "cost": made.cost.as_dict(),
        "training_cost": _training_cost(folder),
        "training_curve": steps.curve(folder.parent / steps.STEPS_FILE) if folder.name == "model" else None,
        "notes": [*model.notes, *_warned(criteria, rows, task, columns, near)],
    }
    return Evaluation(
        document, rows, model, {n: one.answered for n, one in {**baselines, **others}.items()}, columns, near
    )


def _refuse_overlap(rows: Rows, near: neighbours.Found) -> None:
    same = [i for i, flag in enumerate(near.flags) if flag == "same"]
    if not same:
        return
    twin = near.twins[same[0]]
    assert twin is not None
    raise BadInput(
        f"{len(same):,} of {len(rows.test):,} test rows are training rows too, such as {rows.train[twin]['origin']}",
        where=rows.test[same[0]]["origin"],
        fix='take such rows out, or set evaluate.overlap = "report" for scores with and without them',
    )


def _warned(
    criteria: Sequence[Criterion], rows: Rows, task: str, columns: slices.Columns, near: neighbours.Found
) -> list[str]:
    """What a reader should know, said on the terminal too."""
    by_name = rows_by_label(rows.test, task) | slices.rows_by_value(columns)
    problems = accept.impossible(criteria, len(rows.test), by_name)
    if same := near.flags.count("same"):
        problems.append(f"{same:,} of {len(rows.test):,} test rows are training rows too: see the scores without them")
    for problem in problems:
        warn(problem)
    return [*problems, *([near.note] if near.note else [])]


def rows_by_label(rows: Sequence[tasks.Example], task: str) -> dict[str, int]:
    """Rows of each label, or gold entities of each type."""
    if task == "classify":
        names = [name for row in rows for name in ([row["label"]] if row["labels"] is None else row["labels"])]
    elif task == "tag":
        names = [entity.type for row in rows for entity in entities.entities(row["tags"])]
    else:
        names = []
    return {name: names.count(name) for name in sorted(set(names))}


def _risks(project: Project, scorer: Scorer, rows: Rows, names: Sequence[str]) -> dict[str, Score]:
    """The risks that the conditions name; they take time, so no others are measured here."""
    if not names:
        return {}
    from wyrmling.evaluate.risks import examine

    return examine.scores(project, scorer, rows, names)


# ---- what is beside the model ----


@dataclass(frozen=True)
class Beside:
    """A baseline or another model: its answers and what fitting and answering took."""

    answered: Answered
    cost: Cost


def fitted(project: Project, rows: Rows, labels: Sequence[str], tags: Sequence[str]) -> dict[str, Beside]:
    """The cheap baselines of the task; none where evaluate.baselines is false."""
    task = project.settings.objective.task
    if not project.settings.evaluate.baselines:
        return {}
    if not rows.train:
        raise BadInput(
            f"there are no training rows of kind {' or '.join(tasks.KINDS[task])} for the baselines",
            where="data split train",
            fix="set evaluate.baselines = false, or keep rows for training",
        )
    found = {}
    fits = systems.baselines_for(task, rows, labels, tags, project.settings.evaluate)
    for name, baseline in fits.items():
        say(f"baseline {name}: fitting on {len(rows.train):,} rows")
        with project.meter() as meter:
            answered = baseline.run(rows)
        found[name] = Beside(answered, meter.cost())
    return found


def _opponent(project: Project, rows: Rows, model: Scorer, path: Path) -> Beside:
    from wyrmling.evaluate import score

    settings = project.settings
    say(f"answering with {path} too")
    other = score.load(path, device=settings.machine.device, threads=settings.machine.threads)
    tasks.check_head(settings.objective.task, other.model.head_name, path)
    with project.meter() as meter:
        answered = systems.of_opponent(settings.objective.task, other, rows, model, settings.evaluate)
    return Beside(answered, meter.cost())


def _beside(task: str, model: Answered, one: Beside) -> dict[str, Any]:
    """Scores and cost of a baseline or another model, and the model's paired difference in what both have."""
    there = set(model.outcome.names) & set(one.answered.outcome.names)
    shared = [metric for metric in accept.WITH_CHAMPION[task] if metric in there]
    return {
        "metrics": {name: score.as_dict() for name, score in scores(one.answered.outcome).items()},
        "difference": {name: model.outcome.difference(one.answered.outcome, name)._asdict() for name in shared},
        "cost": asdict(one.cost),
        "notes": one.answered.notes,
    }


# ---- the verdict ----


def judge(
    criteria: Sequence[Criterion],
    outcome: Outcome,
    found: Mapping[str, Score],
    columns: slices.Columns,
    beside: Mapping[str, Outcome],
    absent: Collection[str] = (),
) -> verdict.Verdict:
    """The verdict on a system that answered the test rows.

    found    its scores over all rows
    beside   the outcomes of baselines and other models, by name
    """
    labels = outcome.per_class()
    named = {f"{metric}[{label}]": one for label, by in labels.items() for metric, one in by.items()}
    measured = {**found, **named}
    differences: dict[tuple[str, str], Difference] = {}
    for criterion in criteria:
        rows_N = None if criterion.part is None else slices.chosen(columns, *criterion.part)
        part = outcome if rows_N is None else outcome.take(rows_N)
        if criterion.metric in outcome.names and rows_N is not None:
            measured[criterion.name] = part.score(criterion.metric)
        if criterion.against is not None and criterion.against in beside and criterion.metric in outcome.names:
            other = beside[criterion.against]
            other = other if rows_N is None else other.take(rows_N)
            differences[criterion.name, criterion.against] = part.difference(other, criterion.metric)
    return verdict.judge(criteria, measured, differences, absent)


# ---- the parts of metrics.json ----


def _costs(task: str, scorer: Scorer, rows: Rows, cost: Cost, folder: Path) -> dict[str, Score]:
    """Latency one answer at a time; speed, memory, energy and money when rows are scored together; size."""
    from wyrmling.evaluate import score

    seconds = score.latencies(scorer, task, rows.test, most=costs.MOST_TIMED, budget_seconds=costs.TIMING_SECONDS)
    speed = costs.latency(seconds, score.answer_is(task), device=scorer.device)
    return speed | costs.spent(cost, len(rows.test), model_mb=_weights_mb(folder))


def _weights_mb(folder: Path) -> float:
    """MB of the tensors of a model, in however many files; the stored probes are not among them."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.name != "probes.safetensors") / 1e6


def _clusters(outcome: Outcome) -> int | None:
    """Independent groups of test rows; None when every row is one."""
    return None if outcome.cluster_N is None else int(outcome.cluster_N.max()) + 1


def _confusion(model: Answered) -> dict[str, Any] | None:
    """Non-empty cells as [gold, predicted, rows], indices into labels; predicted -1 is no prediction."""
    outcome = model.outcome
    if not isinstance(outcome, ClassOutcome):
        return None
    cells, rows_M = np.unique(np.stack([outcome.gold_N, outcome.predicted_N], axis=1), axis=0, return_counts=True)
    return {"labels": list(outcome.labels), "cells": np.column_stack([cells, rows_M]).tolist()}


def _reliability(model: Answered) -> dict[str, Any] | None:
    outcome = model.outcome
    if not isinstance(outcome, ClassOutcome) or outcome.probabilities_NC is None:
        return None
    bins = calibration.reliability(outcome.probabilities_NC.max(1), outcome.right())
    return {"rows": bins.rows.tolist(), "confidence": bins.confidence.tolist(), "right": bins.right.tolist()}


def _temperature(scorer: Scorer, rows: Rows, model: Answered) -> dict[str, Any] | None:
    """The temperature that fits the validation rows best, and what it does to the test rows; None without either."""
    from wyrmling.evaluate import score

    outcome = model.outcome
    val = [row for row in rows.val if row["label"] in scorer.labels]
    if not isinstance(outcome, ClassOutcome) or outcome.probabilities_NC is None or not val:
        return None
    gold_N = np.array(tasks.gold_labels(val, scorer.labels), dtype=np.int64)
    fitted = calibration.temperature(gold_N, score.classify(scorer, val)[0])
    after = replace(outcome, probabilities_NC=calibration.sharpened(outcome.probabilities_NC, fitted))
    return {
        "value": fitted,
        "rows": len(val),
        "metrics": {name: after.score(name).as_dict() for name in ("log_loss", "brier", "ece")},
    }


def _overlap(names: Sequence[str], outcome: Outcome, near: neighbours.Found) -> dict[str, Any]:
    """Test rows that are or nearly are training rows, and the scores of the others."""
    clean: Ints = np.array([i for i, flag in enumerate(near.flags) if flag is None], dtype=np.int64)
    flagged = len(near.flags) - len(clean)
    part = outcome.take(clean) if flagged and len(clean) else None
    return {
        "same": near.flags.count("same"),
        "near": near.flags.count("near"),
        "without": {} if part is None else {name: part.score(name).as_dict() for name in dict.fromkeys(names)},
    }


def _training_cost(folder: Path) -> dict[str, Any] | None:
    """What the training run cost whose artifact holds the model; None for a model folder that stands alone."""
    manifest = folder.parent / artifact.MANIFEST
    if folder.name != "model" or not manifest.is_file():
        return None
    cost: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["cost"]
    return cost
