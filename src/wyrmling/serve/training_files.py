"""Uploaded training files to the files the data stage reads, line by line; what is wrong names its line.

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}], "tools": [...]}
    {"prompt": ..., "completion": ...}

For a classifier the last message of the assistant (or the completion) is the label.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wyrmling.core.errors import BadInput

MIN_EXAMPLES = 10
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class BadLine(BadInput):
    """A line of a training file can't be learned from."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"line {number}: {what}", where=f"line {number}", fix="mend the file and upload it again")


def convert(upload: Path, target: Path, *, labels: bool, least: int = 1) -> int:
    """Write the examples of an uploaded file where the data stage reads them; how many there are.

    labels   texts with a label, for a classifier; else conversations
    least    fewer examples are refused
    Raises   BadLine for the first line that is wrong; BadInput for too few
    """
    shape = _labelled if labels else _conversation
    count = 0
    with upload.open("rb") as lines, target.open("w", encoding="utf-8") as rows:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.write(json.dumps(shape(number, _example(number, line)), ensure_ascii=False) + "\n")
                count += 1
    if count < least:
        raise BadInput(f"the file has {count} examples, but at least {least} are needed", fix="add more examples")
    return count


def _example(number: int, line: bytes) -> dict[str, Any]:
    try:
        example = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "the text is not UTF-8, or nested too deeply"
        raise BadLine(number, f"not JSON: {reason}") from None
    if not isinstance(example, dict):
        raise BadLine(number, "not a JSON object")
    if "input" in example and "preferred_output" in example:
        raise BadLine(number, "a preference pair, but the method is supervised")
    if "messages" in example:
        _check_messages(number, example["messages"])
        return {key: example[key] for key in ("messages", "tools") if example.get(key) is not None}
    pair = [example.get(key) for key in ("prompt", "completion")]
    if not all(isinstance(text, str) and text.strip() for text in pair):
        raise BadLine(number, 'neither "messages" nor "prompt" and "completion" with texts')
    roles = zip(("user", "assistant"), pair, strict=True)
    return {"messages": [{"role": role, "content": text} for role, text in roles]}


def _check_messages(number: int, messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadLine(number, '"messages" is not a list of messages')
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadLine(number, f"{where}.role is not one of {', '.join(ROLES)}")
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            raise BadLine(number, f"{where}.content is not a text")
        if not (content and content.strip()) and not message.get("tool_calls"):
            raise BadLine(number, f"{where}.content is empty")
        if message.get("weight", 1) != 1:
            raise BadLine(number, f"{where}.weight is not 1; every answer of the assistant is learned")
    if messages[-1]["role"] != "assistant":
        raise BadLine(number, "the last message is not the assistant's, so there is no answer to learn")


def _conversation(number: int, example: dict[str, Any]) -> dict[str, Any]:
    return example


def _labelled(number: int, example: dict[str, Any]) -> dict[str, str]:
    *asked, answer = example["messages"]
    texts = [message["content"] for message in asked if message["role"] == "user" and message.get("content")]
    if len(texts) != 1 or not answer.get("content"):
        raise BadLine(number, "a classifier learns from one message of the user and the label as the answer")
    return {"text": texts[0], "label": answer["content"].strip()}
