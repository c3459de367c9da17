"""Answers in a given form: JSON by a schema and calls of functions, asked for with the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import openai
import pydantic
import pytest

from serve.conftest import Kitchen, Running, shared
from wyrmling.core import functions
from wyrmling.data.rows import Row
from wyrmling.data.shapes import Shape, fill
from wyrmling.serve.calls import CallScan

ASKED = [{"role": "user", "content": "tea?"}]


@pytest.fixture(scope="session")
def caller(kitchen: Kitchen) -> Iterator[Running]:
    """A model that learned its chat template, with room for descriptions of functions."""
    yield from shared(kitchen, "caller", head="next", chat=True, seed=1, context=1024)


class Order(pydantic.BaseModel):
    """Closed: an untrained model would go on for ever in a free text."""

    drink: Literal["tea", "milk"]
    cups: Literal[1, 2, 3]
    sugar: bool | None


CLOSED = Order.model_json_schema() | {"additionalProperties": False}
ORDER = {"type": "function", "function": {"name": "order", "strict": True, "parameters": CLOSED}}
LEAVE = {"type": "function", "function": {"name": "leave", "parameters": {"type": "object", "maxProperties": 0}}}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [0, 2])
def test_an_untrained_model_answers_by_the_schema(caller, seed: int, temperature: int) -> None:
    client = caller.client()
    answer = client.chat.completions.parse(
        model="caller", messages=ASKED, response_format=Order, max_tokens=150, seed=seed, temperature=temperature
    )
    assert isinstance(answer.choices[0].message.parsed, Order)
    assert answer.choices[0].finish_reason == "stop"


def test_answers_with_and_without_a_form_share_a_batch(caller) -> None:
    free = {"model": "caller", "messages": ASKED, "max_tokens": 20, "temperature": 0}
    client = caller.client()
    alone = client.chat.completions.create(**free).choices[0].message.content
    answers = client.chat.completions.create(**free, n=4, response_format={"type": "json_object"}).choices
    assert all(json.loads(answer.message.content) is not None for answer in answers if answer.finish_reason == "stop")
    assert client.chat.completions.create(**free).choices[0].message.content == alone
    assert all(answer.message.content.startswith("{") for answer in answers)


def test_logprobs_are_those_without_the_form(caller) -> None:
    asked = {"model": "caller", "messages": ASKED, "max_tokens": 1, "temperature": 0, "logprobs": True}
    free, formed = (
        caller.client().chat.completions.create(**asked, top_logprobs=20, **form).choices[0].logprobs.content[0]
        for form in ({}, {"response_format": {"type": "json_object"}})
    )
    assert formed.token.startswith("{") and formed.top_logprobs == free.top_logprobs


def test_a_form_that_is_cut_off_says_so(caller) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        caller.client().chat.completions.parse(model="caller", messages=ASKED, response_format=Order, max_tokens=2)


def by(schema: dict[str, object]) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


UNNAMED = {"role": "assistant", "tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (by({"type": "tea"}), "response_format"),
        (by({"$ref": "http://127.0.0.1/a"}), "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [ORDER, ORDER]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [ORDER | {"function": {"name": "a", "strict": True, "parameters": {"type": 1}}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [LEAVE], "tool_choice": {"type": "function", "function": {"name": "order"}}}, "tool_choice"),
        ({"messages": [{"role": "tool", "content": "3"}]}, "messages.0.tool_call_id"),
        ({"messages": [UNNAMED]}, "messages.0.tool_calls.0.function"),
    ],
)  # fmt: skip
def test_a_wrong_form_is_named(caller, change, param) -> None:
    answer = caller.post("/v1/chat/completions", {"model": "caller", "messages": ASKED} | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "order"}}])
def test_a_call_that_is_required_is_made_and_streams_as_one(caller, choice) -> None:
    asked = {
        "model": "caller", "messages": ASKED, "tools": [ORDER, LEAVE], "tool_choice": choice, "seed": 3,
        "max_tokens": 120, "temperature": 0,
    }  # fmt: skip
    client = caller.client()
    whole = client.chat.completions.create(**asked).choices[0]
    (call,) = whole.message.tool_calls
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
    assert call.function.name in ("order", "leave") and json.loads(call.function.arguments) is not None
    if choice != "required":
        assert Order.model_validate_json(call.function.arguments)
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments


def test_a_conversation_with_calls_reads_as_its_training_row(caller) -> None:
    """What the client sends back after a call is tokenised as a row of the same conversation is."""
    made = {"id": "call_1", "type": "function", "function": {"name": "order", "arguments": '{"drink": "tea"}'}}
    said = [
        {"role": "system", "content": "Be kind."},
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    row = fill(
        Row("x", "a", "json", "conversation"),
        Shape("conversation", messages="messages", tools="tools"),
        {"messages": said, "tools": [LEAVE]},
    )
    trained = [{"role": message.role, "content": message.content} for message in row.messages]
    # The row's two system messages become one when turns are joined.
    joined = [{"role": "system", "content": f"{trained[0]['content']}\n\n{trained[1]['content']}"}, *trained[2:]]
    assert functions.with_offer(said, [LEAVE]) == joined


def test_calls_are_found_wherever_the_text_is_cut() -> None:
    text = f"So: {functions.call('order', {'cups': 2})}\n{functions.call('leave', {})}"
    for size in (1, 3, 7, len(text)):
        scan = CallScan(["order", "leave"])
        said = "".join(scan.push(text[at : at + size])[0] for at in range(0, len(text), size)) + scan.finish()[0]
        assert said == "So: \n"
        assert [(call.name, json.loads(call.arguments)) for call in scan.calls] == [
            ("order", {"cups": 2}),
            ("leave", {}),
        ]


UNKNOWN = functions.call("rob", {})


@pytest.mark.parametrize(
    "text",
    ["<tool_call>tea</tool_call> more", "<tool_call>\n[1]\n</tool_call>", "<tool_", "a <tool_call> b", UNKNOWN],
)
def test_what_is_no_call_of_an_offered_function_stays_text(text: str) -> None:
    scan = CallScan(["order"])
    assert "".join(scan.push(letter)[0] for letter in text) + scan.finish()[0] == text
    assert not scan.calls


def test_a_strict_function_gets_its_arguments_whenever_the_model_calls(caller) -> None:
    """The model is pushed to open a call; what follows is held to the schema."""
    tokenizer = caller.service.loaded.tokenizer
    bias = {str(token): 100 for token in tokenizer.encode(functions.OPENING)}
    answer = caller.client().chat.completions.create(
        model="caller", messages=ASKED, tools=[ORDER], logit_bias=bias, max_tokens=100, temperature=0
    )
    message = answer.choices[0].message
    assert message.content is not None or message.tool_calls
    for call in message.tool_calls or ():
        Order.model_validate_json(call.function.arguments)
