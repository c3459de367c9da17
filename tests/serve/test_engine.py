"""Many requests at once: an answer does not depend on its neighbours, and nobody waits for ever."""

from __future__ import annotations

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

PROMPTS = ["a little dragon", "tea", "Once upon a time there was", "She", "One day she flew to", "naïve", "日本", "The"]


def until(condition, seconds: float = 20.0) -> None:
    """Wait for a condition that must come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def long_folder(kitchen):
    """A model that can go on for thousands of tokens."""
    return kitchen.model("endless", "next", context=6000)


def endless(running) -> dict:
    """A request whose answer does not end by itself."""
    bias = {str(token): -100 for token in running.service.loaded.tokenizer.end_ids}
    return {"model": running.service.name, "prompt": "tea", "max_tokens": 5900, "logit_bias": bias}


def test_an_answer_alone_is_the_answer_among_seven_others(teller) -> None:
    client = teller.client()

    def ask(prompt: str, **options: object) -> list[str]:
        answer = client.completions.create(model="teller", prompt=prompt, max_tokens=40, **options)
        return [choice.text for choice in answer.choices]

    for options in ({"temperature": 0}, {"seed": 3}, {"seed": 3, "top_p": 0.9, "frequency_penalty": 0.3}):
        alone = [ask(prompt, **options) for prompt in PROMPTS]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            together = list(pool.map(lambda prompt, options=options: ask(prompt, **options), PROMPTS))
        assert together == alone


def test_labels_alone_are_the_labels_among_others(sorter) -> None:
    texts = [" ".join(PROMPTS[: count + 1]) for count in range(len(PROMPTS))]

    def ask(texts: list[str]) -> list[dict]:
        return sorter.post("/v1/classify", {"model": "sorter", "input": texts}).json()["data"]

    alone = [ask([text])[0]["probabilities"] for text in texts]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(ask, [texts] * 8))
    for answers in many:
        for expected, row in zip(alone, answers, strict=True):
            assert row["probabilities"] == pytest.approx(expected, abs=1e-6)


def test_more_requests_than_places_wait_and_are_all_answered(kitchen, start) -> None:
    with start(kitchen.model("teller", "next"), max_sequences=2) as server:
        client = server.client()

        def ask(seed: int) -> str:
            return client.completions.create(model="teller", prompt="tea", seed=seed, max_tokens=20).choices[0].text

        with ThreadPoolExecutor(12) as pool:
            together = list(pool.map(ask, range(12)))
        assert together == [ask(seed) for seed in range(12)]


def test_beyond_the_queue_a_request_is_refused_at_once(long_folder, start) -> None:
    with start(long_folder, max_sequences=1, max_queue=1) as server:
        client = server.client()
        loose = server.client(_strict_response_validation=False)
        first = loose.completions.create(**endless(server), stream=True)
        next(iter(first))
        second = loose.completions.create(**endless(server), stream=True)
        until(lambda: server.metric("vllm:num_requests_waiting") == 1)
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="endless", prompt="tea", max_tokens=1)
        assert (caught.value.status_code, caught.value.code) == (503, "engine_overloaded")
        assert caught.value.response.headers["retry-after"] == "1"
        assert server.metric('vllm:admission_rejections_total{model_name="endless",reason="queue_full"}') == 1
        first.close()
        second.close()
        until(lambda: server.metric("vllm:num_requests_running") == server.metric("vllm:num_requests_waiting") == 0)
        # The client's own retry is all that is needed once there is room again.
        assert client.completions.create(model="endless", prompt="tea", max_tokens=1).choices


def test_a_client_that_leaves_frees_its_place(long_folder, start) -> None:
    with start(long_folder, max_sequences=1) as server:
        stream = server.client(_strict_response_validation=False).completions.create(**endless(server), stream=True)
        next(iter(stream))
        stream.close()
        until(lambda: server.metric("vllm:num_requests_running") == 0)
        with pytest.raises(openai.APITimeoutError):
            server.client(timeout=0.3).completions.create(**endless(server))
        until(lambda: server.metric("vllm:num_requests_running") == 0)
        assert server.metric('vllm:request_success_total{finished_reason="abort",model_name="endless"}') == 2
        until(lambda: len(server.service.store.usage()) == 2)
        for row in server.service.store.usage():
            assert row.finish_reason == "abort", "what a vanished client used is accounted for too"
        assert server.service.store.usage()[0].wh > 0


def test_a_stopping_server_finishes_what_it_began(long_folder, start) -> None:
    with start(long_folder) as server:
        ask = endless(server) | {"max_tokens": 600}
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(lambda: server.client().completions.create(**ask))
            until(lambda: server.metric("vllm:num_requests_running") == 1)
            server.server.handle_exit(15, None)
            assert answer.result().usage.completion_tokens == 600
        assert not server.service.engine.ready


def test_what_is_left_at_the_deadline_gets_an_error_and_not_a_truncated_answer(long_folder, start) -> None:
    with start(long_folder) as server:
        stream = server.client(_strict_response_validation=False).completions.create(**endless(server), stream=True)
        chunks = iter(stream)
        next(chunks)
        server.service.engine.drain(0.0)
        with pytest.raises(openai.APIError, match="stopped before the answer was finished"):
            list(chunks)
        answer = server.get("/readyz")
        assert (answer.status_code, server.get("/livez").status_code) == (503, 200)
        assert server.post("/v1/completions", {"model": "endless", "prompt": "x"}).status_code == 503


def test_a_failing_step_is_an_error_for_its_requests_and_the_server_goes_on(long_folder, start, caplog) -> None:
    with start(long_folder) as server:
        stream = server.client(_strict_response_validation=False).completions.create(**endless(server), stream=True)
        chunks = iter(stream)
        next(chunks)
        body = server.service.loaded.model.body
        norm, body.final_norm = body.final_norm, None
        with pytest.raises(openai.APIError) as caught:
            list(chunks)
        body.final_norm = norm
        assert caught.value.code == "engine_error"
        assert "NoneType" not in str(caught.value), "the client does not learn how the server is built"
        assert "NoneType" in caplog.text
        assert server.client().completions.create(model="endless", prompt="tea", max_tokens=3).choices


def test_a_stream_is_server_sent_events_to_the_end(talker) -> None:
    import httpx2

    body = {"model": "talker", "messages": [{"role": "user", "content": "tea"}], "max_tokens": 5, "stream": True}
    with httpx2.stream("POST", f"{talker.address}/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    choices = [json.loads(event[6:])["choices"][0] for event in events[:-2]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert choices[-1]["delta"] == {} and choices[-1]["finish_reason"]
    assert all(choice["finish_reason"] is None for choice in choices[:-1])


def test_health_answers_while_the_model_is_busy(long_folder, start) -> None:
    with start(long_folder) as server:
        stream = server.client(_strict_response_validation=False).completions.create(**endless(server), stream=True)
        reader = threading.Thread(target=lambda: list(itertools.islice(stream, 300)))
        reader.start()
        started = time.monotonic()
        for _ in range(20):
            assert server.get("/readyz").status_code == 200
        assert time.monotonic() - started < 5
        reader.join()
        stream.close()
