"""Traces of requests: one span each, by the official OpenTelemetry SDK, when its environment variables ask for them.

A span has what a line of the access log has: ids, counts, times, and how it ended. Never a prompt, an answer or a key.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from wyrmling import __version__
from wyrmling.core.errors import BadSetting, UsageError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# Names of the semantic conventions for HTTP and, still in development, for generative models.
ATTRIBUTES = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "bytes": "http.response.body.size",
    "request": "wyrmling.request.id",
    "key": "wyrmling.key.id",
    "answer": "gen_ai.response.id",
    "model": "gen_ai.response.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}


class Tracing:
    """Makes spans of requests that have ended.

    provider   a TracerProvider of the SDK, which decides what is sampled and where spans go
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("wyrmling", __version__)

    def record(self, entry: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """A span of a request that ends now; part of the caller's trace where `headers` have a `traceparent`.

        entry   what the access log says of the request
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        ended = time.time_ns()
        span = self._tracer.start_span(
            f"{entry['method']} {entry['route']}",
            context=TraceContextTextMapPropagator().extract(headers),
            kind=SpanKind.SERVER,
            attributes={name: entry[key] for key, name in ATTRIBUTES.items() if entry.get(key) is not None},
            start_time=ended - round(entry["ms"] * 1e6),
        )
        if "finish" in entry:
            span.set_attribute("gen_ai.response.finish_reasons", [entry["finish"]])
        if entry["status"] >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def from_environment() -> Tracing | None:
    """Traces as the environment asks for them; None where it does not.

    Raises   UsageError when the extra is missing; BadSetting for an exporter or protocol that there is not
    """
    exporter = _exporter_name()
    if exporter is None:
        return None
    try:
        return Tracing(_provider(exporter))
    except ImportError as error:
        raise UsageError(
            "the environment asks for OpenTelemetry's traces, but the SDK is not installed",
            fix='pip install "wyrmling[otel]", or set OTEL_SDK_DISABLED=true',
        ) from error


def _exporter_name() -> str | None:
    asked = os.environ.get
    if asked("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    name = asked("OTEL_TRACES_EXPORTER", "").strip().lower() or ("otlp" if any(map(asked, ENDPOINTS)) else "none")
    if name == "none":
        return None
    if name not in ("otlp", "console"):
        raise BadSetting(
            f"OTEL_TRACES_EXPORTER={name}: no such exporter here", where="OTEL_TRACES_EXPORTER",
            fix="use otlp, console or none",
        )  # fmt: skip
    protocol = next(filter(None, map(asked, PROTOCOLS)), "http/protobuf")
    if name == "otlp" and protocol != "http/protobuf":
        raise BadSetting(
            f"traces are sent over HTTP, not by {protocol}", where=PROTOCOLS[1],
            fix=f"set {PROTOCOLS[1]}=http/protobuf and the collector's HTTP address (port 4318 by default)",
        )  # fmt: skip
    return name


def _provider(exporter: str) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    if exporter == "console":
        sends: SpanExporter = ConsoleSpanExporter(out=sys.stderr)
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        sends = OTLPSpanExporter()
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, read by the SDK, go before.
    provider = TracerProvider(resource=Resource.create({} if "OTEL_SERVICE_NAME" in os.environ else NAMED))
    provider.add_span_processor(BatchSpanProcessor(sends))
    return provider


NAMED = {"service.name": "wyrmling", "service.version": __version__}
