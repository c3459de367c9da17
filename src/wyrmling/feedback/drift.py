"""Has what people ask, or how well it is answered, changed since the champion began? From usage records alone.

Two windows are compared: the first answers of the model, and its newest. It works with prompt logging off: lengths,
labels, rates and sketches say enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from wyrmling.config import Feedback as Settings
from wyrmling.core.reviews import Said
from wyrmling.core.tables import Usage
from wyrmling.feedback import permutation
from wyrmling.feedback.permutation import Statistic

Status = Literal["none", "drift", "too_little"]
LEAST_ROWS = 50
# A change below this is of no use to know, however surely it is one.
LEAST = {"rate": 0.02, "distribution": 0.1, "shares": 0.1, "domain": 0.6}
SEED = 0


@dataclass(frozen=True)
class Signal:
    """One thing that was looked at. `value` is compared with `threshold`, which shuffled windows exceed by chance.

    reference, current   what it is in each window, for a reader: a mean or a share
    """

    name: str
    value: float
    threshold: float
    p: float
    reference: float | None
    current: float | None
    alarm: bool


@dataclass(frozen=True)
class Drift:
    """All signals over two windows. `missing`: rows still needed before there are two."""

    status: Status
    reference: int
    current: int
    signals: tuple[Signal, ...]
    missing: int = 0

    @property
    def alarms(self) -> list[str]:
        return [signal.name for signal in self.signals if signal.alarm]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "alarms": self.alarms}


@dataclass(frozen=True)
class _Look:
    """How a signal is read from the rows of both windows.

    statistic   None where the rows hold no difference that could be one
    applies     whether a row has it; the others are left out
    shown       what a window shows of it
    """

    kind: str
    statistic: Callable[[Sequence[Usage]], Statistic | None]
    applies: Callable[[Usage], bool] = lambda row: True
    shown: Callable[[Sequence[Usage]], float | None] = lambda rows: None


def look(usage: Iterable[Usage], said: Iterable[Said], settings: Settings) -> Drift:
    """Drift between the first and the newest answers.

    usage   the answers of one model, in any order; those that were given up are left out
    """
    rows = sorted((one for one in usage if one.finish_reason not in ("abort", "error")), key=lambda one: one.created)
    size = min(settings.window, len(rows) // 2)
    if size < LEAST_ROWS:
        return Drift("too_little", len(rows), 0, (), missing=2 * LEAST_ROWS - len(rows))
    reference, current = rows[:size], rows[-size:]
    looks = _looks(list(said))
    found = []
    for name, one in looks.items():
        # All signals together raise a false alarm as often as the settings allow.
        if (signal := _signal(name, one, reference, current, settings.false_alarms / len(looks))) is not None:
            found.append(signal)
    signals = tuple(found)
    return Drift("drift" if any(one.alarm for one in signals) else "none", size, size, signals)


def _signal(name: str, one: _Look, reference: list[Usage], current: list[Usage], alpha: float) -> Signal | None:
    reference, current = ([row for row in window if one.applies(row)] for window in (reference, current))
    if min(len(reference), len(current)) < LEAST_ROWS // 2:
        return None
    statistic = one.statistic([*reference, *current])
    if statistic is None:
        return None
    # Enough shuffles for the threshold to be among them.
    times = int(np.ceil((1 if one.kind == "domain" else 2) / alpha))
    found = permutation.shuffled(statistic, len(reference), len(current), alpha=alpha, times=times, seed=SEED)
    alarm = found.p <= alpha and found.value >= LEAST[one.kind]
    return Signal(name, *found, one.shown(reference), one.shown(current), alarm)


def _looks(said: Sequence[Said]) -> dict[str, _Look]:
    minded = {one.feedback.answer_id for one in said if one.feedback.rating == -1}
    corrected = {one.feedback.answer_id for one in said if one.feedback.correction is not None}
    return {
        "correction_rate": _rate(lambda row: row.id in corrected),
        "thumbs_down_rate": _rate(lambda row: row.id in minded),
        "format_failure_rate": _rate(lambda row: not row.formatted, lambda row: row.formatted is not None),
        "cut_off_rate": _rate(lambda row: row.finish_reason == "length"),
        "labels": _Look("shares", _labels, lambda row: bool(row.labels)),
        "confidence": _number(lambda row: row.confidence),
        "prompt_tokens": _number(lambda row: float(row.prompt_tokens)),
        "answer_tokens": _number(lambda row: float(row.completion_tokens)),
        "tokens_per_character": _number(lambda row: row.prompt_tokens / row.chars if row.chars else None),
        "words": _Look("domain", _words, lambda row: row.sketch is not None),
    }


def _rate(flag: Callable[[Usage], bool], applies: Callable[[Usage], bool] = lambda row: True) -> _Look:
    def statistic(rows: Sequence[Usage]) -> Statistic | None:
        flags_N = np.array([flag(row) for row in rows], dtype=np.float64)
        return permutation.rise(flags_N) if flags_N.any() else None

    return _Look("rate", statistic, applies, lambda rows: sum(map(flag, rows)) / len(rows))


def _number(value: Callable[[Usage], float | None]) -> _Look:
    def values(rows: Sequence[Usage]) -> list[float]:
        return [number for row in rows if (number := value(row)) is not None]

    def statistic(rows: Sequence[Usage]) -> Statistic | None:
        found = values(rows)
        return permutation.kolmogorov(np.array(found, dtype=np.float64)) if len(set(found)) > 1 else None

    return _Look(
        "distribution", statistic, lambda row: value(row) is not None, lambda rows: sum(values(rows)) / len(rows)
    )


def _labels(rows: Sequence[Usage]) -> Statistic | None:
    first = [row.labels[0] for row in rows if row.labels]
    names = {name: place for place, name in enumerate(dict.fromkeys(first))}
    if len(names) < 2:
        return None
    return permutation.shares(np.array([names[name] for name in first], dtype=np.int64))


def _words(rows: Sequence[Usage]) -> Statistic:
    from wyrmling.feedback.domain import domain

    return domain([row.sketch for row in rows if row.sketch is not None])
