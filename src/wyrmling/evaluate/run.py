"""From a model folder and held-out rows to scores with intervals, a verdict on `objective.accept`, and a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wyrmling.config import Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key, file_digest
from wyrmling.core.energy import Cost
from wyrmling.core.errors import BadInput
from wyrmling.core.log import say, warn
from wyrmling.evaluate import accept, metrics, statistics, systems, tasks
from wyrmling.evaluate.outcomes import ClassOutcome, Score
from wyrmling.evaluate.statistics import Difference
from wyrmling.evaluate.systems import Answered
from wyrmling.evaluate.tasks import Rows

if TYPE_CHECKING:
    from wyrmling.evaluate.score import Scorer

VERSION = 1
METRICS, PREDICTIONS, REPORT = "metrics.json", "predictions.parquet", "report.html"
# Answers timed one at a time; the 95th percentile has an upper bound from 72.
LATENCY_ROWS, LATENCY_SECONDS = 200, 10.0
# The files of a model folder that decide its answers.
_MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "wyrmling.json")


def run(project: Project, data: Artifact, model: Path, *, test_file: Path | None = None) -> Artifact:
    """The evaluation of a model on the test rows of the data artifact, or on those of a file.

    model      a model folder, or a train artifact that holds one
    Artifact   metrics.json, predictions.parquet, report.html; figures hold rows, metrics, baselines and verdict
    Raises     BadSetting for a bad line of objective.accept; BadInput for test rows that can't be scored
    """
    settings = project.settings
    task = settings.objective.task
    # Before anything is loaded: a misspelt condition should not cost minutes.
    accept.parse(settings.objective.accept, task)
    folder = _model_folder(model)
    inputs = {"data": data.id, "model": _digest(folder)}
    if test_file is not None:
        if not test_file.is_file():
            raise BadInput(f"{test_file} does not exist", where="--test", fix="name a file that can be read")
        inputs["test"] = file_digest(test_file)
    shaping = {
        "task": task,
        "goal": settings.objective.goal,
        "accept": list(settings.objective.accept),
        "evaluate": settings.evaluate.model_dump(),
        "device": settings.machine.device,
    }
    key = Key("evaluate", settings.name, inputs, shaping, VERSION)
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    with artifact.create(project.runs, key, project.meter()) as draft:
        rows = tasks.from_artifact(data, task) if test_file is None else tasks.from_file(project, data, test_file)
        found = _evaluate(project, folder, rows)
        _write(draft.path, found)
        draft.figures = figures(found.document)
    return draft.done


@dataclass(frozen=True)
class Evaluation:
    """Everything the report is drawn from: the document of metrics.json, the rows, and the model's answers to them."""

    document: dict[str, Any]
    rows: Rows
    model: Answered


def figures(document: Mapping[str, Any]) -> dict[str, Any]:
    """The part of metrics.json that goes into the manifest and to `wyrmling evaluate --json`."""
    wanted = ("task", "rows", "main", "metrics", "baselines", "verdict", "notes")
    return {name: document[name] for name in wanted} | {"report": REPORT}


def _model_folder(path: Path) -> Path:
    """As model.folder.locate, without loading torch: finding a finished evaluation must stay quick."""
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    raise BadInput(f"{path} is not a model folder", where=path, fix="name a folder that holds config.json")


def _digest(folder: Path) -> str:
    return artifact.digest({name: file_digest(folder / name) for name in _MODEL_FILES if (folder / name).is_file()})


def _evaluate(project: Project, folder: Path, rows: Rows) -> Evaluation:
    from wyrmling.evaluate import score

    settings = project.settings
    task, resamples = settings.objective.task, settings.evaluate.resamples
    machine = settings.machine
    scorer = score.load(folder, device=machine.device, threads=machine.threads)
    tasks.check_head(task, scorer.model.head_name, folder)
    labels = scorer.labels if task == "classify" else metrics.entity_types([scorer.tags])
    criteria = accept.parse(settings.objective.accept, task, labels if task in accept.SLICED_TASKS else None)
    with project.meter() as meter:
        model = systems.of_model(task, scorer, rows, resamples)
    cost = meter.cost()
    notes = list(model.notes)
    for problem in accept.impossible(criteria, len(rows.test), _rows_by_label(rows, task)):
        warn(problem)
        notes.append(problem)
    scores = model.outcome.scores() | _costs(task, scorer, rows, cost, folder)
    per_class = model.outcome.per_class()
    beside, differences = _baselines(project, rows, scorer, model) if settings.evaluate.baselines else ({}, {})
    named = {f"{metric}[{label}]": one for label, by in per_class.items() for metric, one in by.items()}
    verdict = accept.judge(criteria, scores | named, differences)
    document = {
        "task": task,
        "goal": settings.objective.goal,
        "rows": len(rows.test),
        "train_rows": len(rows.train),
        "main": tasks.MAIN_METRIC[task],
        "metrics": {name: one.as_dict() for name, one in scores.items()},
        "per_class": {label: {name: one.as_dict() for name, one in by.items()} for label, by in per_class.items()},
        "confusion": _confusion(model),
        "reliability": _reliability(model),
        "baselines": beside,
        "verdict": verdict.as_dict(),
        "cost": cost.as_dict(),
        "training_cost": _training_cost(folder),
        "notes": notes,
    }
    return Evaluation(document, rows, model)


def _rows_by_label(rows: Rows, task: str) -> dict[str, int]:
    """Test rows of each label, or gold entities of each type."""
    if task == "classify":
        names = [row["label"] for row in rows.test]
    elif task == "tag":
        names = [entity.type for row in rows.test for entity in metrics.entities(row["tags"])]
    else:
        names = []
    return {name: names.count(name) for name in set(names)}


def _costs(task: str, scorer: Scorer, rows: Rows, cost: Cost, folder: Path) -> dict[str, Score]:
    """Latency one answer at a time, size, and energy and money of 1,000 answers when rows are scored together."""
    from wyrmling.evaluate import score

    n = len(rows.test)
    seconds = score.latencies(scorer, task, rows.test, most=LATENCY_ROWS, budget_seconds=LATENCY_SECONDS)
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    found = {}
    for name, quantile in (("latency_p50_ms", 0.5), ("latency_p95_ms", 0.95)):
        low, high = statistics.quantile_interval(seconds * 1000, quantile)
        value = float(np.quantile(seconds, quantile)) * 1000
        note = None if high is not None else f"no upper bound from {len(seconds)} answers"
        signature = metrics.signature(name, f"one at a time|{score.answer_is(task)}", device=scorer.device)
        found[name] = Score(value, low, high, len(seconds), signature, None, note)
    exact = {
        "model_mb": (megabytes, "weights file"),
        "wh_per_1k": (cost.wh / n * 1000, f"batched|{cost.meter}"),
        "usd_per_1k": (cost.usd / n * 1000, f"batched|{cost.meter}"),
    }
    for name, (value, how) in exact.items():
        found[name] = Score(value, None, None, n, metrics.signature(name, how))
    return found


def _baselines(
    project: Project, rows: Rows, scorer: Scorer, model: Answered
) -> tuple[dict[str, Any], dict[tuple[str, str], Difference]]:
    """Scores and cost of each baseline, and the model's paired difference to it in every metric both have."""
    task = project.settings.objective.task
    found: dict[str, Any] = {}
    differences = {}
    fits = systems.baselines_for(task, rows, scorer.labels, scorer.tags, project.settings.evaluate.resamples)
    if not rows.train:
        raise BadInput(
            f"there are no training rows of kind {' or '.join(tasks.KINDS[task])} for the baselines",
            where="data split train",
            fix="set evaluate.baselines = false, or keep rows for training",
        )
    for name, fit in fits.items():
        say(f"baseline {name}: fitting on {len(rows.train):,} rows")
        with project.meter() as meter:
            answered = fit()
        by_metric = {}
        for metric in accept.COMPARABLE[task]:
            differences[metric, name] = by_metric[metric] = model.outcome.difference(answered.outcome, metric)
        found[name] = {
            "metrics": {metric: one.as_dict() for metric, one in answered.outcome.scores().items()},
            "difference": {metric: difference._asdict() for metric, difference in by_metric.items()},
            "cost": asdict(meter.cost()),
            "notes": answered.notes,
        }
    return found, differences


def _confusion(model: Answered) -> dict[str, Any] | None:
    """Non-empty cells as [gold, predicted, rows], indices into labels; predicted -1 is no prediction."""
    outcome = model.outcome
    if not isinstance(outcome, ClassOutcome):
        return None
    gold_M, (predicted_M,), rows_M = metrics.fold(outcome.gold_N, outcome.predicted_N)
    return {"labels": list(outcome.labels), "cells": np.stack([gold_M, predicted_M, rows_M], axis=1).tolist()}


def _reliability(model: Answered) -> dict[str, Any] | None:
    outcome = model.outcome
    if not isinstance(outcome, ClassOutcome) or outcome.probabilities_NC is None:
        return None
    bins = metrics.reliability(outcome.probabilities_NC.max(1), outcome.gold_N == outcome.predicted_N)
    return {"rows": bins.rows.tolist(), "confidence": bins.confidence.tolist(), "right": bins.right.tolist()}


def _training_cost(folder: Path) -> dict[str, Any] | None:
    """What the training run cost whose artifact holds the model; None for a model folder that stands alone."""
    manifest = folder.parent / artifact.MANIFEST
    if folder.name != "model" or not manifest.is_file():
        return None
    cost: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["cost"]
    return cost


def _write(folder: Path, found: Evaluation) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from wyrmling.evaluate import report

    text = json.dumps(found.document, indent=1, ensure_ascii=False, allow_nan=False)
    artifact.write_durably(folder / METRICS, text.encode())
    ids = {name: [row[name] for row in found.rows.test] for name in ("row_id", "origin")}
    table = pa.table({**ids, **found.model.columns})
    if isinstance(found.model.outcome, ClassOutcome):
        names = json.dumps(list(found.model.outcome.labels), ensure_ascii=False)
        table = table.replace_schema_metadata({"labels": names})
    pq.write_table(table, folder / PREDICTIONS, compression="zstd")
    artifact.write_durably(folder / REPORT, report.page(found.document, found.rows.test, found.model.columns).encode())
