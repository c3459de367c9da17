"""What may be said about an answer, and by whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wyrmling.core.errors import BadInput
from wyrmling.core.store import Store, Usage
from wyrmling.feedback.ratings import UnknownAnswer, rate


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path / 'wyrmling.db'}"
    store = Store.open(request.getfixturevalue("database_url") if "database_url" in request.fixturenames else url)
    for answer_id, key_id in (("cls-open", None), ("cls-mine", "key-me")):
        store.add_usage(Usage(answer_id, "classify", "desk", "d1", 3, 0, 1.0, 0.0, "stop", "0" * 64, key_id=key_id))
    yield store
    store.close()


@pytest.mark.parametrize(("said", "kept"), [(1, 1), (0, 0), (-1, -1), ("up", 1), ("neutral", 0), ("down", -1)])
def test_a_rating_is_kept_as_a_number(store: Store, said: int | str, kept: int) -> None:
    feedback = rate(store, "cls-open", rating=said)
    assert feedback.rating == kept
    assert store.feedback() == [feedback]
    assert feedback.model_digest == "d1", "feedback belongs to the weights that answered"


@pytest.mark.parametrize("rating", [2, -2, "good", "", True])
def test_any_other_rating_is_refused(store: Store, rating: int | str) -> None:
    with pytest.raises(BadInput, match="is not a rating"):
        rate(store, "cls-open", rating=rating)
    assert store.feedback() == []


def test_what_is_said_a_second_time_may_be_the_same(store: Store, database_url: str) -> None:
    said = {"rating": "up", "comment": "good", "user": "anna"}
    first = rate(store, "cls-open", **said)
    assert rate(store, "cls-open", **said, unless_since=first.created) == first
    for other in ({"user": None}, {"comment": None}, {"rating": "down"}):
        assert rate(store, "cls-open", **said | other, unless_since=first.created).id != first.id
    assert rate(store, "cls-open", **said, unless_since="9999").id != first.id, "it was said long ago"


def test_feedback_must_say_something(store: Store) -> None:
    with pytest.raises(BadInput, match="says nothing"):
        rate(store, "cls-open")


def test_a_correction_of_a_classifier_must_be_one_of_its_labels(store: Store) -> None:
    assert rate(store, "cls-open", correction="refund", labels=["refund", "card"]).correction == "refund"
    with pytest.raises(BadInput, match=r"'refunds' is not a label of this model.*\n.*\n.*card, refund"):
        rate(store, "cls-open", correction="refunds", labels=["refund", "card"])


def test_a_correction_of_a_tagger_must_use_its_tags(store: Store) -> None:
    rate(store, "cls-open", correction="O B-person O", tags=["O", "B-person"])
    with pytest.raises(BadInput, match="'B-persons' is not a tag"):
        rate(store, "cls-open", correction="O B-persons", tags=["O", "B-person"])


def test_answers_of_another_key_look_unknown(store: Store) -> None:
    rate(store, "cls-mine", rating=1, key_id="key-me")
    with pytest.raises(UnknownAnswer) as other:
        rate(store, "cls-mine", rating=1, key_id="key-you")
    with pytest.raises(UnknownAnswer) as nobody:
        rate(store, "cls-none", rating=1, key_id="key-you")
    assert str(other.value).replace("cls-mine", "") == str(nobody.value).replace("cls-none", "")
