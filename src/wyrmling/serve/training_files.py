"""Uploaded training files to the files the data stage reads, line by line; what is wrong names its line.

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}], "tools": [...]}
    {"prompt": ..., "completion": ...}
    {"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}

For a classifier the last message of the assistant (or the completion) is the label. The last form is for the method
dpo: each output is one message of the assistant.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from wyrmling.core.errors import BadInput

MIN_EXAMPLES = 10
Form = Literal["label", "conversation", "pair"]
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class BadLine(BadInput):
    """A line of a training file can't be learned from."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"line {number}: {what}", where=f"line {number}", fix="mend the file and upload it again")


def convert(upload: Path, target: Path, form: Form, *, least: int = 1) -> int:
    """Write the examples of an uploaded file where the data stage reads them; how many there are.

    form     what a row is to be: a text with its label, a conversation, or two answers of which one is preferred
    least    fewer examples are refused
    Raises   BadLine for the first line that is wrong; BadInput for too few
    """
    example = _pair if form == "pair" else _labelled if form == "label" else _conversation
    count = 0
    with upload.open("rb") as lines, target.open("w", encoding="utf-8") as rows:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.write(json.dumps(example(number, _object(number, line)), ensure_ascii=False) + "\n")
                count += 1
    if count < least:
        raise BadInput(f"the file has {count} examples, but at least {least} are needed", fix="add more examples")
    return count


def _object(number: int, line: bytes) -> dict[str, Any]:
    try:
        example = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "the text is not UTF-8, or nested too deeply"
        raise BadLine(number, f"not JSON: {reason}") from None
    if not isinstance(example, dict):
        raise BadLine(number, "not a JSON object")
    return example


def _conversation(number: int, example: dict[str, Any]) -> dict[str, Any]:
    if "input" in example and "preferred_output" in example:
        raise BadLine(number, "a preference pair, but the method is supervised")
    if "messages" in example:
        if _messages(number, example["messages"])[-1]["role"] != "assistant":
            raise BadLine(number, "the last message is not the assistant's, so there is no answer to learn")
        return {key: example[key] for key in ("messages", "tools") if example.get(key) is not None}
    pair = [example.get(key) for key in ("prompt", "completion")]
    if not all(isinstance(text, str) and text.strip() for text in pair):
        raise BadLine(number, 'neither "messages" nor "prompt" and "completion" with texts')
    roles = zip(("user", "assistant"), pair, strict=True)
    return {"messages": [{"role": role, "content": text} for role, text in roles]}


def _messages(number: int, messages: Any, name: str = "messages") -> list[dict[str, Any]]:
    """The messages, checked."""
    if not isinstance(messages, list) or not messages:
        raise BadLine(number, f'"{name}" is not a list of messages')
    for at, message in enumerate(messages):
        where = f"{name}[{at}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadLine(number, f"{where}.role is not one of {', '.join(ROLES)}")
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            raise BadLine(number, f"{where}.content is not a text")
        if not (content and content.strip()) and not message.get("tool_calls"):
            raise BadLine(number, f"{where}.content is empty")
        if message.get("weight", 1) != 1:
            raise BadLine(number, f"{where}.weight is not 1; every answer of the assistant is learned")
    return messages


def _labelled(number: int, example: dict[str, Any]) -> dict[str, str]:
    *asked, answer = _conversation(number, example)["messages"]
    texts = [message["content"] for message in asked if message["role"] == "user" and message.get("content")]
    if len(texts) != 1 or not answer.get("content"):
        raise BadLine(number, "a classifier learns from one message of the user and the label as the answer")
    return {"text": texts[0], "label": answer["content"].strip()}


def _pair(number: int, example: dict[str, Any]) -> dict[str, Any]:
    """Two conversations that differ in the last answer, as the data stage reads them."""
    asked = example.get("input")
    if not isinstance(asked, dict):
        raise BadLine(number, 'not a preference pair ("input", "preferred_output", "non_preferred_output")')
    if asked.get("tools"):
        raise BadLine(number, "input.tools: pairs are learned without functions")
    before = _messages(number, asked.get("messages"), "input.messages")
    sides = {}
    for side, name in (("chosen", "preferred_output"), ("rejected", "non_preferred_output")):
        answers = _messages(number, example.get(name), name)
        if len(answers) != 1 or answers[0]["role"] != "assistant" or not answers[0].get("content"):
            raise BadLine(number, f"{name} is not one message of the assistant with a text")
        sides[side] = [*before, {"role": "assistant", "content": answers[0]["content"]}]
    if sides["chosen"] == sides["rejected"]:
        raise BadLine(number, "both outputs are the same, so none is preferred")
    return sides
