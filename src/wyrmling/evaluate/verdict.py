"""The verdict on a model: each condition judged by its interval, not by luck, and what they add up to."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from wyrmling.core.errors import BadInput
from wyrmling.evaluate import power
from wyrmling.evaluate.accept import CHAMPION, COST, OPERATORS, SPEED, Criterion
from wyrmling.evaluate.outcomes import Score
from wyrmling.evaluate.statistics import Difference

Status = Literal["PASS", "FAIL", "INCONCLUSIVE"]
EXIT_CODES: dict[Status, int] = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}
# Above this a test can't reasonably be enlarged: the threshold has to move.
MOST_ROWS = 100_000


@dataclass(frozen=True)
class Line:
    """The verdict on one criterion. `rows_needed`: test rows that would settle it; None: settled, or none would."""

    criterion: str
    status: Status
    reason: str
    value: float
    low: float | None
    high: float | None
    n: int
    rows_needed: int | None = None

    @property
    def text(self) -> str:
        """The line for a person: PASS  macro_f1 >= 0.88: 0.91 [0.9, 0.92]"""
        return f"{self.status}  {self.criterion}: {self.reason}"


@dataclass(frozen=True)
class Verdict:
    """Any FAIL is FAIL; else any INCONCLUSIVE is INCONCLUSIVE; else PASS."""

    status: Status
    lines: tuple[Line, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]

    def as_dict(self) -> dict[str, Any]:
        lines = [{"text": line.text, **asdict(line)} for line in self.lines]
        return {"status": self.status, "lines": lines}


def judge(
    criteria: Iterable[Criterion],
    scores: Mapping[str, Score],
    differences: Mapping[tuple[str, str], Difference] | None = None,
    absent: Collection[str] = (),
) -> Verdict:
    """The verdict on every criterion.

    scores       by the name of the criterion: `accuracy`, `recall[refund]`, `accuracy[length=long]`
    differences  (name, baseline or "champion") -> model minus the other on the same rows
    absent       "champion" when there is none yet: nothing can be worse than nothing, so such lines pass
    Raises       BadInput when a metric was not measured or is not a number: that is never a FAIL
    """
    lines = tuple(_judge(criterion, scores, differences or {}, absent) for criterion in criteria)
    statuses = {line.status for line in lines}
    overall: Status = "FAIL" if "FAIL" in statuses else "INCONCLUSIVE" if "INCONCLUSIVE" in statuses else "PASS"
    return Verdict(overall, lines)


def _judge(
    criterion: Criterion,
    scores: Mapping[str, Score],
    differences: Mapping[tuple[str, str], Difference],
    absent: Collection[str],
) -> Line:
    score = scores.get(criterion.name)
    if score is None:
        whose = "label" if criterion.label else "part" if criterion.part else None
        why = f"the test rows have no such {whose}" if whose else "it was not measured"
        raise _unmeasured(criterion, why)
    if score.value is None or math.isnan(score.value):
        raise _unmeasured(criterion, score.note or "its value is not a number")
    if criterion.against is None:
        exact = criterion.metric in COST and criterion.metric not in SPEED
        low, high = (score.value, score.value) if exact else (score.low, score.high)
        return _line(criterion, score.value, low, high, score.se, score.n, score.note)
    if criterion.against in absent:
        reason = f"{score.value:.4g}; there is no champion yet"
        return Line(criterion.text, "PASS", reason, score.value, score.low, score.high, score.n)
    difference = differences.get((criterion.name, criterion.against))
    if difference is None:
        why = "the champion was not scored" if criterion.against == CHAMPION else "the baselines were not run"
        raise _unmeasured(criterion, f"{why}; set evaluate.baselines = true")
    return _line(criterion, difference.value, difference.low, difference.high, difference.se, score.n, None)


def _unmeasured(criterion: Criterion, why: str) -> BadInput:
    return BadInput(
        f"{criterion.text!r} can't be judged: {why}",
        where="objective.accept",
        fix="mend the test rows or remove the line",
    )


def _line(
    criterion: Criterion,
    value: float,
    low: float | None,
    high: float | None,
    se: float | None,
    n: int,
    note: str | None,
) -> Line:
    test, bound = OPERATORS[criterion.op], criterion.threshold
    shown = f"{value:.4g}" + (f" [{_end(low)}, {_end(high)}]" if low is not None or high is not None else "")
    what = f"difference {shown}" if criterion.against else shown
    if criterion.point:
        status: Status = "PASS" if test(value, bound) else "FAIL"
        return Line(criterion.text, status, f"{what}; decided on the point value", value, low, high, n)
    worst, best = (low, high) if criterion.higher_is_better else (high, low)
    if worst is not None and test(worst, bound):
        return Line(criterion.text, "PASS", what, value, low, high, n)
    if best is not None and not test(best, bound):
        return Line(criterion.text, "FAIL", what, value, low, high, n)
    needed = None if se is None else power.rows_needed(n, se, value, bound)
    reason = f"{what}: {_advice(criterion, note, n, needed)}"
    return Line(criterion.text, "INCONCLUSIVE", reason, value, low, high, n, needed)


def _advice(criterion: Criterion, note: str | None, n: int, needed: int | None) -> str:
    if note is not None and note.startswith("no interval"):
        return note
    if needed is None:
        return "the interval holds the threshold"
    if needed > MOST_ROWS:
        return "the interval holds the threshold, and this test cannot settle it: move the threshold"
    more = max(needed - n, 1)
    of = f" of {criterion.label}" if criterion.label else f" with {'='.join(criterion.part)}" if criterion.part else ""
    return f"the interval holds the threshold; about {more:,} more test rows{of} would settle it"


def _end(x: float | None) -> str:
    return "…" if x is None else f"{x:.4g}"
