"""The rows of answers: each is kept once, and one that is refused takes no other with it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from wyrmling.core.errors import BadInput
from wyrmling.core.store import Store, Usage
from wyrmling.serve.recorder import Recorder


def row(answer_id: str) -> Usage:
    return Usage(answer_id, "classify", "desk", "d1", 3, 0, 1.0, 0.0, "stop", "0" * 64, labels=["fees"])


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


def test_every_row_is_kept_once(store: Store) -> None:
    recorder = Recorder(store)
    with ThreadPoolExecutor(8) as askers:
        kept = list(askers.map(lambda number: recorder.keep(row(f"{number:03}")), range(200)))
    wait(kept)
    assert all(one.result() is None for one in kept)
    assert sorted(usage.id for usage in store.usage()) == [f"{number:03}" for number in range(200)]
    recorder.close()
    assert store.usage()[0].labels == ["fees"]


def test_a_refused_row_fails_alone(store: Store) -> None:
    store.add_usage(row("twice"))
    recorder = Recorder(store)
    with store.writing():
        # While the database is taken they can only wait, and then go together.
        kept = {name: recorder.keep(row(name)) for name in ("a", "twice", "b")}
    assert kept["a"].result() is None
    assert kept["b"].result() is None
    with pytest.raises(BadInput, match="refused"):
        kept["twice"].result()
    assert recorder.keep(row("c")).result() is None
    recorder.close()
    assert {usage.id for usage in store.usage()} == {"a", "b", "c", "twice"}


def test_whoever_goes_away_is_recorded_and_closing_loses_nothing(store: Store) -> None:
    recorder = Recorder(store)
    with store.writing():
        gone, left = recorder.keep(row("gone")), recorder.keep(row("left"))
        gone.cancel()
    recorder.close()
    assert left.result() is None
    assert {usage.id for usage in store.usage()} == {"gone", "left"}
