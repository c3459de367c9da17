"""The shell and the server give the same answers."""

from __future__ import annotations

import pytest

from wyrmling.core.errors import BadInput, UsageError
from wyrmling.model.sampling import Sampling
from wyrmling.serve import answer


def test_a_completion_in_the_shell_is_that_of_the_server(teller) -> None:
    folder = teller.service.loaded.found.folder
    client = teller.client()
    ours = answer.Talker(folder)
    own = {"top_k": 9, "min_p": 0.01, "repetition_penalty": 1.2}
    usual = {"seed": 9, "temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.2}
    for settings, extra in (({"temperature": 0}, {}), ({"seed": 9}, {}), (usual, own)):
        served = client.completions.create(
            model="teller", prompt="a little", max_tokens=30, extra_body=extra, **settings
        )
        reply = ours.complete("a little", Sampling(max_tokens=30, **settings, **extra))
        assert (reply.text, reply.finish) == (served.choices[0].text, served.choices[0].finish_reason)


def test_each_setting_of_a_request_changes_the_answer(teller) -> None:
    def text(**settings: object) -> str:
        body = {"model": "teller", "prompt": "a little dragon", "max_tokens": 40, "seed": 3, **settings}
        return teller.post("/v1/completions", body).json()["choices"][0]["text"]

    plain = text()
    for name, value in (("min_p", 0.5), ("top_k", 1), ("top_p", 0.1), ("repetition_penalty", 5.0),
                        ("presence_penalty", 2.0), ("frequency_penalty", 2.0), ("temperature", 0.1)):  # fmt: skip
        assert text(**{name: value}) != plain, name


def test_a_stop_token_ends_the_answer_and_is_not_shown(teller) -> None:
    body = {"model": "teller", "prompt": "a little dragon", "max_tokens": 12, "temperature": 0}
    loaded = teller.service.loaded
    reply = answer.Talker(loaded.found.folder).complete(body["prompt"], Sampling(max_tokens=12, temperature=0))
    third = reply.tokens[2].id
    before = [token.id for token in reply.tokens[: [token.id for token in reply.tokens].index(third)]]
    choice = teller.post("/v1/completions", {**body, "stop_token_ids": [third]}).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (loaded.tokenizer.decode(before), "stop")


def test_a_stop_text_ends_the_answer_in_the_shell_too(teller) -> None:
    talker = answer.Talker(teller.service.loaded.found.folder)
    whole = talker.complete("a little", Sampling(max_tokens=30, temperature=0)).text
    stop = whole[4:6]
    reply = talker.complete("a little", Sampling(max_tokens=30, temperature=0), stops=(stop,))
    assert (reply.text, reply.finish) == (whole[: whole.index(stop)], "stop")


def test_logprobs_in_the_shell_are_those_of_the_server(teller) -> None:
    talker = answer.Talker(teller.service.loaded.found.folder)
    sampling = Sampling(max_tokens=5, temperature=0, top_logprobs=2)
    told = talker.complete("a little", sampling).document(talker.spelling, with_tokens=True)["tokens"]
    body = {"model": "teller", "prompt": "a little", "max_tokens": 5, "temperature": 0, "logprobs": 2}
    served = teller.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    assert [token["logprob"] for token in told] == pytest.approx(served["token_logprobs"], abs=1e-4)
    assert all(len(token["top"]) == 2 for token in told)


def test_a_message_in_the_shell_is_that_of_the_server(talker) -> None:
    folder = talker.service.loaded.found.folder
    messages = [{"role": "user", "content": "tea?"}]
    served = talker.client().chat.completions.create(model="talker", messages=messages, max_tokens=20, seed=2)
    ours, sampling = answer.Talker(folder), Sampling(max_tokens=20, seed=2)
    assert ours.message("tea?", sampling).text == served.choices[0].message.content
    assert ours.message("tea?", sampling).text != ours.complete("tea?", sampling).text


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
        answer.Talker(sorter.service.loaded.found.folder)
    with pytest.raises(UsageError, match="generates text"):
        answer.classify(teller.service.loaded.found.folder, ["x"])
    with pytest.raises(BadInput, match="tokens, but the model reads at most 128") as caught:
        answer.classify(sorter.service.loaded.found.folder, ["x", "dragon " * 500])
    assert caught.value.where == "text 2"
    with pytest.raises(BadInput, match="no word to tag"):
        answer.tag(finder.service.loaded.found.folder, [" "])
    with pytest.raises(BadInput, match="context"):
        answer.Talker(teller.service.loaded.found.folder).complete("dragon " * 500, Sampling())


@pytest.mark.parametrize("method", ["int8", "int8-dynamic"])
def test_quantised_labels_are_near_the_trained_models(sorter, method: str, capsys) -> None:
    folder, texts = sorter.service.loaded.found.folder, ["where is my card", "a refund please"]
    for plain, rounded in zip(
        answer.classify(folder, texts), answer.classify(folder, texts, quantize=method), strict=True
    ):
        assert rounded["probabilities"] == pytest.approx(plain["probabilities"], abs=0.05)
        assert rounded["probabilities"] != plain["probabilities"]
    assert "distributions by" in capsys.readouterr().err
