"""A project whose server has answered, and ways to say something about its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.reviews import Reviews, pseudonym
from wyrmling.core.store import Store, Usage
from wyrmling.feedback.ratings import prompt_hash, prompt_text


@pytest.fixture
def project(tmp_path: Path) -> Project:
    raw = {"name": "desk", "objective": {"task": "classify"}, "data": {"sources": {"s": {"path": "x.csv"}}}}
    return config.Project(tmp_path, config.parse(raw, where="test"))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


@pytest.fixture
def reviews(store: Store) -> Reviews:
    return Reviews(store)


Answered = Callable[..., Usage]


@pytest.fixture
def answered(store: Store) -> Answered:
    """`answered("a", ["text"])` keeps an answer; `log=False` keeps no text, as the server does by default."""

    def keep(answer_id: str, prompt: object, *, log: bool = True, user: str | None = None, **changes: object) -> Usage:
        text = prompt_text(prompt)
        values = {
            "id": answer_id, "endpoint": "classify", "model": "desk", "model_digest": "d1", "prompt_tokens": 3,
            "completion_tokens": 0, "latency_ms": 1.0, "wh": 0.0, "finish_reason": "stop",
            "prompt_sha256": prompt_hash(text), "prompt": text if log else None,
            "user": None if user is None else pseudonym(user),
        }  # fmt: skip
        usage = Usage(**values | changes)
        store.add_usage(usage)
        return usage

    return keep
