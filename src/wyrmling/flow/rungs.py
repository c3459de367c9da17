"""The cheap answer first: whether a baseline already does the job, or may."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.flow import facts
from wyrmling.flow.facts import Known

# Below this many rows per label a linear model on word counts is usually as good as a small network from scratch
# (assumption; the evaluation of the project says what is so).
FEW_ROWS_PER_LABEL = 30
BASELINES = {
    "classify": "TF-IDF with a linear model",
    "tag": "a conditional random field",
}


def advice(project: Project, known: Known) -> Iterator[str]:
    """What to try before training: from the last evaluation of this project, else from the number of rows."""
    evaluation = facts.newest(project, "evaluate")
    if evaluation is not None:
        yield from said(project, evaluation)
        return
    task = project.settings.objective.task
    if task not in BASELINES:
        return
    yield f"the cheap answer first: `wyrmling run` also scores {BASELINES[task]} on the same test rows"
    labels = known.facts.labels
    labelled = sum(source.rows for source in known.facts.sources if source.kind == "labelled")
    if labels and labelled / labels < FEW_ROWS_PER_LABEL:
        yield (
            f"only {labelled / labels:.0f} rows per label: {BASELINES[task]} may do as well; "
            "more labelled rows help most"
        )


def said(project: Project, evaluation: Artifact) -> Iterator[str]:
    """A sentence when cheap answers meet the objective."""
    if names := enough(project, evaluation):
        who = f"the baseline {names[0]}" if len(names) == 1 else f"the baselines {', '.join(names)}"
        meet = "meets" if len(names) == 1 else "meet"
        yield (
            f"{who} already {meet} objective.accept on these test rows: the cheaper answer may be all you need; "
            "`wyrmling ladder` sets every way to answer beside it"
        )


def enough(project: Project, evaluation: Artifact) -> list[str]:
    """The baselines whose point values meet every condition of objective.accept, cheapest first.

    Conditions on cost (latency, size) are the model's own and are not asked of a baseline.
    """
    from wyrmling.evaluate import accept

    conditions = accept.of(project.settings)
    quality = [c for c in conditions if c.metric not in accept.COST]
    if not quality or any(c.label is not None or c.against is not None or c.part is not None for c in quality):
        return []
    found = []
    for name, baseline in evaluation.figures["baselines"].items():
        if all(_meets(baseline["metrics"], c.metric, c.op, c.threshold) for c in quality):
            found.append(name)
    return found


def _meets(metrics: dict[str, Any], metric: str, op: str, threshold: float) -> bool:
    value = metrics.get(metric, {}).get("value")
    compare = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}[op]
    return value is not None and bool(compare(value, threshold))
