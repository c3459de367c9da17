"""Traces of requests: the official SDK gets one span each, with ids and counts, and only when it was asked for."""

from __future__ import annotations

import sys
import time

import pytest

from wyrmling.core.errors import BadSetting, UsageError
from wyrmling.serve import tracing

SECRET = "a dragon nobody knows of"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", *tracing.ENDPOINTS, *tracing.PROTOCOLS):
        monkeypatch.delenv(name, raising=False)


def test_a_request_is_one_span_of_its_callers_trace_and_holds_no_text(start, kitchen) -> None:
    pytest.importorskip("opentelemetry.sdk", reason='pip install "wyrmling[test]"')
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    model = kitchen.model("talker", "next", chat=True, seed=1)
    with start(model, traced=tracing.Tracing(provider)) as server:

        def ask(ask, *args, **options):
            before = len(kept.get_finished_spans())
            answer = ask(*args, **options)
            # A request ends when its answer has left, which the client may know first.
            until = time.monotonic() + 20
            while len(kept.get_finished_spans()) == before:
                assert time.monotonic() < until
                time.sleep(0.005)
            return answer

        asked = {"model": "talker", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 3}
        parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = ask(server.post, "/v1/chat/completions", asked, headers=parent)
        lines = ask(server.post, "/v1/chat/completions", asked | {"stream": True}).text
        assert ask(server.get, "/v1/models/nothing").status_code == 404
    whole, streamed, missing = kept.get_finished_spans()
    assert (whole.name, whole.kind.name) == ("POST /v1/chat/completions", "SERVER")
    assert (f"{whole.context.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE, PARENT)
    assert streamed.parent is None and streamed.context.trace_id != whole.context.trace_id
    said, usage = dict(whole.attributes), answer.json()["usage"]
    assert said["gen_ai.response.id"] == answer.json()["id"]
    assert said["wyrmling.request.id"] == answer.headers["x-request-id"]
    assert said["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert said["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert streamed.attributes["gen_ai.response.id"] in lines
    assert 0 < whole.end_time - whole.start_time < 60e9
    assert missing.attributes["http.response.status_code"] == 404
    assert SECRET not in "".join(span.to_json() for span in (whole, streamed, missing))


def test_without_the_variables_nothing_is_traced_and_the_sdk_is_not_needed(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    assert tracing.from_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert tracing.from_environment() is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing.from_environment() is None


def test_asked_for_without_the_extra_the_server_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    for name, value in (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"), ("OTEL_TRACES_EXPORTER", "console")):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            with pytest.raises(UsageError, match="not installed") as error:
                tracing.from_environment()
            assert "wyrmling[otel]" in error.value.fix


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger", "no such exporter"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "over HTTP"),
    ],
)
def test_what_there_is_not_is_refused(monkeypatch, name: str, value: str, why: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=why):
        tracing.from_environment()
