"""The shell and the server give the same answers."""

from __future__ import annotations

import pytest

from wyrmling.core.errors import BadInput, UsageError
from wyrmling.serve import answer


def test_a_completion_in_the_shell_is_that_of_the_server(teller) -> None:
    folder = teller.service.loaded.found.folder
    client = teller.client()
    for options, ask in (({"greedy": True}, {"temperature": 0}), ({"seed": 9}, {"seed": 9})):
        served = client.completions.create(model="teller", prompt="a little", max_tokens=30, **ask)
        assert answer.complete(folder, "a little", max_tokens=30, **options) == served.choices[0].text


def test_a_message_in_the_shell_is_that_of_the_server(talker) -> None:
    folder = talker.service.loaded.found.folder
    messages = [{"role": "user", "content": "tea?"}]
    served = talker.client().chat.completions.create(model="talker", messages=messages, max_tokens=20, seed=2)
    assert answer.message(folder, "tea?", max_tokens=20, seed=2) == served.choices[0].message.content
    assert answer.message(folder, "tea?", max_tokens=20, seed=2) != answer.complete(
        folder, "tea?", max_tokens=20, seed=2
    )


def test_labels_in_the_shell_are_those_of_the_server(sorter, finder) -> None:
    texts = ["where is my card", "x", "a refund please " * 5]
    for running, path, ask in ((sorter, "classify", answer.classify), (finder, "tag", answer.tag)):
        loaded = running.service.loaded
        served = running.post(f"/v1/{path}", {"model": loaded.found.name, "input": texts}).json()["data"]
        ours = ask(loaded.found.folder, texts)
        for one, other in zip(served, ours, strict=True):
            assert one.keys() == other.keys()
            assert one.get("label") == other.get("label") and one.get("tags") == other.get("tags")
            flat = [
                list(x["probabilities"].values()) if path == "classify" else x["probabilities"] for x in (one, other)
            ]
            assert flat[0] == pytest.approx(flat[1], abs=1e-6)


def test_what_can_not_be_answered_says_why(teller, sorter, finder) -> None:
    with pytest.raises(UsageError, match="sorter classifies texts, so chat can't use it"):
        answer.complete(sorter.service.loaded.found.folder, "x")
    with pytest.raises(UsageError, match="generates text"):
        answer.classify(teller.service.loaded.found.folder, ["x"])
    with pytest.raises(BadInput, match="tokens, but the model reads at most 128") as caught:
        answer.classify(sorter.service.loaded.found.folder, ["x", "dragon " * 500])
    assert caught.value.where == "text 2"
    with pytest.raises(BadInput, match="no word to tag"):
        answer.tag(finder.service.loaded.found.folder, [" "])
    with pytest.raises(BadInput, match="context"):
        answer.complete(teller.service.loaded.found.folder, "dragon " * 500)
