"""A cheap answer as an artifact of its own: fitted, timed, and its answers to the test rows kept. No torch."""

from __future__ import annotations

import json
from typing import Any

from wyrmling.config import Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.log import say
from wyrmling.evaluate import costs, kept, systems, tasks
from wyrmling.evaluate.outcomes import scores

VERSION = 2


def run(project: Project, data: Artifact, name: str) -> Artifact:
    """The baseline `name` on the test rows of a data artifact: found when nothing it depends on has changed.

    Artifact   answers.parquet; figures hold the metrics, those of cost included. Its cost is that of fitting
    """
    settings = project.settings
    task = settings.objective.task
    key = Key(
        "ladder",
        name,
        inputs={"data": data.id},
        settings={"rung": name, "task": task, "evaluate": _shaping(project)},
        version=VERSION,
    )
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    rows = tasks.from_artifact(data, task)
    names = json.loads((data.path / "labels.json").read_text(encoding="utf-8"))
    baseline = systems.baselines_for(task, rows, names["labels"], names["tags"], settings.evaluate)[name]
    say(f"{name}: fitting on {len(rows.train):,} rows")
    meter = project.meter()
    with artifact.create(project.runs, key, meter) as draft:
        with project.meter() as fitting:
            predict = baseline.fit()
        asked = baseline.asked(rows)
        with project.meter() as answering:
            answered = baseline.answered(predict(asked))
        measured = costs.latency(costs.timed(predict, asked), "answer:one row", device="cpu")
        measured |= costs.spent(answering.cost(), len(asked))
        kept.write(draft.path, rows.test, baseline.rows_N, answered.columns)
        draft.figures = {
            "task": task,
            "rows": len(asked),
            "metrics": {n: one.as_dict() for n, one in (scores(answered.outcome) | measured).items()},
            "making": fitting.cost().as_dict(),
            "notes": answered.notes,
        }
    return draft.done


def _shaping(project: Project) -> dict[str, Any]:
    return project.settings.evaluate.model_dump(include={"answers", "resamples"})
