"""Functions that a model may call, and its calls, as texts: one form for training and serving.

The form is that of Hermes and Qwen models: JSON between <tools> tags in the system message, and between <tool_call>
tags in an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

OPENING, CLOSING = "<tool_call>", "</tool_call>"


def offered(tools: Sequence[Any]) -> str:
    """What the system message says of the functions that may be called."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return f"You may call these functions:\n<tools>\n{listed}\n</tools>"


def call(name: str, arguments: Any) -> str:
    """A call as the assistant writes it; `arguments` is an object, or its JSON."""
    plain = {"name": name, "arguments": loaded(arguments)}
    return f"{OPENING}\n{json.dumps(plain, ensure_ascii=False)}\n{CLOSING}"


def loaded(value: Any) -> Any:
    """The value of a text that is JSON; anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def with_offer(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> list[dict[str, Any]]:
    """A conversation of the OpenAI API as training rows have it: calls as text, the functions in the system message."""
    plain = [_as_text(message) for message in messages]
    told = plain.pop(0)["content"] if plain and plain[0]["role"] == "system" else ""
    parts = [offered(tools) if tools else "", told]
    text = "\n\n".join(part for part in parts if part.strip())
    return [{"role": "system", "content": text}, *plain] if text else plain


def _as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose `tool_calls` are part of its text."""
    asked = [one["function"] for one in message.get("tool_calls") or ()]
    calls = [call(function["name"], function["arguments"]) for function in asked]
    plain = {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id")}
    return {**plain, "content": "\n".join(part for part in (message.get("content") or "", *calls) if part)}
