"""From what a model did with the items of a suite to scores with intervals, as a whole and by group."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np

from wyrmling.evaluate.statistics import Floats, Interval, Z, ratio_se, wilson
from wyrmling.evaluate.suites.definition import Suite
from wyrmling.evaluate.suites.items import Item

_OUTER = " \t\n.,;:!?\"'()[]"


class Score(NamedTuple):
    """A mean over items, or over groups, with its 95 % interval."""

    value: float
    interval: Interval
    n: int

    def document(self, signature: str) -> dict[str, Any]:
        low, high = self.interval
        return {"value": self.value, "low": low, "high": high, "n": self.n, "signature": signature}


def score(credit_N: Floats, groups: Sequence[str] | None) -> Score:
    """The mean of the items' credits; with groups the mean of their means.

    Source   Wilson interval for plain proportions; else the normal one, whose standard error for groups is that of a
             stratified mean: items are drawn within each group, the groups are fixed
    """
    if groups is None:
        n = len(credit_N)
        mean = float(credit_N.mean())
        if np.isin(credit_N, (0.0, 1.0)).all():
            return Score(mean, wilson(float(credit_N.sum()), n), n)
        return Score(mean, _around(mean, ratio_se(credit_N, np.ones(n))), n)
    parts = [credit_N[np.array([group == name for group in groups])] for name in dict.fromkeys(groups)]
    mean = float(np.mean([part.mean() for part in parts]))
    variance = sum(float(part.var(ddof=1)) / len(part) for part in parts if len(part) > 1) / len(parts) ** 2
    return Score(mean, _around(mean, variance**0.5), len(credit_N))


def _around(mean: float, se: float) -> Interval:
    return Interval(max(0.0, mean - Z * se), min(1.0, mean + Z * se))


def by(credit_N: Floats, names: Sequence[str]) -> dict[str, Score]:
    """The score of the items of each name, the lowest first."""
    found = {name: score(credit_N[np.array([other == name for other in names])], None) for name in dict.fromkeys(names)}
    return dict(sorted(found.items(), key=lambda pair: pair[1].value))


def is_right(suite: Suite, expected: str, said: str) -> bool:
    """Whether a written answer is the expected one, as the suite compares them."""
    found = extracted(suite, said)
    if suite.compare == "number":
        ours, theirs = number(found), number(expected)
        return ours is not None and ours == theirs
    if suite.compare == "contains":
        return expected.strip().casefold() in found.casefold()
    return found.strip(_OUTER).casefold() == expected.strip(_OUTER).casefold()


def extracted(suite: Suite, said: str) -> str:
    """The part of an answer that counts: the last match of the suite's expression."""
    if suite.extract is None:
        return said
    matches = list(re.finditer(suite.extract, said))
    return (matches[-1].group(1) if matches[-1].re.groups else matches[-1].group(0)) if matches else ""


def number(text: str) -> Decimal | None:
    """The number in a text: `18`, `18.0`, `$18.` and `1,800` are numbers; None for anything else."""
    try:
        return Decimal(re.sub(r"[\s,$£€%]", "", text).rstrip("."))
    except InvalidOperation:
        return None


def mass(items: Sequence[Item], nats: Sequence[Sequence[float]]) -> Floats:
    """The share of the choices' probability that the right ones have together; (N,)."""
    found = np.empty(len(items))
    for index, (item, log_p) in enumerate(zip(items, nats, strict=True)):
        p = np.exp(np.array(log_p) - max(log_p))
        found[index] = p[: item.right].sum() / p.sum()
    return found


def document(suite: Suite, items: Sequence[Item], credits: Mapping[str, Floats], **more: Any) -> dict[str, Any]:
    """Everything that is said of a suite: each measure as a whole, and the first of them by group and family."""
    groups = [item.group for item in items] if suite.group is not None else None
    over = groups if suite.average == "groups" else None
    metrics = {
        name: score(credit_N, over).document(f"{suite.name}|{suite.kind}:{name}|mean over {suite.average}")
        for name, credit_N in credits.items()
    }
    first = next(iter(credits.values()))
    parts = {"groups": groups, "families": [item.family for item in items] if suite.family is not None else None}
    return (
        {"suite": suite.name, "items": len(items), "metrics": metrics}
        | {
            name: {}
            if names is None
            else {part: found.document(suite.name) for part, found in by(first, names).items()}
            for name, names in parts.items()
        }
        | more
    )
