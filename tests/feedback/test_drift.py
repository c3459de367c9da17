"""Drift from usage records alone: no false alarms beyond what was allowed, real changes seen, no text needed."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import BernoulliNB

from wyrmling.config import Feedback as Settings
from wyrmling.core.errors import BadInput
from wyrmling.core.reviews import Said
from wyrmling.core.store import Feedback, Usage
from wyrmling.feedback import alerts, drift, permutation
from wyrmling.feedback.domain import domain
from wyrmling.feedback.sketches import PLACES, places, sketch

WORDS = [f"word{number}" for number in range(200)]


def record(
    number: int, draw: np.random.Generator, *, words: list[str] = WORDS, long: int = 0, **changes: object
) -> Usage:
    """The record of one answer whose prompt was random; the prompt itself is not kept."""
    text = " ".join(draw.choice(words, int(draw.integers(5, 12)) + long))
    values = {
        "id": f"cls-{number}", "endpoint": "classify", "model": "desk", "model_digest": "d", "latency_ms": 1.0,
        "prompt_tokens": 2 * len(text.split()), "completion_tokens": 0, "wh": 0.0, "finish_reason": "stop",
        "prompt_sha256": "0", "chars": len(text), "sketch": sketch([text]), "confidence": float(draw.beta(6, 1)),
        "labels": [str(draw.choice(["a", "b", "c"], p=[0.5, 0.3, 0.2]))], "created": f"2026-01-01T{number:08d}",
    }  # fmt: skip
    return Usage(**values | changes)


def window(count: int, seed: int, start: int = 0, **changes: object) -> list[Usage]:
    draw = np.random.default_rng(seed)
    return [record(start + number, draw, **changes) for number in range(count)]


def corrected(usage: list[Usage]) -> list[Said]:
    return [Said(Feedback(f"fb-{one.id}", one.id, "d", rating=-1, correction="b"), one) for one in usage]


SETTINGS = Settings(window=100, false_alarms=0.05)


def test_without_drift_alarms_are_as_rare_as_allowed() -> None:
    alarms = [drift.look(window(200, seed), [], SETTINGS).status == "drift" for seed in range(10)]
    assert sum(alarms) <= 3, "5 % of 10 looks; P(more than 3) = 0.1 %"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", {"labels": ["c"]}),
        ("confidence", {"confidence": 0.4}),
        ("prompt_tokens", {"long": 10}),
        ("tokens_per_character", {"chars": 400}),
        ("words", {"words": [f"new{number}" for number in range(200)]}),
        ("cut_off_rate", {"finish_reason": "length"}),
        ("format_failure_rate", {"formatted": False}),
    ],
)
def test_a_change_is_seen_under_its_own_name(name: str, change: dict) -> None:
    before = window(100, 1, **({"formatted": True} if name == "format_failure_rate" else {}))
    found = drift.look(before + window(100, 2, start=100, **change), [], SETTINGS)
    assert name in found.alarms
    (signal,) = (one for one in found.signals if one.name == name)
    assert signal.value > signal.threshold and signal.p < 0.01


def test_rows_that_a_signal_does_not_apply_to_are_left_out() -> None:
    """Half of the traffic demands a form, and only of that half it is told how much breaks it."""
    free, demanded = window(200, 1), window(200, 2)
    pairs = enumerate(zip(free, demanded, strict=True))
    usage = [one if i % 2 else replace(two, formatted=i < 100 or i % 4 == 0) for i, (one, two) in pairs]
    found = drift.look(usage, [], SETTINGS)
    (signal,) = (one for one in found.signals if one.name == "format_failure_rate")
    assert (signal.reference, signal.current, signal.alarm) == (0.0, 0.5, True)


def test_more_corrections_are_drift_and_fewer_are_none() -> None:
    usage = window(200, 3)
    worse = drift.look(usage, corrected(usage[:5] + usage[150:]), SETTINGS)
    assert set(worse.alarms) == {"correction_rate", "thumbs_down_rate"}
    assert drift.look(usage, corrected(usage[:50]), SETTINGS).alarms == []


def test_too_little_traffic_says_how_much_more() -> None:
    found = drift.look(window(60, 4), [], SETTINGS)
    assert (found.status, found.missing) == ("too_little", 40)


def test_without_sketches_and_labels_the_rest_is_looked_at() -> None:
    plain = [replace(one, sketch=None, labels=None, confidence=None) for one in window(200, 5)]
    names = {signal.name for signal in drift.look(plain, [], SETTINGS).signals}
    assert names == {"prompt_tokens", "tokens_per_character"}


def test_the_gap_of_two_distributions_is_scipys() -> None:
    draw = np.random.default_rng(6)
    values = draw.integers(0, 8, 150).astype(float)
    inside = (draw.random((20, 150)) < 0.4).astype(np.int64)
    ours = permutation.kolmogorov(values)(inside)
    assert ours == pytest.approx([ks_2samp(values[row == 1], values[row == 0]).statistic for row in inside])


def test_the_classifier_of_windows_is_scikit_learns() -> None:
    draw = np.random.default_rng(7)
    sketches = [one.sketch or b"" for one in window(60, 8)]
    inside = (draw.random((3, 60)) < 0.5).astype(np.int64)
    columns = [places(one) for one in sketches]
    rows = np.repeat(np.arange(60), [len(one) for one in columns])
    there = csr_matrix((np.ones(len(rows)), (rows, np.concatenate(columns))), shape=(60, PLACES))
    halves = np.array_split(np.random.default_rng(0).permutation(60), 2)
    for row, ours in zip(inside, domain(sketches)(inside), strict=True):
        areas = []
        for judged, learned in (halves, halves[::-1]):
            # Windows of other sizes shift all log odds alike, which no ranking sees.
            model = BernoulliNB(alpha=1.0).fit(there[learned], row[learned])
            odds = np.diff(model.predict_joint_log_proba(there[judged]))[:, 0]
            areas.append(roc_auc_score(row[judged], odds.round(9)))
        assert ours == pytest.approx(np.mean(areas), abs=1e-9)


def test_a_sketch_holds_no_text_and_little_of_it_can_be_told() -> None:
    kept = sketch(["Where is my card, Anna?"])
    assert b"card" not in kept and len(kept) == 2 * 9, "five words and four pairs"
    assert sketch(["where IS my card anna"]) == kept
    assert sketch([]) == b"" and len(places(b"")) == 0


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict]]]:
    """The address of a webhook, and what it was told."""
    told: list[dict] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            code = {"/moved": 302, "/broken": 500}.get(self.path.partition("?")[0], 204)
            self.send_response(code)
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", told
        server.shutdown()
        thread.join()


def test_a_webhook_gets_the_message_and_is_not_followed_elsewhere(hook) -> None:
    address, told = hook
    alerts.send(f"{address}/alerts", {"text": "drift: Grüße"})
    assert told == [{"text": "drift: Grüße"}]
    for path in ("/moved", "/broken"):
        with pytest.raises(BadInput, match=r"webhook at 127\.0\.0\.1 could not be told") as caught:
            alerts.send(f"{address}{path}?token=secret", {})
        assert "secret" not in str(caught.value)
    with pytest.raises(BadInput, match="could not be told"):
        alerts.send("http://127.0.0.1:9/none", {})


def test_an_alarm_is_kept_told_and_shown(project, store, database_url, hook, tmp_path) -> None:
    from wyrmling.flow import drift as flow
    from wyrmling.serve.metrics import Metrics

    address, told = hook
    feedback = Settings(window=60, webhook=address)
    settings = project.settings.model_copy(update={"database": database_url, "feedback": feedback})
    project = replace(project, settings=settings)
    store.register_model("desk", tmp_path, "d", {})
    store.promote("desk")
    for one in window(60, 1) + window(60, 2, start=60, labels=["c"]):
        store.add_usage(one)
    document, text, code = flow.look(project)
    assert (code, document["status"], document["model"]) == (3, "drift", "desk:1")
    assert "labels" in document["alarms"] and "ALARM" in text
    assert told[0]["alarms"] == document["alarms"] and told[0]["text"] == text
    from wyrmling.core.reviews import Reviews

    kept = Reviews(store).last_drift()
    assert kept is not None and kept["alarms"] == document["alarms"]
    metrics = Metrics("desk")
    metrics.drifted(kept)
    shown = metrics.text().decode()
    assert 'wyrmling:drift_alarm{signal="labels"} 1.0' in shown
