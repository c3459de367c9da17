"""Seconds, energy, memory, money and CO2 of a block of work. (Estimate only so far; meters come next.)"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What a block of work took. `meter` says how Wh were found: rapl, nvml or estimated, and from what."""

    seconds: float
    wh: float
    meter: str
    peak_memory_gb: float
    usd: float
    kg_co2: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Meter:
    """Measures the work between entering and leaving it; `cost()` also answers in between."""

    def __init__(
        self,
        *,
        watts: float | None = None,
        usd_per_hour: float = 0.0,
        usd_per_kwh: float = 0.15,
        country: str | None = None,
        pue: float = 1.0,
    ) -> None:
        self._watts, self._prices, self._country, self._pue = watts, (usd_per_hour, usd_per_kwh), country, pue
        self._start = 0.0
        self._end: float | None = None

    def __enter__(self) -> Meter:
        self._start, self._end = time.monotonic(), None
        return self

    def __exit__(self, *error: object) -> None:
        self._end = time.monotonic()

    def cost(self) -> Cost:
        seconds = (self._end or time.monotonic()) - self._start
        return Cost(seconds=seconds, wh=0.0, meter="none", peak_memory_gb=0.0, usd=0.0, kg_co2=0.0)
