"""The feedback so far, in numbers, beside the usage it belongs to."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from wyrmling.core.store import Store
from wyrmling.feedback.usage import UsageSummary, summarize


@dataclass(frozen=True)
class FeedbackSummary:
    """Counts of what was said. `rated_share` is rated answers over answers; None without answers."""

    total: int
    up: int
    neutral: int
    down: int
    corrections: int
    comments: int
    rated_share: float | None
    by_model: dict[str, dict[str, int]]
    """Model digest (first 12 digits) -> counts of up, neutral, down and corrections."""


@dataclass(frozen=True)
class Report:
    """Usage and feedback over the same time."""

    usage: UsageSummary
    feedback: FeedbackSummary

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def report(store: Store, *, since: str | None = None) -> Report:
    """Usage and feedback since an ISO 8601 time in UTC; None is since the beginning."""
    usage = store.usage(since=since)
    said = store.feedback(since=since)
    names = {1: "up", 0: "neutral", -1: "down"}
    ratings = Counter(names[row.rating] for row in said if row.rating is not None)
    by_model: dict[str, Counter[str]] = {}
    for row in said:
        counts = by_model.setdefault(row.model_digest[:12], Counter())
        if row.rating is not None:
            counts[names[row.rating]] += 1
        if row.correction is not None:
            counts["corrections"] += 1
    rated = {row.answer_id for row in said if row.rating is not None}
    feedback = FeedbackSummary(
        total=len(said),
        up=ratings["up"],
        neutral=ratings["neutral"],
        down=ratings["down"],
        corrections=sum(row.correction is not None for row in said),
        comments=sum(row.comment is not None for row in said),
        rated_share=len(rated & {row.id for row in usage}) / len(usage) if usage else None,
        by_model={digest: dict(counts) for digest, counts in by_model.items()},
    )
    return Report(usage=summarize(usage), feedback=feedback)
