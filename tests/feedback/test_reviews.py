"""The inbox, retention and erasure, on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from wyrmling.core.errors import UsageError
from wyrmling.core.reviews import Erased, Reviews
from wyrmling.core.store import Store
from wyrmling.core.tables import Decided
from wyrmling.feedback import collect, retention
from wyrmling.feedback.ratings import rate
from wyrmling.flow import feedback as flow


@pytest.fixture
def project(project, database_url, store):
    return replace(project, settings=project.settings.model_copy(update={"database": database_url}))


def test_the_inbox_is_emptied_one_by_one_or_in_bulk(project, store, answered):
    said = []
    for number in range(6):
        answered(f"cls-{number}", [f"text {number}"], labels=["a"])
        said.append(rate(store, f"cls-{number}", rating="up" if number % 2 else "down", user=f"u{number % 3}"))
    waiting, text = flow.listing(project, "new", 2)
    assert [one["id"] for one in waiting["feedback"]] == [said[0].id, said[1].id], "the oldest first"
    assert "text 0" in text and "wyrmling feedback accept" not in text.splitlines()[0]
    flow.decide(project, [said[0].id, "cls-1"], "accepted", everything=False)
    found, text = flow.decide(project, [], "rejected", everything=True, rating="down", user="u1")
    assert found["decided"] == [said[4].id]
    assert found["counts"] == {"new": 3, "accepted": 2, "rejected": 1, "unused": 2}
    assert flow.decide(project, [said[4].id], "accepted", everything=False)[0]["counts"]["rejected"] == 0
    flow.decide(project, [], "accepted", everything=True)
    assert flow.listing(project, "new", None)[0]["feedback"] == []
    assert "no_right_label" in flow.decide(project, [said[0].id], "accepted", everything=False)[1]


@pytest.mark.parametrize(("ids", "everything"), [([], False), (["fb-x"], True), (["fb-x"], False)])
def test_what_is_meant_must_be_said(project, ids, everything):
    with pytest.raises(UsageError, match=r"which feedback is meant|no feedback 'fb-x'"):
        flow.decide(project, ids, "accepted", everything=everything)


def test_old_texts_go_but_accepted_feedback_and_counts_stay(store, reviews, answered):
    for name in ("old", "old-liked", "old-said"):
        answered(name, [name], created="2026-01-01T00:00:00+00:00", user="anna", sketch=b"12")
        if name != "old":
            rate(store, name, rating="up")
    answered("new", ["new"])
    liked = next(said for said in reviews.find() if said.usage.id == "old-liked")
    reviews.decide([liked.feedback.id], "accepted")
    assert retention.expire(store, None) == Erased(0, 0)
    assert retention.expire(store, 1.0) == Erased(2, 1)
    kept = {usage.id: usage for usage in store.usage()}
    assert {name for name, usage in kept.items() if usage.prompt is not None} == {"old-liked", "new"}
    assert (kept["old"].user, kept["old"].sketch, kept["old"].prompt_sha256) == (None, None, "")
    assert kept["old"].prompt_tokens == 3
    assert [said.usage.id for said in reviews.find()] == ["old-liked"]
    assert retention.expire(store, 1.0) == Erased(0, 0)


def test_forgetting_a_person_reaches_the_database_and_what_was_made_of_it(project, store, reviews, answered):
    for number, user in enumerate(["anna", "anna", "bert", "bert"]):
        answered(f"cls-{number}", [f"secret {number} of {user}"], user=user)
        # A reviewer corrects: what was asked is anna's all the same.
        rate(store, f"cls-{number}", correction="a", user="reviewer" if number == 0 else user)
    flow.decide(project, [], "accepted", everything=True)
    made = collect.run(project, reviews.find(status="accepted"))
    assert "secret 0 of anna" in "".join(file.read_text() for file in made.path.glob("*.jsonl"))
    document, text = flow.forget(project, "anna")
    assert (document["answers"], document["feedback"]) == (2, 2)
    assert not made.path.exists() and made.path.name in text
    assert [said.usage.id for said in reviews.find()] == ["cls-2", "cls-3"]
    again = collect.run(project, reviews.find(status="accepted"))
    assert "anna" not in "".join(file.read_text() for file in again.path.glob("*.jsonl"))
    assert flow.forget(project, "anna")[0]["answers"] == 0
    assert again.path.exists(), "nothing of anna's is in it"


def test_a_key_can_be_forgotten_too(project, store, reviews, answered):
    answered("cls-1", ["x"], key_id="key-1")
    answered("cls-2", ["y"], key_id="key-2")
    for number in (1, 2):
        rate(store, f"cls-{number}", correction="a", key_id=f"key-{number}")
    flow.forget(project, "key-1")
    assert [said.usage.id for said in reviews.find()] == ["cls-2"]


def test_the_cli_may_rate_the_answers_of_any_key(project, store, answered):
    answered("cls-1", ["x"], key_id="key-1")
    assert flow.rate(project, "cls-1", rating="down", correction="a")[0]["rating"] == -1


def test_decisions_and_reports_are_only_added_to(database_url):
    with closing(Store.open(database_url)) as store:
        reviews = Reviews(store)
        assert reviews.last_drift() is None
        for version in (2, 3):
            reviews.log(Decided("desk", "HOLD", version, 1, "worse", ["line"]))
            reviews.keep_drift("none", {"n": version})
        assert [one.version for one in reviews.decisions("desk")] == [2, 3]
        assert reviews.decisions("other") == []
        assert reviews.last_drift()["n"] == 3
