"""Many requests at once: an answer does not depend on its neighbours, and nobody waits for ever."""

from __future__ import annotations

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch

from wyrmling.config import Serve
from wyrmling.core.errors import BadInput, BadSetting, GateRefused
from wyrmling.core.store import Store
from wyrmling.model import adapter_folder, probes
from wyrmling.model import folder as model_folder
from wyrmling.model.adapter import Adapters, Design
from wyrmling.model.attention import Segments
from wyrmling.model.cache import BLOCK
from wyrmling.model.sampling import Sampling
from wyrmling.serve.answer import Talker
from wyrmling.serve.loaded import find
from wyrmling.serve.run import load_with_adapters
from wyrmling.tokenizer.tokenizer import Tokenizer

TEXT = " ".join(["Once upon a time there was a little dragon who lived under a hill."] * 3)
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


def test_what_a_key_asked_before_is_not_read_again_and_only_for_it(kitchen, start, tmp_path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'keys.db'}")
    keys = [store.create_key(name)[1] for name in ("ann", "bob")]
    with start(kitchen.model("teller", "next"), store=store) as server:
        ask = {"model": "teller", "prompt": TEXT, "max_tokens": 5, "temperature": 0}
        ann, bob = (server.client(key) for key in keys)
        answers = [client.completions.create(**ask) for client in (ann, bob, ann, bob)]
        assert len({answer.choices[0].text for answer in answers}) == 1
        cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in answers]
        assert cached[:2] == [0, 0], "bob learns nothing of what ann asked"
        assert cached[2] == cached[3] == answers[0].usage.prompt_tokens // BLOCK * BLOCK > 0
        headers = {"authorization": f"Bearer {keys[0]}"}
        lines = server.get("/metrics", headers=headers).text.splitlines()
        hits, asked = (
            next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"vllm:prefix_cache_{name}_total"))
            for name in ("hits", "queries")
        )
        assert (hits, asked) == (sum(cached), 4 * answers[0].usage.prompt_tokens)
    with start(kitchen.model("teller", "next"), prefix_cache_mb=0) as server:
        for _ in range(2):
            usage = server.client().completions.create(**ask).usage
            assert usage.prompt_tokens_details.cached_tokens == 0


def test_a_stream_goes_on_while_a_long_prompt_is_read(long_folder, start) -> None:
    with start(long_folder, prefill_tokens=16) as server:
        stream = server.client(_strict_response_validation=False).completions.create(**endless(server), stream=True)
        next(iter(stream))
        before = server.metric("vllm:generation_tokens_total")
        answer = server.client().completions.create(model="endless", prompt=[40] * 1600, max_tokens=1)
        # A hundred pieces, and a token of the stream beside each but the last.
        assert server.metric("vllm:generation_tokens_total") - before >= 99 + answer.usage.completion_tokens
        stream.close()


def test_adapters_answer_under_their_names_on_one_base(kitchen, start, tmp_path, capsys) -> None:
    base = kitchen.model("teller", "next")
    folders = {name: trained_adapter(base, tmp_path / name, seed) for name, seed in (("a.one", 1), ("b/two", 2))}
    expected = {name: alone(folder / "model") for name, folder in folders.items()} | {"teller": alone(base)}
    assert len({*map(tuple, expected.values())}) == 3
    with start(base, adapters={name: str(folder) for name, folder in folders.items()}) as server:
        client = server.client()

        def ask(name: str) -> list[str]:
            return [
                client.completions.create(model=name, prompt=text, max_tokens=20, temperature=0).choices[0].text
                for text in PROMPTS
            ]

        with ThreadPoolExecutor(3) as pool:
            assert dict(zip(expected, pool.map(ask, expected), strict=True)) == expected
        assert [card.id for card in client.models.list()] == ["teller", "a.one", "b/two"]
        assert client.models.retrieve("b/two").id == "b/two"
        with pytest.raises(openai.BadRequestError):
            client.models.delete("a.one")
        # The strict client refuses the base64 that it asks for.
        loose, names = server.client(_strict_response_validation=False), ("teller", "a.one", "teller")
        vectors = [loose.embeddings.create(model=name, input="tea").data[0].embedding for name in names]
        assert vectors[0] == vectors[2] != vectors[1]
        rows = {row.model: row.model_digest for row in server.service.store.usage()}
        assert len({*rows.values()}) == 3
    assert "can't be checked" not in capsys.readouterr().err.partition("teller")[0]


@pytest.mark.parametrize("quantize", ["int8", "int8-dynamic"])
def test_adapters_work_on_rounded_weights(kitchen, tmp_path, quantize) -> None:
    base = kitchen.model("teller", "next")
    folder = trained_adapter(base, tmp_path / "tuned", 1)
    settings = Serve(quantize=quantize, adapters={"tuned": str(folder)})
    loaded, adapters, served = load_with_adapters(find(base), settings, tmp_path, "cpu")
    merged = model_folder.load(folder / "model")
    tokens, segments = torch.arange(10, 30), Segments([20])
    with torch.inference_mode():
        adapters.use(served["tuned"].adapter)
        given, expected, plain = (
            model.logits(tokens, segments).log_softmax(-1) for model in (loaded.model, merged, model_folder.load(base))
        )
    assert (given - expected).abs().mean() < 0.2 * (plain - expected).abs().mean()


def test_an_adapter_that_does_not_belong_here_is_refused(kitchen, start, tmp_path) -> None:
    base = kitchen.model("teller", "next")
    folder = trained_adapter(base, tmp_path / "tuned", 1)
    elsewhere = kitchen.model("talker", "next", chat=True, seed=1)
    dora = trained_adapter(base, tmp_path / "dora", 1, dora=True)
    wrong = [
        (base, {"teller": str(folder)}, BadSetting, "is the name of the model itself"),
        (base, {"tuned": str(tmp_path)}, BadInput, "is no adapter"),
        (elsewhere, {"tuned": str(folder)}, BadInput, "belongs to the base"),
        (kitchen.model("sorter", "classes"), {"tuned": str(folder)}, BadSetting, "can't take adapters"),
    ]
    for model, adapters, error, message in wrong:
        with pytest.raises(error, match=message):
            load_with_adapters(find(model), Serve(adapters=adapters), tmp_path, "cpu")
    with pytest.raises(BadSetting, match="DoRA"):
        load_with_adapters(find(base), Serve(adapters={"d": str(dora)}, quantize="int8"), tmp_path, "cpu")
    weights = folder / "adapter" / "adapter_model.safetensors"
    tensors = model_folder.read_tensors(weights)
    model_folder.write_tensors(weights, {name: tensor * 1.5 for name, tensor in tensors.items()})
    with pytest.raises(GateRefused, match="differ from the trained"):
        load_with_adapters(find(base), Serve(adapters={"tuned": str(folder)}), tmp_path, "cpu")


def trained_adapter(base: Path, folder: Path, seed: int, **design: object) -> Path:
    """What a lora step leaves: the adapter, and the merged model with its probes."""
    adapters = Adapters(model_folder.load(base))
    adapters.add("default", Design(rank=4, alpha=4.0, **design), seed=seed, head=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.parameters("default").values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    adapter_folder.write(adapters, "default", folder / "adapter", base=adapter_folder.base_of(base))
    about = model_folder.about(base)
    model_folder.save(adapters.merge("default").eval(), folder / "model", base, about)
    probes.record(model_folder.load(folder / "model"), Tokenizer.load(base), ["tea", TEXT[:40]], folder / "model")
    return folder


def alone(folder: Path) -> list[str]:
    talker = Talker(folder)
    return [talker.complete(text, Sampling(max_tokens=20, temperature=0)).text for text in PROMPTS]
