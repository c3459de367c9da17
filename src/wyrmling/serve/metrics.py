"""Counters and times for Prometheus, under the names that vLLM uses, so its dashboards and autoscalers work.

No label takes a value from a request: a thousand unknown model names make no new series.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_MILLISECOND_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0)


class Metrics:
    """The metrics of one model of a server. Endpoint labels are the fixed route names.

    beside   those of another model of the same server, which then share everything but the label `model_name`
    """

    def __init__(self, model: str, beside: Metrics | None = None) -> None:
        self.registry: CollectorRegistry = CollectorRegistry() if beside is None else beside.registry
        self._model = model
        self._collectors: dict[str, Any] = {} if beside is None else beside._collectors
        self.running = self._gauge("num_requests_running", "Answers being generated.")
        self.waiting = self._gauge("num_requests_waiting", "Answers waiting for a place in the batch.")
        self.kv_cache_usage = self._gauge("kv_cache_usage_perc", "Share of the batch's places in use, 0 to 1.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.prefix_queries = self._counter("prefix_cache_queries", "Tokens of prompts, read before or not.")
        self.prefix_hits = self._counter("prefix_cache_hits", "Tokens of prompts that did not have to be read again.")
        self.success = self._counter("request_success", "Finished answers.", "finished_reason")
        self.rejections = self._counter("admission_rejections", "Requests refused before they ran.", "reason")
        self.first_token = self._histogram("time_to_first_token_seconds", "From arrival to the first token.", _SECONDS)
        self.between_tokens = self._histogram("inter_token_latency_seconds", "Between two tokens.", _MILLISECOND_STEPS)
        self.latency = self._histogram("e2e_request_latency_seconds", "From arrival to the end.", _SECONDS)
        self.queue_time = self._histogram("request_queue_time_seconds", "From arrival to the batch.", _SECONDS)
        self.prompt_length = self._histogram("request_prompt_tokens", "Tokens read per answer.", _TOKENS)
        self.answer_length = self._histogram("request_generation_tokens", "Tokens generated per answer.", _TOKENS)
        self.joules = self._own("energy_joules", "Energy of answering.")
        self.requests = self._own("http_requests", "Requests by route and status.", ("route", "status"))
        self.feedback = self._own("feedback", "Feedback received.", ("rating",))
        self._drift = {
            part: self._made(Gauge, f"wyrmling:drift_{part}", text, ("signal",))
            for part, text in (
                ("value", "How far a signal has drifted, by the last look."),
                ("threshold", "What chance exceeds with the allowed probability."),
                ("alarm", "1 where the last look raised an alarm."),
            )
        }

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        gauge: Gauge = self._made(Gauge, f"vllm:{name}", help_text, ("model_name",)).labels(self._model)
        return gauge

    def _counter(self, name: str, help_text: str, label: str | None = None) -> Counter:
        labels = ("model_name",) if label is None else ("model_name", label)
        counter: Counter = self._made(Counter, f"vllm:{name}", help_text, labels)
        return counter.labels(self._model) if label is None else counter

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        made = self._made(Histogram, f"vllm:{name}", help_text, ("model_name",), buckets=buckets)
        histogram: Histogram = made.labels(self._model)
        return histogram

    def _own(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        counter: Counter = self._made(Counter, f"wyrmling:{name}", help_text, labels)
        return counter

    def _made(self, kind: Any, name: str, help_text: str, labels: tuple[str, ...], **options: Any) -> Any:
        """The collector of that name, which the models of a server share."""
        if name not in self._collectors:
            self._collectors[name] = kind(name, help_text, labels, registry=self.registry, **options)
        return self._collectors[name]

    def finished(self, reason: str) -> None:
        """Count one finished answer; reason is stop or length, or abort for one given up."""
        self.success.labels(self._model, reason).inc()

    def rejected(self, reason: str) -> None:
        """Count one refusal; reason is one of the server's own words."""
        self.rejections.labels(self._model, reason).inc()

    def rated(self, rating: int | None) -> None:
        """Count one piece of feedback."""
        self.feedback.labels({1: "up", 0: "neutral", -1: "down", None: "none"}[rating]).inc()

    def drifted(self, report: dict[str, Any]) -> None:
        """Show the last report of `wyrmling feedback drift`."""
        for signal in report["signals"]:
            for part, gauge in self._drift.items():
                gauge.labels(signal["name"]).set(signal[part])

    def answered(self, route: str, status: int) -> None:
        """Count one HTTP answer under its route."""
        self.requests.labels(route, str(status)).inc()
