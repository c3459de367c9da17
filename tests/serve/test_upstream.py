"""Another server behind this one's front. Here it is wyrmling's own, and once llama.cpp."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from wyrmling.config import Home, Serve
from wyrmling.core.errors import BadInput, UsageError
from wyrmling.core.store import Store
from wyrmling.flow import engines
from wyrmling.flow.export import export
from wyrmling.model.sampling import Sampling
from wyrmling.serve import run, upstream
from wyrmling.serve.access import AccessLog
from wyrmling.serve.answer import Talker
from wyrmling.serve.llamacpp import Engine
from wyrmling.serve.metrics import Metrics

HTTP = httpx2.Client(timeout=60)
MESSAGES = [{"role": "user", "content": "tea"}]


class Front:
    """A server in front of another."""

    def __init__(self, service: upstream.Upstream, address: str) -> None:
        self.service, self.address = service, address

    def client(self, key: str = "none", **options: object) -> openai.OpenAI:
        options = {"max_retries": 0, "_strict_response_validation": True} | options
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, **options)


@contextlib.contextmanager
def front(url: str, folder: Path, name: str = "ours", *, key: str | None = None, **settings: object) -> Iterator[Front]:
    store = Store.open(f"sqlite:///{folder / 'front.db'}")
    chosen = Serve(**settings)
    service = upstream.connect(f"{url}/v1", name, key=key, store=store, metrics=Metrics(name), settings=chosen)
    with contextlib.closing(run.listen("127.0.0.1", 0, store)) as listener:
        server = run.Server(service, "127.0.0.1", listener, AccessLog(None, folder))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Front(service, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join(timeout=60)
            assert not thread.is_alive()


def test_answers_are_those_of_the_server_behind_under_our_name_and_id(talker, tmp_path) -> None:
    direct = talker.client()
    with front(talker.address, tmp_path, log_prompts=True) as here:
        client = here.client()
        ask = {"messages": MESSAGES, "max_tokens": 12, "seed": 3, "logprobs": True, "top_logprobs": 2}
        ours = client.chat.completions.create(model="ours", **ask)
        theirs = direct.chat.completions.create(model="talker", **ask)
        assert ours.choices == theirs.choices
        assert (ours.usage.total_tokens, ours.model) == (theirs.usage.total_tokens, "ours")
        row = here.service.store.find_usage(ours.id)
        assert (row.model, row.endpoint, row.completion_tokens) == ("ours", "chat", ours.usage.completion_tokens)
        assert row.answer == ours.choices[0].message.content
        text = client.completions.create(model="ours", prompt=["tea", "She"], n=2, max_tokens=5, seed=1)
        same = direct.completions.create(model="talker", prompt=["tea", "She"], n=2, max_tokens=5, seed=1)
        assert text.choices == same.choices
        vectors = [
            server.client(_strict_response_validation=False).embeddings.create(model=name, input="tea").data[0]
            for server, name in ((here, "ours"), (talker, "talker"))
        ]
        assert vectors[0] == vectors[1]
        assert [card.id for card in client.models.list()] == [client.models.retrieve("ours").id] == ["ours"]
        client.post("/feedback", body={"id": ours.id, "rating": "up"}, cast_to=object)
        assert client.moderations.create(input="You idiot!").results[0].categories.harassment
        assert HTTP.get(f"{here.address}/widget.js").text == HTTP.get(f"{talker.address}/widget.js").text


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_is_passed_on_piece_by_piece_and_accounted_for(talker, tmp_path, usage) -> None:
    ask = {"messages": MESSAGES, "max_tokens": 12, "seed": 3, "stream": True}
    ask |= {"stream_options": {"include_usage": True}} if usage else {}
    with front(talker.address, tmp_path) as here:
        ours = list(here.client().chat.completions.create(model="ours", **ask))
        theirs = list(talker.client().chat.completions.create(model="talker", **ask))
        assert [chunk.choices for chunk in ours] == [chunk.choices for chunk in theirs]
        assert {chunk.model for chunk in ours} == {"ours"}
        assert (ours[-1].usage is not None) == usage
        row = here.service.store.find_usage(ours[0].id)
        assert row.completion_tokens == 12
        assert {chunk.id for chunk in ours} == {row.id}


def test_keys_and_limits_are_those_of_the_front(kitchen, start, tmp_path) -> None:
    theirs = Store.open(f"sqlite:///{tmp_path / 'theirs.db'}")
    _, secret = theirs.create_key("front")
    with start(kitchen.model("talker", "next", chat=True, seed=1), store=theirs) as behind:
        with pytest.raises(BadInput, match="does not answer as the OpenAI API does"):
            upstream.connect(
                f"{behind.address}/v1", "x", key=None, store=theirs, metrics=Metrics("x"), settings=Serve()
            )
        with front(behind.address, tmp_path, key=secret) as here:
            _, ours = here.service.store.create_key("user", requests_per_minute=2)
            ask = {"model": "ours", "messages": MESSAGES, "max_tokens": 2}
            with pytest.raises(openai.AuthenticationError):
                here.client("sk-wrong").chat.completions.create(**ask)
            with pytest.raises(openai.AuthenticationError):
                here.client(secret).chat.completions.create(**ask)
            for _ in range(2):
                here.client(ours).chat.completions.create(**ask)
            with pytest.raises(openai.RateLimitError):
                here.client(ours).chat.completions.create(**ask)
            # A key that is refused behind is not the client's fault, nor its business.
            theirs.revoke_key(theirs.list_keys()[0].id)
            _, other = here.service.store.create_key("other")
            with pytest.raises(openai.InternalServerError) as caught:
                here.client(other).chat.completions.create(**ask)
            assert "key" not in str(caught.value)


def test_what_is_wrong_with_a_request_is_said_and_its_stream_does_not_begin(talker, tmp_path) -> None:
    with front(talker.address, tmp_path, max_sequences=1, max_queue=0) as here:
        client = here.client()
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(model="ours", messages=MESSAGES, temperature=9, stream=stream)
            assert caught.value.param == "temperature"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="talker", messages=MESSAGES)
        for body in (b"{", b"[1]", b'{"model": "ours", "temperature": NaN}', b'{"model": "ours", "stream_options": 3}'):
            answer = HTTP.post(f"{here.address}/v1/chat/completions", content=body)
            assert answer.status_code == 400
        assert here.service.engine.inside == 0


def test_a_client_that_leaves_frees_both_places(kitchen, start, tmp_path) -> None:
    with start(kitchen.model("endless", "next", context=6000), max_sequences=1) as behind:
        bias = {str(token): -100 for token in behind.service.loaded.tokenizer.end_ids}
        ask = {"model": "ours", "prompt": "tea", "max_tokens": 5900, "logit_bias": bias}
        with front(behind.address, tmp_path, max_sequences=1, max_queue=0) as here:
            stream = here.client(_strict_response_validation=False).completions.create(**ask, stream=True)
            next(iter(stream))
            with pytest.raises(openai.InternalServerError, match="too many requests"):
                here.client().completions.create(**ask)
            stream.close()
            wait_until(lambda: here.service.engine.inside == 0)
            with pytest.raises(openai.APITimeoutError):
                here.client(timeout=0.3).completions.create(**ask)
            wait_until(lambda: here.service.engine.inside == 0)
            wait_until(lambda: behind.metric("vllm:num_requests_running") == 0)
            wait_until(lambda: len(here.service.store.usage()) == 2)
            assert {row.finish_reason for row in here.service.store.usage()} == {"abort"}


@contextlib.contextmanager
def broken_server(stream: bytes) -> Iterator[str]:
    """A server that lists one model, begins a stream, and then closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(65536)
                models = json.dumps({"data": [{"id": "m"}]}).encode()
                body = models if b"/models" in asked else stream
                connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def test_a_stream_that_breaks_off_is_an_error_and_not_a_complete_answer(tmp_path) -> None:
    piece = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    piece |= {"choices": [{"index": 0, "delta": {"content": "half"}, "finish_reason": None}]}
    with broken_server(b"data: " + json.dumps(piece).encode() + b"\n\n") as url, front(url, tmp_path) as here:
        chunks = iter(here.client().chat.completions.create(model="ours", messages=MESSAGES, stream=True))
        assert next(chunks).choices[0].delta.content == "half"
        with pytest.raises(openai.APIError, match="before it was finished"):
            list(chunks)
        # The record of a stream that ends badly is written beside it.
        wait_until(lambda: [row.finish_reason for row in here.service.store.usage()] == ["error"])
    with broken_server(b"oh no") as url, front(url, tmp_path) as here:
        with pytest.raises(openai.InternalServerError, match="not JSON"):
            here.client().chat.completions.create(model="ours", messages=MESSAGES)
        wait_until(lambda: [row.finish_reason for row in here.service.store.usage()] == ["error"] * 2)


def test_a_server_that_is_gone_is_unavailable_and_comes_back_by_itself(kitchen, start, tmp_path) -> None:
    folder = kitchen.model("talker", "next", chat=True, seed=1)
    with start(folder) as behind, front(behind.address, tmp_path) as here:
        assert HTTP.get(f"{here.address}/readyz").status_code == 200
        behind.server.should_exit = True
        wait_until(lambda: not behind.service.engine.alive)
        assert HTTP.get(f"{here.address}/readyz").status_code == 503
        with pytest.raises(openai.InternalServerError, match="can't be reached"):
            here.client().chat.completions.create(model="ours", messages=MESSAGES)


def test_llama_cpp_answers_behind_the_front_as_the_model_does(kitchen, tmp_path) -> None:
    folder = kitchen.model("teller", "next")
    export(folder, to="gguf", out=tmp_path / "gguf")
    started = Engine(tmp_path / "gguf" / "model.gguf", sequences=2)
    with front(started.address, tmp_path) as here:
        answer = here.client(_strict_response_validation=False).completions.create(
            model="ours", prompt="a little dragon", max_tokens=8, temperature=0
        )
        ours = Talker(folder).complete("a little dragon", Sampling(max_tokens=8, temperature=0))
        assert answer.choices[0].text == ours.text
        assert here.service.store.find_usage(answer.id).completion_tokens == answer.usage.completion_tokens


def test_an_engine_that_is_none_or_does_not_answer_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no engine 'tgi'"):
        engines.serve(Home(), "m", "tgi")
    with pytest.raises(UsageError, match="decides how weights are rounded"):
        engines.serve(Home(), "m", "http://127.0.0.1:1/v1", quantize="int8")
    with pytest.raises(BadInput, match="does not answer as the OpenAI API does"):
        engines.serve(Home(), "m", "http://127.0.0.1:1/v1", port=0)
    assert not engines.serve(Home(), "m", None)


def test_a_single_model_behind_may_have_any_name(tmp_path) -> None:
    with broken_server(b"") as url:
        store = Store.open(f"sqlite:///{tmp_path / 'x.db'}")
        found = upstream.connect(f"{url}/v1", "any", key=None, store=store, metrics=Metrics("any"), settings=Serve())
        assert (found.name, found.remote) == ("any", "m")


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
