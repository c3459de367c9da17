"""Rungs of a ladder beside each other: how good, how much better than the best cheap one, and which to use.

It compares what is already measured; flow/ladder.py does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wyrmling.evaluate import metrics, statistics, tasks
from wyrmling.evaluate.accept import CHAMPION, Criterion
from wyrmling.evaluate.outcomes import Outcome, Score
from wyrmling.evaluate.statistics import Difference
from wyrmling.evaluate.verdict import Verdict

Judge = Callable[[Sequence[Criterion], Outcome, Mapping[str, Score]], Verdict]

# What rungs are compared in; written answers say more of an answering model than how well it predicts text.
QUALITY = {**tasks.MAIN_METRIC, "answer": "token_f1", "summarize": "token_f1"}
# From which p-value on a difference may be luck.
ALPHA = 0.05


@dataclass(frozen=True)
class Rung:
    """One answer to the task.

    what       in a few words
    cheap      no network is trained or run for it
    outcome    its answers to the test rows
    measured   latency, memory, energy and money of its answers, and every other score
    making     seconds, wh, usd, peak_memory_gb of what has to be done before it answers
    artifact   id of the artifact that holds its answers
    verdict    on the conditions that can be asked of it; None: there is none
    """

    name: str
    what: str
    cheap: bool
    outcome: Outcome
    measured: Mapping[str, Score]
    making: Mapping[str, float]
    artifact: str
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Line:
    """A rung in the table. difference: to the best cheap rung, p corrected by Holm over all that are compared."""

    rung: Rung
    quality: Score
    difference: Difference | None


@dataclass(frozen=True)
class LeftOut:
    """A rung that was not run, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Ladder:
    """What was found, cheapest first."""

    task: str
    metric: str
    rows: int
    lines: tuple[Line, ...]
    left_out: tuple[LeftOut, ...]
    reference: str | None
    """The best cheap rung."""
    recommended: str
    why: str

    def document(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "metric": self.metric,
            "rows": self.rows,
            "reference": self.reference,
            "recommended": self.recommended,
            "why": self.why,
            "rungs": [_document(line) for line in self.lines],
            "left_out": [{"name": one.name, "reason": one.reason} for one in self.left_out],
        }


def _document(line: Line) -> dict[str, Any]:
    rung = line.rung
    return {
        "name": rung.name,
        "what": rung.what,
        "cheap": rung.cheap,
        "artifact": rung.artifact,
        "quality": line.quality.as_dict(),
        "difference": None if line.difference is None else line.difference._asdict(),
        "metrics": {name: score.as_dict() for name, score in rung.measured.items()},
        "making": dict(rung.making),
        "verdict": None if rung.verdict is None else rung.verdict.as_dict(),
    }


def compare(task: str, rows: int, rungs: Sequence[Rung], left_out: Sequence[LeftOut]) -> Ladder:
    """The ladder of these rungs, which come cheapest first. Raises ValueError without any."""
    if not rungs:
        raise ValueError("a ladder needs at least one rung")
    metric = QUALITY[task]
    quality = {rung.name: rung.outcome.score(metric) for rung in rungs}
    reference = _best([rung for rung in rungs if rung.cheap], quality, metric)
    differences = _differences(rungs, reference, metric)
    lines = tuple(Line(rung, quality[rung.name], differences.get(rung.name)) for rung in rungs)
    recommended, why = _recommend(rungs, quality, metric)
    name = None if reference is None else reference.name
    return Ladder(task, metric, rows, lines, tuple(left_out), name, recommended, why)


def _best(rungs: Sequence[Rung], quality: Mapping[str, Score], metric: str) -> Rung | None:
    """The rung with the best value; of equals the cheapest."""
    sign = -1 if metric in metrics.LOWER_IS_BETTER else 1
    there = [rung for rung in rungs if quality[rung.name].value is not None]
    return max(there, key=lambda rung: sign * (quality[rung.name].value or 0.0), default=None)


def _differences(rungs: Sequence[Rung], to: Rung | None, metric: str) -> dict[str, Difference]:
    """Each rung minus another, paired; the p-values are Holm's over all of them."""
    if to is None:
        return {}
    found = {rung.name: rung.outcome.difference(to.outcome, metric) for rung in rungs if rung.name != to.name}
    corrected = statistics.holm([one.p for one in found.values()])
    return {name: one._replace(p=p) for (name, one), p in zip(found.items(), corrected, strict=True)}


def _recommend(rungs: Sequence[Rung], quality: Mapping[str, Score], metric: str) -> tuple[str, str]:
    """The cheapest that meets the conditions; where none does, the cheapest that is not clearly worse than the best."""
    for rung in rungs:
        if rung.verdict is not None and rung.verdict.status == "PASS":
            return rung.name, "it is the cheapest that meets objective.accept"
    best = _best(rungs, quality, metric) or rungs[0]
    worse = _differences(rungs, best, metric)
    judged = any(rung.verdict is not None for rung in rungs)
    none = "no rung is shown to meet objective.accept; " if judged else ""
    for rung in rungs:
        if rung.name == best.name:
            break
        if rung.name in worse and worse[rung.name].p >= ALPHA:
            why = f"{best.name} is best, and this is the cheapest that is not clearly worse (p >= {ALPHA})"
            return rung.name, none + why
    if best.name == rungs[0].name:
        return best.name, f"{none}no rung is cheaper, and none is better"
    return best.name, f"{none}it is the best, and every cheaper rung is clearly worse (p < {ALPHA})"


def judged(rung: Rung, criteria: Sequence[Criterion], judge: Judge, beside: Collection[str]) -> Rung:
    """The rung with its verdict on the conditions that can be asked of it. beside: the baselines that were run."""
    asked = [one for one in criteria if _can_be_asked(one, rung, beside)]
    if not asked:
        return rung
    found = judge(asked, rung.outcome, rung.measured)
    if len(asked) < len(criteria) and found.status == "PASS":
        # What can't be asked of it is not shown to be met.
        found = replace(found, status="INCONCLUSIVE")
    return replace(rung, verdict=found)


def _can_be_asked(criterion: Criterion, rung: Rung, beside: Collection[str]) -> bool:
    if criterion.label is not None:
        return bool(rung.outcome.per_class())
    if criterion.against not in (None, CHAMPION, *beside):
        return False
    if criterion.part is not None or criterion.against in beside:
        return criterion.metric in rung.outcome.names
    return criterion.metric in rung.measured and rung.measured[criterion.metric].value is not None
