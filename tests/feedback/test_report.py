"""Totals of usage and feedback, and that they need no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wyrmling.core.store import Store, Usage
from wyrmling.feedback.ratings import rate
from wyrmling.feedback.report import report
from wyrmling.feedback.usage import quantile, summarize


def test_nothing_yet_is_not_zero(tmp_path: Path) -> None:
    found = report(Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}"))
    assert (found.usage.requests, found.usage.latency_p95_ms, found.usage.cut_off_share) == (0, None, None)
    assert (found.feedback.total, found.feedback.rated_share) == (0, None)


def test_totals_add_up(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")
    for index in range(4):
        reason = "length" if index == 3 else "stop"
        store.add_usage(
            Usage(f"a{index}", "chat", "desk", f"d{index % 2}", 10, index, float(index), 0.5, reason, "0", key_id="k")
        )
    rate(store, "a0", rating="up", key_id="k")
    rate(store, "a0", rating="up", comment="still good", key_id="k")
    rate(store, "a1", rating="down", correction="this instead", key_id="k")
    found = report(store).as_dict()
    assert found["usage"] | {"by_model": None} == {
        "requests": 4, "prompt_tokens": 40, "completion_tokens": 6, "wh": 2.0, "latency_p50_ms": 1.0,
        "latency_p95_ms": 3.0, "cut_off_share": 0.25, "by_endpoint": {"chat": 4}, "by_model": None, "by_key": {"k": 4},
    }  # fmt: skip
    assert found["feedback"] == {
        "total": 3, "up": 2, "neutral": 0, "down": 1, "corrections": 1, "comments": 1, "rated_share": 0.5,
        "by_model": {"d0": {"up": 2}, "d1": {"down": 1, "corrections": 1}},
    }  # fmt: skip


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.95, 4), (1.0, 4)])
def test_a_quantile_is_the_nearest_rank(share: float, value: int) -> None:
    assert quantile([1, 2, 3, 4], share) == value


def test_a_summary_needs_no_key() -> None:
    assert summarize([Usage("a", "chat", "desk", "d", 1, 1, 1.0, 0.0, "stop", "0")]).by_key == {"none": 1}


def test_feedback_does_not_import_torch() -> None:
    code = "import sys, wyrmling.feedback.ratings, wyrmling.feedback.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
