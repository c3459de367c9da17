"""What answers take: time, memory, energy, money, each as a score with its signature."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wyrmling.core.energy import Cost
from wyrmling.evaluate import metrics, statistics
from wyrmling.evaluate.outcomes import Score
from wyrmling.evaluate.statistics import Floats
from wyrmling.evaluate.tasks import Example

# Answers timed one at a time; the 95th percentile has an upper bound from 72.
MOST_TIMED, TIMING_SECONDS = 200, 10.0


def timed(answer: Callable[[Sequence[Example]], Any], rows: Sequence[Example]) -> Floats:
    """Seconds of one answer at a time, after a few to warm up; as many rows as fit the time, at least three."""
    chosen = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:MOST_TIMED]]
    for row in chosen[:3]:
        answer([row])
    seconds: list[float] = []
    while len(seconds) < len(chosen) and (len(seconds) < 3 or sum(seconds) < TIMING_SECONDS):
        started = time.perf_counter()
        answer([chosen[len(seconds)]])
        seconds.append(time.perf_counter() - started)
    return np.array(seconds)


def latency(seconds: Floats, answer_is: str, *, device: str) -> dict[str, Score]:
    """Median and 95th percentile with what order statistics say of them. answer_is: what one answer consists of."""
    found = {}
    for name, quantile in (("latency_p50_ms", 0.5), ("latency_p95_ms", 0.95)):
        low, high = statistics.quantile_interval(seconds * 1000, quantile)
        value = float(np.quantile(seconds, quantile)) * 1000
        note = None if high is not None else f"no upper bound from {len(seconds)} answers"
        signature = metrics.signature(name, f"one at a time|{answer_is}", device=device)
        found[name] = Score(value, low, high, len(seconds), signature, None, note)
    return found


def spent(cost: Cost, n: int, *, model_mb: float | None = None) -> dict[str, Score]:
    """Speed, memory, energy and money of n answers given together. model_mb: size of the weights, where there are."""
    each = f"batched|{cost.meter}"
    exact: dict[str, tuple[float, str, str | None]] = {
        "rows_per_s": (n / cost.seconds, "batched", "one run is no spread: compare machines with care"),
        "memory_mb": (cost.peak_memory_gb * 1000, "peak of the process", None),
        "wh_per_1k": (cost.wh / n * 1000, each, None),
        "usd_per_1k": (cost.usd / n * 1000, each, None),
        "gco2e_per_1k": (cost.kg_co2 * 1e6 / n, each, None),
    }
    if model_mb is not None:
        exact["model_mb"] = (model_mb, "weights files", None)
    return {
        name: Score(value, None, None, n, metrics.signature(name, how), None, note)
        for name, (value, how, note) in exact.items()
    }
