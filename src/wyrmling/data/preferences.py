"""Answers that people preferred or rated: from the cells of a row to the turns before them and the answers.

A pair is held as the turns of its prompt followed by two answers of the assistant, the chosen one first. A rating is a
conversation whose last answer was called good or bad.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from wyrmling.data.rows import Message

# How ratings are written, in lower case.
GOOD = ("true", "1", "+1", "good", "up", "yes", "desirable", "thumbs up", "👍", "positive")
BAD = ("false", "0", "-1", "bad", "down", "no", "undesirable", "thumbs down", "👎", "negative")

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


class Unclear(Exception):
    """The cells do not say which answers were meant."""


def pair(prompt: list[Message], chosen: Any, rejected: Any, read: Callable[[Any], list[Message]]) -> list[Message]:
    """The turns before the two answers, then the answers.

    prompt             the turns before, where the row has a column for them
    chosen, rejected   an answer as text; or a conversation, as messages or in the form "Human: ... Assistant: ..."
    read               makes messages of a list
    Raises             Unclear when the two conversations differ before their last turn, or no question is known
    """
    sides = [_turns(cell, read) for cell in (chosen, rejected)]
    begun = [turns[:-1] for turns in sides if turns]
    if any(begun):
        if begun[0] != begun[-1]:
            raise Unclear("the chosen and the rejected conversation differ before their last answer")
        prompt = begun[0]
    answers = [Message("assistant", turns[-1].content if turns else "") for turns in sides]
    if not prompt:
        raise Unclear("two answers without the question before them: name the column of the prompt")
    return [*prompt, *answers]


def good(cell: str | None, column: str) -> bool:
    """Whether a rating is a good one. Raises Unclear for anything else than a yes or no."""
    text = (cell or "").strip().lower()
    if text not in (*GOOD, *BAD):
        raise Unclear(
            f"the column {column!r} holds {cell!r}, where a rating is expected: true or false, 1 or 0, up or down"
        )
    return text in GOOD


def _turns(cell: Any, read: Callable[[Any], list[Message]]) -> list[Message]:
    """The turns of a cell, the answer last."""
    if isinstance(cell, Mapping):
        cell = [cell]
    if isinstance(cell, str) and not cell.lstrip().startswith("[{"):
        parts = _SPEAKER.split(cell)
        if len(parts) < 4 or parts[0].strip():
            return [Message("assistant", cell)]
        roles = {"Human": "user", "Assistant": "assistant"}
        return [Message(roles[who], said.strip()) for who, said in zip(parts[1::2], parts[2::2], strict=True)]
    return read(cell) if cell is not None else []
