"""What a request can do wrong, who may ask, and what is kept of an answer."""

from __future__ import annotations

import hashlib
import json
import time

import openai
import pytest

from wyrmling.core.store import Store, Usage
from wyrmling.serve import app

CHAT = {"model": "talker", "messages": [{"role": "user", "content": "tea?"}]}


def refused(running, path: str, body: object) -> tuple[int, str, str | None]:
    answer = running.post(path, body)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"temprature": 1}, 400, "unsupported_parameter", "temprature"),
        ({"functions": []}, 400, "unsupported_parameter", "functions"),
        ({"tools": [{"type": "function"}]}, 400, "missing_required_parameter", "tools.0.function"),
        ({"store": True}, 400, "unsupported_parameter", "store"),
        ({"response_format": {"type": "xml"}}, 400, "unsupported_parameter", "response_format.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            400, "unsupported_parameter", "messages.0.content.0.type",
        ),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_value", "messages.0.content"),
        ({"messages": None}, 400, "invalid_value", "messages"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"temperature": "hot"}, 400, "invalid_value", "temperature"),
        ({"n": 0}, 400, "invalid_value", "n"),
        ({"n": 100}, 400, "too_many_answers", None),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "invalid_value", "stop"),
        ({"stop": ""}, 400, "invalid_value", "stop"),
        ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
        ({"logit_bias": {"card": 1}}, 400, "invalid_value", "logit_bias"),
        ({"logit_bias": {"99999": 1}}, 400, "invalid_value", "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, 400, "invalid_value", "logit_bias"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream_options"),
        ({"model": "gpt-5"}, 404, "model_not_found", "model"),
        ({"model": "../../etc/passwd"}, 404, "model_not_found", "model"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named(talker, change, status, code, param) -> None:
    assert refused(talker, "/v1/chat/completions", CHAT | change) == (status, code, param)


def test_a_missing_key_is_named(talker) -> None:
    assert refused(talker, "/v1/chat/completions", {"model": "talker"}) == (
        400, "missing_required_parameter", "messages",
    )  # fmt: skip


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000, b"null", b'"x"', b'{"model": NaN}'])
def test_a_body_that_is_no_json_object_is_a_400(talker, content: bytes) -> None:
    answer = talker.post("/v1/chat/completions", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_prompt_longer_than_the_context_is_a_400(talker, sorter, finder) -> None:
    long = "dragon " * 1000
    message = [{"role": "user", "content": long}]
    assert refused(talker, "/v1/chat/completions", CHAT | {"messages": message}) == (
        400, "context_length_exceeded", "messages",
    )  # fmt: skip
    assert refused(talker, "/v1/completions", {"model": "talker", "prompt": long})[1:] == (
        "context_length_exceeded", "prompt",
    )  # fmt: skip
    assert refused(sorter, "/v1/classify", {"model": "sorter", "input": ["tea", long]})[1:] == (
        "context_length_exceeded", "input.1",
    )  # fmt: skip
    assert refused(finder, "/v1/tag", {"model": "finder", "input": long})[1] == "context_length_exceeded"


@pytest.mark.parametrize("prompt", [[], [[]], [5, -1], [999_999], ["tea", ""][:0], [True]])
def test_token_ids_that_are_none_are_a_400(talker, prompt) -> None:
    assert refused(talker, "/v1/completions", {"model": "talker", "prompt": prompt})[0] == 400
    assert talker.post("/v1/chat/completions", CHAT | {"max_tokens": 1}).status_code == 200, "the engine goes on"


def test_a_model_for_another_job_says_which(talker, sorter) -> None:
    answer = sorter.post("/v1/chat/completions", CHAT | {"model": "sorter"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_model")
    assert "classifies texts" in answer.json()["error"]["message"]
    assert refused(talker, "/v1/classify", {"model": "talker", "input": "x"})[1] == "unsupported_model"


def test_unknown_routes_and_methods_have_error_bodies(talker) -> None:
    for answer, status in ((talker.get("/v1/nothing"), 404), (talker.get("/v1/chat/completions"), 405)):
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == "unknown_route"


def test_a_large_body_is_a_413(talker) -> None:
    content = json.dumps(CHAT | {"user": "x" * 1_100_000}).encode()
    answer = talker.post("/v1/chat/completions", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")

    def endless():
        yield from (b" " * 50_000 for _ in range(30))

    assert talker.post("/v1/chat/completions", content=endless()).status_code == 413


def test_every_answer_carries_its_id_and_no_door_for_other_pages(talker) -> None:
    answers = [talker.get("/livez"), talker.get("/nothing"), talker.post("/v1/chat/completions", CHAT | {"n": 0})]
    answers.append(talker.get("/v1/models", headers={"origin": "https://evil.example"}))
    for answer in answers:
        assert answer.headers["x-request-id"].startswith("req-")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_a_foreign_host_header_is_refused(talker, host: str) -> None:
    answer = talker.get("/v1/models", headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_host")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "127.5.5.5:80", "[::1]:8000"])
def test_names_of_this_machine_are_taken(talker, host: str) -> None:
    assert talker.get("/v1/models", headers={"host": host}).status_code == 200


def test_once_there_is_a_key_every_route_but_health_needs_one(kitchen, start, tmp_path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")
    with start(kitchen.model("teller", "next"), store=store) as server:
        assert server.client().models.list().data
        key, secret = store.create_key("laptop")
        while server.get("/v1/models").status_code == 200:  # within a second
            time.sleep(0.05)
        routes = [(method, path) for method, path, _ in app.ROUTES]
        assert {path for _, path in routes} == {route.path for route in server.server.config.app.app.routes}
        for method, path in routes:
            answer = server.ask(method, path.replace("{model:path}", "teller"))
            # The script of the widget is the same for everybody, and a browser sends no key for a script.
            public = path in {"/livez", "/readyz", "/health", "/widget.js"}
            assert answer.status_code == (200 if public else 401), path
        for wrong in ("none", secret[:-1], secret.upper()):
            with pytest.raises(openai.AuthenticationError) as caught:
                server.client(wrong).models.list()
            assert caught.value.code == "invalid_api_key"
        for header in (secret, f"Basic {secret}", "Bearer", "Bearer \xe9"):
            headers = {"authorization": header.encode("latin-1")}
            assert server.get("/v1/models", headers=headers).status_code == 401
        answer = server.client(secret).completions.create(model="teller", prompt="tea", max_tokens=2)
        assert store.find_usage(answer.id).key_id == key.id
        _, other = store.create_key("other")
        for asker, status in ((other, 404), (secret, 200)):
            said = server.post(
                "/v1/feedback", {"id": answer.id, "rating": 1}, headers={"authorization": f"Bearer {asker}"}
            )
            assert said.status_code == status
        store.revoke_key(key.id)
        with pytest.raises(openai.AuthenticationError):
            server.client(secret).models.list()


def test_an_answer_says_how_long_the_model_worked_on_it(teller) -> None:
    answer = teller.post("/v1/completions", {"model": "teller", "prompt": "tea", "max_tokens": 4})
    name, _, duration = answer.headers["server-timing"].partition(";dur=")
    assert name == "model"
    row = teller.service.store.find_usage(answer.json()["id"])
    assert 0 < float(duration) <= row.latency_ms
    # the energy of the record is that of the same time, at the 10 W of this server
    assert float(duration) == pytest.approx(row.wh * 3600 / 10 * 1000, abs=0.01)


def test_the_usage_row_is_there_before_the_answer_ends(teller, talker) -> None:
    answer = teller.client().completions.create(model="teller", prompt=["tea", "dragon"], max_tokens=4, n=2)
    row = teller.service.store.find_usage(answer.id)
    assert (row.endpoint, row.model, row.key_id) == ("completions", "teller", None)
    assert row.model_digest == teller.service.loaded.found.digest
    assert (row.prompt_tokens, row.completion_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert row.latency_ms > 0
    assert 0 < row.wh < row.latency_ms / 3_600_000 * 10.0, "at most the machine's watts for as long as it took"
    assert row.prompt_sha256 == hashlib.sha256(json.dumps(["tea", "dragon"]).encode()).hexdigest()
    assert row.prompt is None and row.answer is None, "texts are kept only when the settings say so"
    stream = talker.client().chat.completions.create(**CHAT, max_tokens=4, seed=1, stream=True)
    chunks = list(stream)
    row = talker.service.store.find_usage(chunks[0].id)
    assert json.loads(row.prompt) == CHAT["messages"]
    assert row.answer == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert row.finish_reason == chunks[-1].choices[0].finish_reason


def test_feedback_is_kept_or_refused(sorter) -> None:
    answer = sorter.post("/v1/classify", {"model": "sorter", "input": "where is my card"}).json()
    said = {"id": answer["id"], "rating": -1, "correction": "refund", "comment": "obviously"}
    receipt = sorter.post("/v1/feedback", said)
    assert receipt.status_code == 200
    kept = sorter.service.store.feedback()[0]
    assert (kept.id, kept.answer_id) == (receipt.json()["id"], answer["id"])
    assert (kept.rating, kept.correction, kept.comment) == (-1, "refund", "obviously")
    for change, status, param in (
        ({"id": "cls-unknown"}, 404, "id"),
        ({"correction": "refunds"}, 400, "correction"),
        ({"rating": 5}, 400, "rating"),
        ({"rating": 0.5}, 400, "rating"),
        ({"stars": 5}, 400, "stars"),
        ({"rating": None, "correction": None, "comment": None}, 400, "rating"),
    ):
        answer = sorter.post("/v1/feedback", said | change)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_correction_of_another_model_is_not_held_against_these_labels(sorter) -> None:
    sorter.service.store.add_usage(Usage("cls-tuned", "classify", "ft:x", "d2", 1, 0, 1.0, 0.0, "stop", "0"))
    assert sorter.post("/v1/feedback", {"id": "cls-tuned", "correction": "loan"}).status_code == 200


def test_metrics_count_what_happened_and_do_not_grow_by_request(start, kitchen) -> None:
    with start(kitchen.model("teller", "next")) as server:
        answer = server.client().completions.create(model="teller", prompt="tea", max_tokens=5, n=2)
        model = '{model_name="teller"}'
        assert server.metric(f"vllm:prompt_tokens_total{model}") == 2 * answer.usage.prompt_tokens
        assert server.metric(f"vllm:generation_tokens_total{model}") == answer.usage.completion_tokens
        assert server.metric("vllm:request_success_total") == 2
        assert server.metric(f"vllm:e2e_request_latency_seconds_count{model}") == 1
        assert server.metric(f"vllm:time_to_first_token_seconds_count{model}") == 1
        assert server.metric("vllm:num_requests_running") == server.metric("vllm:num_requests_waiting") == 0
        assert server.metric("wyrmling:energy_joules_total") > 0
        server.post("/v1/feedback", {"id": answer.id, "rating": "down"})
        assert server.metric('wyrmling:feedback_total{rating="down"}') == 1

        def series() -> set[str]:
            return {line.rpartition(" ")[0] for line in server.get("/metrics").text.splitlines()}

        server.post("/v1/completions", {"model": "first", "prompt": "x"})
        server.get("/first")
        before = series()
        for index in range(50):
            server.post("/v1/completions", {"model": f"unknown-{index}", "prompt": "x"})
            server.get(f"/path-{index}")
        assert series() == before
        assert server.metric('vllm:admission_rejections_total{model_name="teller",reason="unknown_model"}') == 51


def test_the_classifier_answers_as_the_model_says(sorter) -> None:
    import torch

    from wyrmling.model.attention import Segments

    loaded = sorter.service.loaded
    texts = ["where is my card", "a refund please, now!", "", "日本語"]
    answer = sorter.post("/v1/classify", {"model": "sorter", "input": texts}).json()
    for text, row in zip(texts, answer["data"], strict=True):
        ids = loaded.tokenizer.document(text)
        with torch.no_grad():
            expected = loaded.model.logits(torch.tensor(ids), Segments([len(ids)])).softmax(-1)[0]
        got = [row["probabilities"][label] for label in loaded.labels]
        assert got == pytest.approx(expected.tolist(), abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == sum(len(loaded.tokenizer.document(text)) for text in texts)


def test_the_tagger_takes_text_or_words(finder) -> None:
    words = ["Dr", "Oğuz", "lives", "in", "Rome"]
    by_text = finder.post("/v1/tag", {"model": "finder", "input": "Dr Oğuz lives in Rome"}).json()["data"][0]
    by_words = finder.post("/v1/tag", {"model": "finder", "input": [words]}).json()["data"][0]
    assert by_text == by_words
    assert by_text["words"] == words and len(by_text["tags"]) == len(by_text["probabilities"]) == 5
    for wrong in ([[]], [["a", " "]], ["", "x"]):
        assert refused(finder, "/v1/tag", {"model": "finder", "input": wrong})[0] == 400
