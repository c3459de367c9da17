"""Feedback over HTTP: what is kept of an answer, what may be said about it, and what the server erases by itself."""

from __future__ import annotations

import time

import pytest

from wyrmling import config
from wyrmling.core.reviews import Reviews, pseudonym
from wyrmling.core.store import Store, Usage
from wyrmling.feedback.sketches import sketch


def classify(server, text, **more):
    answer = server.post("/v1/classify", {"model": server.service.name, "input": text, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_record_of_an_answer_says_enough_to_see_drift_and_holds_no_text(sorter) -> None:
    texts = ["where is my card", "a little dragon"]
    answer = classify(sorter, texts, user="anna@example.com")
    kept = sorter.service.store.find_usage(answer["id"])
    assert (kept.prompt, kept.answer, kept.items) == (None, None, 2)
    assert kept.labels == [one["label"] for one in answer["data"]]
    assert kept.confidence == pytest.approx(sum(max(one["probabilities"].values()) for one in answer["data"]) / 2)
    assert (kept.user, kept.chars) == (pseudonym("anna@example.com"), sum(map(len, texts)))
    assert kept.sketch == sketch(texts)
    assert kept.model_digest == sorter.service.loaded.found.digest


def test_feedback_names_an_item_a_user_and_may_bring_the_prompt(sorter) -> None:
    texts = ["where is my card", "a little dragon"]
    answer = classify(sorter, texts)
    said = {"id": answer["id"], "correction": "refund", "item": 1, "prompt": texts, "user": "bert"}
    assert sorter.post("/v1/feedback", said).status_code == 200
    (kept,) = Reviews(sorter.service.store).find(ids=[answer["id"]])
    assert (kept.feedback.item, kept.feedback.user) == (1, pseudonym("bert"))
    assert kept.feedback.prompt is not None and "little dragon" in kept.feedback.prompt
    for wrong, param in (
        ({"item": 2}, "item"),
        ({"prompt": "other"}, "prompt"),
        ({"correction": "none"}, "correction"),
    ):
        refused = sorter.post("/v1/feedback", said | wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert "little dragon" not in sorter.post("/v1/feedback", said | {"prompt": "other"}).text


def test_feedback_that_a_client_sends_again_is_kept_once(sorter) -> None:
    answer = classify(sorter, "where is my card")
    said = {"id": answer["id"], "correction": "refund", "comment": "money back"}
    again = {"x-stainless-retry-count": "1"}
    first = sorter.post("/v1/feedback", said).json()
    assert sorter.post("/v1/feedback", said, headers=again).json() == first
    assert sorter.post("/v1/feedback", said | {"comment": "other"}, headers=again).json()["id"] != first["id"]
    # Two people may say the same.
    assert sorter.post("/v1/feedback", said).json()["id"] != first["id"]
    assert len(Reviews(sorter.service.store).find(ids=[answer["id"]])) == 3


def test_one_answer_may_be_preferred_over_another_to_the_same_prompt(talker) -> None:
    def ask(seed: int, text: str = "tea?") -> str:
        messages = [{"role": "user", "content": text}]
        body = {"model": talker.service.name, "messages": messages, "max_tokens": 3, "seed": seed}
        return talker.post("/v1/chat/completions", body).json()["id"]

    better, worse, other = ask(1), ask(2), ask(3, "who?")
    assert talker.post("/v1/feedback", {"id": better, "preferred_over": worse}).status_code == 200
    (kept,) = Reviews(talker.service.store).find(ids=[better])
    assert kept.other is not None and kept.other.id == worse
    assert talker.post("/v1/feedback", {"id": better, "preferred_over": other}).status_code == 400
    unknown = talker.post("/v1/feedback", {"id": better, "preferred_over": "chatcmpl-none"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "preferred_over")


def test_an_answer_that_breaks_the_demanded_form_is_counted(talker) -> None:
    def formatted(**more: object) -> bool | None:
        body = {"model": talker.service.name, "messages": [{"role": "user", "content": "tea?"}], **more}
        answer = talker.post("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        return talker.service.store.find_usage(answer.json()["id"]).formatted

    assert formatted(max_tokens=2) is None
    assert formatted(max_tokens=1, response_format={"type": "json_object"}) is False
    form = {"type": "json_schema", "json_schema": {"name": "yes", "strict": True, "schema": {"const": "yes"}}}
    assert formatted(max_tokens=60, response_format=form) is True


def test_the_last_look_for_drift_is_among_the_metrics(sorter) -> None:
    signal = {"name": "words", "value": 0.75, "threshold": 0.6, "alarm": True}
    Reviews(sorter.service.store).keep_drift("drift", {"signals": [signal], "alarms": ["words"]})
    assert sorter.metric('wyrmling:drift_value{signal="words"}') == 0.75
    assert sorter.metric('wyrmling:drift_alarm{signal="words"}') == 1


def test_the_server_erases_what_is_older_than_keep_days_and_may_keep_no_sketch(
    kitchen, start, tmp_path, database_url
) -> None:
    text = f'name = "desk"\ndatabase = "{database_url}"\n[objective]\ntask = "classify"\n'
    text += '[data.sources.s]\npath = "x.csv"\n[feedback]\n'
    (tmp_path / "wyrmling.toml").write_text(text + "keep_days = 1\nsketches = false\n")
    project = config.load(tmp_path)
    store = Store.open(project.database_url)
    row = Usage("old", "classify", "desk", "d", 1, 0, 1.0, 0.0, "stop", "0" * 64, prompt='["secret"]', answer="x")
    store.add_usage(Usage(**{**vars(row), "created": "2026-01-01T00:00:00+00:00"}))
    with start(kitchen.model("sorter", "classes"), store=store, project=project) as server:
        until = time.monotonic() + 20
        while store.find_usage("old").prompt is not None:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert store.find_usage(classify(server, "tea")["id"]).sketch is None
