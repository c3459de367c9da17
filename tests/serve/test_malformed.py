"""Requests that no client should send: each is answered, refused clearly, and never a fault of the server."""

from __future__ import annotations

import json
import os
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wyrmling.serve import openapi
from wyrmling.serve.app import ROUTES

# `benchmarks/malformed.py` sends ten thousand.
EXAMPLES = int(os.environ.get("WYRMLING_MALFORMED", "60"))
NOTHING_TO_SEE = ("Traceback", "site-packages", ".py", "sk-", "sqlite")

CHAT = {"model": "talker", "messages": [{"role": "user", "content": "tea?"}], "max_tokens": 2}
# A whole request of each route that reads a body, to be spoiled in one place.
WHOLE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT | {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto", "logprobs": True, "top_logprobs": 1, "stop": ["x"], "logit_bias": {"1": 1}, "n": 1,
        "response_format": {"type": "text"}, "seed": 1, "temperature": 1.0, "top_p": 1.0,
    },
    "/v1/completions": {"model": "talker", "prompt": "tea", "max_tokens": 2, "echo": True, "logprobs": 1, "stop": "x"},
    "/v1/embeddings": {"model": "talker", "input": ["tea"], "encoding_format": "float"},
    "/v1/moderations": {"model": "word-list", "input": ["tea"]},
    "/v1/classify": {"model": "talker", "input": "tea"},
    "/v1/tag": {"model": "talker", "input": [["tea"]]},
    "/v1/feedback": {"id": "chatcmpl-1", "rating": 1, "correction": "x", "comment": "y"},
    "/v1/fine_tuning/jobs": {"model": "talker", "training_file": "file-1", "seed": 1, "metadata": {"a": "b"}},
}  # fmt: skip

# What is put in the wrong place: other types, extremes, and texts that mean something somewhere.
SPOILS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.sampled_from([
        [], {}, [[]], [None], "", "../../etc/passwd", "\x00", "\ud800", "{{ 7 * 7 }}", "{% for a in b %}", "<|im_end|>",
        "http://169.254.169.254/", "a" * 5000, {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}},
        [{"role": "user", "content": [{"type": "text", "text": "x"}] * 50}], {"$ref": "#"}, 1e308, 10**400,
    ]),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, one in inner for found in places(one, (*path, key)))]


def spoiled(value: Any, path: tuple[Any, ...], spoil: Any) -> Any:
    if not path:
        return spoil
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = spoiled(value[path[0]], path[1:], spoil)
    return copy


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    path, body = draw(st.sampled_from(sorted(WHOLE.items())))
    for _ in range(draw(st.integers(1, 3))):
        body = spoiled(body, draw(st.sampled_from(places(body))), draw(SPOILS))
        if not isinstance(body, dict | list):
            break
    text = json.dumps(body).encode("utf-8", "surrogatepass")
    cut = draw(st.one_of(st.none(), st.integers(0, len(text))))
    return path, text[:cut]


DOCUMENT = openapi.document(ROUTES)


def fits(path: str, body: Any) -> bool:
    """Whether the OpenAPI document allows a body."""
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return bool(jsonschema.Draft202012Validator(DOCUMENT | schema).is_valid(body))


def check(answer: Any) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"], answer.text
        assert len(answer.content) < 5000, "an error can't be grown by a request"
        assert not any(sign in answer.text for sign in NOTHING_TO_SEE), answer.text


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests())
def test_a_spoiled_request_is_refused_or_answered(talker, request) -> None:
    path, body = request
    answer = talker.post(path, content=body, headers={"content-type": "application/json"})
    check(answer)
    assert answer.status_code != 200 or fits(path, json.loads(body)), "what is taken is in the OpenAPI document"


def test_the_openapi_document_has_every_route_and_its_requests(talker) -> None:
    assert talker.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))
    described = {(method.upper(), path) for path, one in DOCUMENT["paths"].items() for method in one}
    assert described == {(method, path.replace(":path}", "}")) for method, path, _ in ROUTES}
    assert all(one["summary"] for path in DOCUMENT["paths"].values() for one in path.values())
    for path, body in WHOLE.items():
        assert fits(path, body), path
        assert not fits(path, body | {"tea": 1}) and not fits(path, [])


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"\xff\xfe",
        b'"' + b"a" * 10**5,
    ],
    ids=["lists", "objects", "closed lists", "no utf-8", "one text"],
)
def test_deep_and_broken_json_is_refused(talker, body: bytes) -> None:
    answer = talker.post("/v1/chat/completions", content=body)
    check(answer)
    assert answer.status_code == 400


@pytest.mark.parametrize("name", ["a\r\nx-injected: 1", "a\nb", "..%2f..%2fetc%2fpasswd", "%00", "a" * 8000])
def test_names_in_paths_are_only_names(talker, name: str) -> None:
    for _, path, _ in ROUTES:
        if "{" in path:
            spoiled_path = path.partition("{")[0] + name.replace("\r", "%0d").replace("\n", "%0a")
            answer = talker.get(spoiled_path)
            check(answer)
            assert answer.status_code in (400, 404, 405)
            assert "x-injected" not in answer.headers
