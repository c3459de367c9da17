"""From accepted feedback to rows to learn from: nothing is invented, nobody steers alone, a share stays frozen."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrmling import config
from wyrmling.config import Feedback as Settings
from wyrmling.core.errors import BadInput
from wyrmling.data import origins, read
from wyrmling.feedback import collect
from wyrmling.feedback.collect import is_frozen, matching
from wyrmling.feedback.ratings import rate

HELLO = [{"role": "user", "content": "hello"}]
LEARN_ALL = Settings(regression_share=0)


def collected(reviews, settings=LEARN_ALL, task="chat"):
    return collect.collect(reviews.find(), settings, task)


def rows(reviews, settings=LEARN_ALL):
    return [(example.form, example.row) for example in collected(reviews, settings).learned]


def test_a_corrected_label_is_a_row_that_leads_back_to_the_answer(store, reviews, answered):
    answered("cls-1", ["where is my card", "top up failed"], items=2, labels=["refund", "refund"])
    said = rate(store, "cls-1", correction="top_up_failed", item=1)
    (example,) = collected(reviews).learned
    assert example.row == {"text": "top up failed", "label": "top_up_failed"}
    assert example.line() == example.row | {"answer_id": "cls-1", "feedback_id": said.id, "model": "d1"}


def test_a_thumb_up_confirms_the_label_and_a_thumb_down_alone_names_none(store, reviews, answered):
    for name, rating in (("cls-up", "up"), ("cls-down", "down"), ("cls-so", "neutral")):
        answered(name, [f"text of {name}"], labels=["refund"])
        rate(store, name, rating=rating)
    found = collected(reviews)
    assert [example.row for example in found.learned] == [{"text": "text of cls-up", "label": "refund"}]
    assert found.left_out == Counter(no_right_label=2)


def test_corrected_tags_must_fit_the_words(store, reviews, answered):
    for name, tags in (("tag-1", "O B-place"), ("tag-2", "O")):
        answered(name, [["in", f"Paris{name}"]], endpoint="tag")
        rate(store, name, correction=tags)
    found = collected(reviews)
    assert [example.row for example in found.learned] == [{"words": ["in", "Paristag-1"], "tags": ["O", "B-place"]}]
    assert found.left_out == Counter(tags_do_not_fit=1)


def test_a_corrected_answer_is_learned_and_preferred_over_what_was_said(store, reviews, answered):
    answered("chatcmpl-1", HELLO, endpoint="chat", answer="go away")
    rate(store, "chatcmpl-1", correction="hello to you", rating="down")
    good, bad = ({"role": "assistant", "content": text} for text in ("hello to you", "go away"))
    assert rows(reviews) == [
        ("examples", {"messages": [*HELLO, good]}),
        ("pairs", {"chosen": [*HELLO, good], "rejected": [*HELLO, bad]}),
    ]


@pytest.mark.parametrize("rating", ["up", "down"])
def test_a_rating_alone_labels_the_answer(store, reviews, answered, rating):
    answered("cmpl-1", "once upon", endpoint="completions", answer=" a time")
    rate(store, "cmpl-1", rating=rating)
    asked, said = {"role": "user", "content": "once upon"}, {"role": "assistant", "content": " a time"}
    rated = ("rated", {"messages": [asked, said], "rating": rating == "up"})
    learned = [("examples", {"messages": [asked, said]})] if rating == "up" else []
    assert rows(reviews) == [*learned, rated]


def test_a_project_that_continues_texts_learns_texts(store, reviews, answered):
    answered("cmpl-1", "once upon", endpoint="completions", answer=" a time")
    rate(store, "cmpl-1", correction=" a tree")
    learned = [one.row for one in collected(reviews, task="complete").learned if one.form == "examples"]
    assert learned == [{"text": "once upon a tree"}]


def test_what_is_collected_is_what_the_data_stage_reads(store, reviews, answered, project):
    answered("chatcmpl-1", HELLO, endpoint="chat", answer="go away")
    answered("chatcmpl-2", [{"role": "user", "content": "bye"}], endpoint="chat", answer="so long")
    rate(store, "chatcmpl-1", correction="hello to you")
    rate(store, "chatcmpl-2", rating="up")
    chat = project.settings.objective.model_copy(update={"task": "chat"})
    settings = project.settings.model_copy(update={"objective": chat, "feedback": LEARN_ALL})
    made = collect.run(replace(project, settings=settings), reviews.find())
    kinds, columns_of = {}, {
        collect.EXAMPLES: {"messages": "messages"},
        collect.RATED: {"messages": "messages", "rating": "rating"},
        collect.PAIRS: {"chosen": "chosen", "rejected": "rejected"},
    }  # fmt: skip
    for name, columns in columns_of.items():
        origin = origins.find_origin("s", config.Source(path=str(made.path / name), **columns), made.path)
        kinds[name] = [(row.kind, row.messages[-1].content) for row in read.read_rows(origin)]
    assert kinds[collect.EXAMPLES] == [("conversation", "hello to you"), ("conversation", "so long")]
    assert [kind for kind, _ in kinds[collect.RATED]] == ["rating"]
    assert [kind for kind, _ in kinds[collect.PAIRS]] == ["pair"]


def test_of_several_answers_under_one_id_none_is_taken_for_the_rated_one(store, reviews, answered):
    answered("chatcmpl-1", HELLO, endpoint="chat", answer="one\ntwo", items=2)
    rate(store, "chatcmpl-1", rating="up")
    assert collected(reviews).left_out == Counter(no_answer_text=1)


def test_a_preference_is_a_pair_of_two_answers_to_one_prompt(store, reviews, answered):
    answered("chatcmpl-good", HELLO, endpoint="chat", answer="good day")
    answered("chatcmpl-bad", HELLO, endpoint="chat", answer="what")
    answered("chatcmpl-else", [{"role": "user", "content": "bye"}], endpoint="chat", answer="bye")
    rate(store, "chatcmpl-good", preferred_over="chatcmpl-bad")
    assert [row["rejected"][-1]["content"] for form, row in rows(reviews) if form == "pairs"] == ["what"]
    for other in ("chatcmpl-else", "chatcmpl-good"):
        with pytest.raises(BadInput, match="two answers to the same prompt"):
            rate(store, "chatcmpl-good", preferred_over=other)


def test_without_a_kept_prompt_the_rater_may_send_it_and_only_the_right_one(store, reviews, answered):
    answered("cls-1", ["where is it"], log=False)
    rate(store, "cls-1", correction="card")
    assert collected(reviews).left_out == Counter(no_text=1)
    with pytest.raises(BadInput, match="not the prompt that was answered"):
        rate(store, "cls-1", correction="card", prompt="where was it")
    rate(store, "cls-1", correction="card", prompt="where is it")
    assert rows(reviews) == [("examples", {"text": "where is it", "label": "card"})]


def test_of_several_about_one_text_the_newest_counts(store, reviews, answered):
    for number, (text, label) in enumerate([("Where is it?", "a"), ("other", "b"), ("where  is it", "c")]):
        answered(f"cls-{number}", [text])
        rate(store, f"cls-{number}", correction=label)
    found = collected(reviews)
    assert [example.row["label"] for example in found.learned] == ["b", "c"]
    assert found.left_out == Counter(repeated=1)


def test_one_user_gives_at_most_so_many_rows(store, reviews, answered):
    for number in range(6):
        answered(f"cls-{number}", [f"text {number}"], key_id="key-1")
        rate(store, f"cls-{number}", correction="a", key_id="key-1", user="anna" if number < 4 else None)
    found = collected(reviews, Settings(regression_share=0, max_per_user=2))
    assert [example.row["text"] for example in found.learned] == ["text 0", "text 1", "text 4", "text 5"]
    assert found.left_out == Counter(over_the_cap=2)


@given(st.text(min_size=1), st.floats(0, 1))
def test_a_text_never_changes_sides(text, share):
    assert is_frozen(matching(text), share) == is_frozen(matching(f"  {text.upper().lower()} "), share) or (
        matching(text) != matching(f"  {text.upper().lower()} ")
    )
    assert not is_frozen(matching(text), 0.0)


def test_the_frozen_share_is_tested_on_and_never_learned_from(store, reviews, answered, project):
    for number in range(300):
        answered(f"cls-{number}", [f"text {number}"])
        rate(store, f"cls-{number}", correction="a")
    reviews.decide([said.feedback.id for said in reviews.find()], "accepted")
    accepted = reviews.find(status="accepted")
    found = collect.collect(accepted, Settings(max_per_user=1000), "classify")
    assert 15 <= len(found.frozen) <= 50, "a tenth of 300"
    assert not {e.row["text"] for e in found.frozen} & {e.row["text"] for e in found.learned}
    assert len(found.frozen) + len(found.learned) == 300

    made = collect.run(project, accepted)
    lines = {name: (made.path / name).read_text().splitlines() for name in (collect.EXAMPLES, collect.REGRESSION)}
    assert [len(lines[name]) for name in lines] == [len(found.learned), len(found.frozen)]
    assert json.loads(lines[collect.REGRESSION][0])["answer_id"].startswith("cls-")
    assert collect.run(project, accepted).reused
    assert not collect.run(project, accepted[1:]).reused
