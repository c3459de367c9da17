"""What the answered requests add up to. Works with prompt logging off: it reads counts and times only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wyrmling.core.store import Usage


@dataclass(frozen=True)
class UsageSummary:
    """Totals over answered requests: milliseconds, watt-hours, shares from 0 to 1; None where nothing was asked."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    wh: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    cut_off_share: float | None
    """Share of answers that ended at the token limit rather than by themselves."""
    by_endpoint: dict[str, int]
    by_model: dict[str, int]
    by_key: dict[str, int]


def summarize(rows: Iterable[Usage]) -> UsageSummary:
    """The totals of `rows`, such as `store.usage(since=...)`. Requests without a key count under "none"."""
    rows = list(rows)
    latencies = sorted(row.latency_ms for row in rows)
    cut_off = sum(row.finish_reason == "length" for row in rows)
    return UsageSummary(
        requests=len(rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        wh=sum(row.wh for row in rows),
        latency_p50_ms=quantile(latencies, 0.50),
        latency_p95_ms=quantile(latencies, 0.95),
        cut_off_share=cut_off / len(rows) if rows else None,
        by_endpoint=dict(Counter(row.endpoint for row in rows).most_common()),
        by_model=dict(Counter(row.model for row in rows).most_common()),
        by_key=dict(Counter(row.key_id or "none" for row in rows).most_common()),
    )


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The value that `share` of the ordered values do not exceed (nearest rank); None when there are none."""
    if not ordered:
        return None
    # Nearest rank counts from 1.
    rank = math.ceil(share * len(ordered))
    return ordered[max(rank, 1) - 1]
