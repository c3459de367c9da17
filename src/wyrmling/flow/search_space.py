"""Where a search looks: "1e-5..1e-3:log" is a range, "lora,full" a choice, for a setting such as train.tune.lr."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wyrmling.config import Project
from wyrmling.core.errors import UsageError, WyrmlingError

EXAMPLE = "for example --over train.tune.lr=1e-5..1e-3:log --over train.tune.method=lora,full"


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; log draws their logarithm evenly, whole only whole ones."""

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def ends(self) -> tuple[str, str]:
        return self.written(self.low), self.written(self.high)

    def written(self, value: float) -> str:
        """The number as TOML; three digits are enough to find it again by hand."""
        return str(round(value)) if self.whole else f"{float(f'{value:.3g}')!r}"


@dataclass(frozen=True)
class Choice:
    """Some values, as TOML or plain text."""

    values: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        return self.values


Space = dict[str, Range | Choice]


def parse(over: Mapping[str, str]) -> Space:
    """The space of a search. Raises UsageError for a line that is neither a range nor a choice."""
    return {key: _dimension(key, text) for key, text in over.items()}


def pairs(lines: Iterable[str]) -> dict[str, str]:
    """`key=where` of the command line. Raises UsageError."""
    found = {}
    for line in lines:
        key, equals, where = line.partition("=")
        if not equals or not key.strip() or not where.strip():
            raise UsageError(f"--over {line!r} is not of the form section.key=WHERE", fix=EXAMPLE)
        found[key.strip()] = where.strip()
    return found


def _dimension(key: str, text: str) -> Range | Choice:
    if ".." in text:
        return _range(key, text)
    values = tuple(value.strip() for value in text.split(","))
    if len(set(values)) < 2 or not all(values):
        raise UsageError(f"{key} = {text!r} names fewer than two values", where="tune.over", fix=EXAMPLE)
    return Choice(values)


def _range(key: str, text: str) -> Range:
    bounds, _, scale = text.partition(":")
    low, _, high = bounds.partition("..")
    try:
        ends = [tomllib.loads(f"x = {end.strip()}")["x"] for end in (low, high)]
    except tomllib.TOMLDecodeError:
        ends = []
    numbers = [end for end in ends if isinstance(end, (int, float)) and math.isfinite(end)]
    log = scale.strip() == "log"
    if len(numbers) < 2 or scale.strip() not in ("", "log") or numbers[0] >= numbers[1] or (log and numbers[0] <= 0):
        raise UsageError(
            f"{key} = {text!r} is no range",
            where="tune.over",
            fix="write LOW..HIGH or LOW..HIGH:log, low above 0 there",
        )
    return Range(float(numbers[0]), float(numbers[1]), log, all(isinstance(n, int) for n in numbers))


def check(project: Project, space: Space) -> None:
    """All ends of the dimensions are settings that the project takes. Raises UsageError naming one that is not."""
    if not space:
        raise UsageError("there is nothing to search", fix=f"name settings in [tune.over], or {EXAMPLE}")
    for key, dimension in space.items():
        for value in dimension.ends:
            try:
                project.with_settings([f"{key}={value}"])
            except WyrmlingError as error:
                raise UsageError(
                    f"{key} = {value} can't be tried: {error.what}", where="tune.over", fix=EXAMPLE
                ) from error
