"""Questions to an OpenAI-compatible API, over plain HTTP."""

from __future__ import annotations

import json
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from wyrmling.config import ChatApi
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.core.progress import bar

TRIES = 3
# Statuses that pass: too many requests, and a server that is busy or starting.
_AGAIN = {408, 409, 429, 500, 502, 503, 504}
MOST_WAIT_SECONDS = 30.0
# English has about four characters to a token; a third of them is on the safe side.
CHARACTERS_PER_TOKEN = 3.0

Messages = list[dict[str, str]]

Answer = TypeVar("Answer")


class Unanswered(BadInput):
    """No usable answer came, however often the server was asked. It may have done what it was asked to do."""


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

    def ask(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, form: Mapping[str, Any] | None = None
    ) -> Reply:
        """The likeliest answer to a conversation. A passing fault is tried again; then the reply holds no text.

        form     the `response_format` that the answer is held to. None: any
        Raises   BadInput when the server refuses the request as such: a wrong key, model or address
        """
        body = {
            "model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens,
            **({} if form is None else {"response_format": form}),
        }  # fmt: skip

        def once() -> Reply:
            started = time.perf_counter()
            answer = self._send("/chat/completions", json.dumps(body).encode(), "application/json")
            return _read(answer, time.perf_counter() - started)

        reply, problem = self._patiently(once, TRIES)
        return Reply(None, 0, 0, 0.0, problem) if reply is None else reply

    def get(self, path: str) -> dict[str, Any]:
        """What is there. Raises BadInput when the server refuses, Unanswered when it does not answer."""
        return self._answered(path, None, None, TRIES)

    def post(self, path: str, body: Mapping[str, Any], *, tries: int = TRIES) -> dict[str, Any]:
        """The answer to a JSON document. tries: 1 for what must not be done twice. Raises as `get`."""
        return self._answered(path, json.dumps(body).encode(), "application/json", tries)

    def upload(self, path: str, name: str, content: bytes, fields: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a form with a file. Raises as `get`."""
        mark = secrets.token_hex(16)
        parts = [f'--{mark}\r\ncontent-disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items()]
        parts.append(
            f'--{mark}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
            "content-type: application/jsonl\r\n\r\n"
        )
        body = "".join(parts).encode() + content + f"\r\n--{mark}--\r\n".encode()
        return self._answered(path, body, f"multipart/form-data; boundary={mark}", TRIES)

    def _answered(self, path: str, body: bytes | None, kind: str | None, tries: int) -> dict[str, Any]:
        answer, problem = self._patiently(lambda: self._send(path, body, kind), tries)
        if answer is None:
            raise Unanswered(
                f"the server gives no answer to {path}: {problem}",
                where=self.url,
                fix="see whether it runs, and run the same command again; nothing is lost or done twice",
            )
        return answer

    def _patiently(self, once: Callable[[], Answer], tries: int) -> tuple[Answer | None, str]:
        """The answer, or None with what was wrong the last time. Raises BadInput when the server refuses."""
        problem = ""
        for attempt in range(tries):
            try:
                return once(), ""
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}"
                if error.code not in _AGAIN:
                    raise self._refused(error) from error
                wait = _asked_to_wait(error.headers.get("retry-after")) or 2.0**attempt
            except (OSError, ValueError) as error:
                problem, wait = f"{type(error).__name__}: {error}", 2.0**attempt
            if attempt + 1 < tries:
                time.sleep(min(wait, MOST_WAIT_SECONDS))
        return None, problem

    def _send(self, path: str, body: bytes | None, kind: str | None) -> dict[str, Any]:
        headers = {} if kind is None else {"content-type": kind}
        if key := os.environ.get(self.key):
            headers["authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url.rstrip("/") + path, body, headers)
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


def usd(asked: ChatApi, where: str, input_tokens: float, output_tokens: float) -> float:
    """The price of so many tokens. Raises BadSetting without prices. where: the section of the settings."""
    if asked.usd_per_million_input is None or asked.usd_per_million_output is None:
        raise BadSetting(
            "what the remote model costs is not known",
            where=where,
            fix="set usd_per_million_input and usd_per_million_output; 0 for a server of your own",
        )
    return (input_tokens * asked.usd_per_million_input + output_tokens * asked.usd_per_million_output) / 1e6


def estimate_usd(asked: ChatApi, where: str, prompts: Sequence[Messages], max_tokens: int) -> float:
    """What asking would cost at most; tokens are guessed from characters. Raises BadSetting without prices."""
    characters = sum(len(message["content"]) for messages in prompts for message in messages)
    return usd(asked, where, characters / CHARACTERS_PER_TOKEN, max_tokens * len(prompts))


def spent_usd(asked: ChatApi, where: str, replies: Sequence[Reply]) -> float:
    return usd(asked, where, sum(one.input_tokens for one in replies), sum(one.output_tokens for one in replies))


def ask_all(
    asked: ChatApi,
    where: str,
    prompts: Sequence[Messages],
    *,
    max_tokens: int,
    limit_usd: float,
    form: Mapping[str, Any] | None = None,
) -> list[Reply]:
    """Every reply, in order. The first one is waited for, so that a wrong key or address costs one request.

    limit_usd   nothing further is asked once this is spent
    Raises      BadInput when the server refuses, answers nothing at all, or the money is spent before the end
    """
    assert asked.url is not None and asked.model is not None
    api = Api(asked.url, asked.model, asked.key, asked.timeout_seconds)

    def ask(messages: Messages) -> Reply:
        return api.ask(messages, max_tokens=max_tokens, form=form)

    replies = [ask(prompts[0])]
    with bar(where.rpartition(".")[2], len(prompts)) as progress, ThreadPoolExecutor(asked.at_once) as pool:
        for start in range(1, len(prompts), asked.at_once):
            spent = spent_usd(asked, where, replies)
            if spent > limit_usd:
                raise BadInput(
                    f"${spent:.2f} were spent after {len(replies):,} of {len(prompts):,} requests, and --spend allows "
                    f"${limit_usd:.2f}",
                    fix="allow more with --spend, or leave it out",
                )
            replies += pool.map(ask, prompts[start : start + asked.at_once])
            progress.advance(len(replies))
    lost = [one for one in replies if one.text is None]
    if len(lost) == len(replies):
        raise BadInput(
            f"none of {len(replies):,} requests was answered: {lost[0].problem}",
            where=api.url,
            fix=f"see whether the server runs, and whether {where}.timeout_seconds is enough",
        )
    return replies


def _asked_to_wait(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
