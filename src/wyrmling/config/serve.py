"""`[serve]`: the API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from wyrmling.config.section import Section, as_tuple

Quantize = Literal["int8", "int8-dynamic", "4bit"]


# A site as a browser names it: no path, no wildcard.
Origin = Annotated[str, Field(pattern=r"^https?://[a-z0-9.-]+(:\d{1,5})?$")]


class Serve(Section):
    host: str = "127.0.0.1"
    """Address to listen on; any other than loopback requires an API key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    max_sequences: int = Field(default=8, ge=1)
    """Answers generated at the same time."""
    max_queue: int = Field(default=64, ge=0)
    """Requests that may wait; more are refused with 503."""
    prefill_tokens: int = Field(default=256, ge=1)
    """Tokens of new prompts read between two tokens of running answers: fewer keep answers even, more start sooner."""
    prefix_cache_mb: int = Field(default=256, ge=0)
    """Memory per model for prompts and answers that were read, whose beginnings are not read again; 0: none."""
    adapters: dict[str, str] = Field(default={})
    """LoRA adapters served beside the model on the same weights: the name to ask for, and the folder."""
    engine: str = "wyrmling"
    """What answers: wyrmling itself, llama.cpp (started here on the exported model), or the URL of a server with the
    OpenAI API, up to /v1 (vLLM, OpenVINO Model Server, llama-server, ...), whose key is in WYRMLING_ENGINE_KEY."""
    quantize: Quantize | None = None
    """Round the weights: int8, int8-dynamic (the fastest on a CPU) or 4bit. None: serve them as trained."""
    max_tokens: int = Field(default=256, ge=1)
    """Tokens generated when a request names no limit."""
    log_prompts: bool = False
    """Keep prompts and answers with the usage records."""
    max_models: int = Field(default=3, ge=1)
    """Fine-tuned models in memory at the same time, beside the one that is served."""
    max_jobs: int = Field(default=1, ge=0)
    """Fine-tuning jobs that run at the same time; others wait. 0: none are taken."""
    max_body_bytes: int = Field(default=1_000_000, ge=1000)
    """The largest request, in bytes, except for files."""
    max_upload_bytes: int = Field(default=512_000_000, ge=1000)
    """The largest file that can be uploaded, in bytes."""
    timeout_seconds: float = Field(default=600.0, gt=0)
    """An answer that takes longer is given up with 504."""
    canary: float = Field(default=0.0, ge=0, lt=1)
    """Share of the requests that a challenger answers once the gate of `wyrmling retrain` accepted it. 0: no trial."""
    origins: Annotated[tuple[Origin, ...], BeforeValidator(as_tuple)] = ()
    """Sites whose pages may ask from a browser, such as "https://example.com", for the widget. Empty: none."""
    access_log: str | None = None
    """A file that gets one JSON line per request, without prompts, answers or keys; "-" is stderr. None: no log."""
