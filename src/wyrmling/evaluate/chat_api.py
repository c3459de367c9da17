"""Questions to a model behind an OpenAI-compatible API, over plain HTTP."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wyrmling.core.errors import BadInput

TRIES = 3
# Statuses that pass: too many requests, and a server that is busy or starting.
_AGAIN = {408, 409, 429, 500, 502, 503, 504}
MOST_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Reply:
    """What came back. text: None when nothing usable did, and `problem` says why."""

    text: str | None
    input_tokens: int
    output_tokens: int
    seconds: float
    problem: str | None = None


@dataclass(frozen=True)
class Api:
    """Where to ask. key: the environment variable that holds the API key, read for each request and never kept."""

    url: str
    model: str
    key: str
    timeout_seconds: float

    def ask(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int) -> Reply:
        """The likeliest answer to a conversation. A passing fault is tried again; then the reply holds no text.

        Raises   BadInput when the server refuses the request as such: a wrong key, model or address
        """
        body = {
            "model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens,
        }  # fmt: skip
        problem = ""
        for attempt in range(TRIES):
            started = time.perf_counter()
            try:
                answer = self._post("/chat/completions", body)
                return _read(answer, time.perf_counter() - started)
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}"
                if error.code not in _AGAIN:
                    raise self._refused(error) from error
                wait = _asked_to_wait(error.headers.get("retry-after")) or 2.0**attempt
            except (OSError, ValueError) as error:
                problem, wait = f"{type(error).__name__}: {error}", 2.0**attempt
            if attempt + 1 < TRIES:
                time.sleep(min(wait, MOST_WAIT_SECONDS))
        return Reply(None, 0, 0, 0.0, problem)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"content-type": "application/json"}
        if key := os.environ.get(self.key):
            headers["authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url.rstrip("/") + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout_seconds) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def _refused(self, error: urllib.error.HTTPError) -> BadInput:
        said = error.read()[:300].decode(errors="replace")
        return BadInput(
            f"the server refuses with status {error.code}: {said}",
            where=self.url,
            fix=f"check the address, the model {self.model!r} and the key in the environment variable {self.key}",
        )


def _read(answer: dict[str, Any], seconds: float) -> Reply:
    try:
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"not the answer of a chat API: {error!r}") from error
    return Reply(text if isinstance(text, str) else None, *counts, seconds, None if text else "no text")


def _asked_to_wait(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
