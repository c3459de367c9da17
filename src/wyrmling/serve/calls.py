"""Calls of functions in an answer: found in its text as it grows, and written down as clients expect them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from wyrmling.core.functions import CLOSING, OPENING


@dataclass(frozen=True)
class Call:
    """One call. `arguments` is JSON in a text."""

    name: str
    arguments: str
    id: str


class CallScan:
    """Takes the calls out of an answer's text. What only looks like a call, or calls something else, stays text.

    names   the functions that may be called
    `calls` are those found so far.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.calls: list[Call] = []
        self._names = frozenset(names)
        self._held = ""
        self._inside = False

    def push(self, piece: str) -> tuple[str, list[Call]]:
        """The text and the calls that are certain with this piece."""
        self._held += piece
        text, before = "", len(self.calls)
        while (at := self._held.find(CLOSING if self._inside else OPENING)) >= 0:
            part = self._held[:at]
            self._held = self._held[at + len(CLOSING if self._inside else OPENING) :]
            text += self._closed(part, CLOSING) if self._inside else part
            self._inside = not self._inside
        if not self._inside:
            keep = _beginning(self._held)
            text, self._held = text + self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text, self.calls[before:]

    def finish(self) -> tuple[str, list[Call]]:
        """What was held back when nothing more comes; a call may end with the answer instead of its tag."""
        before = len(self.calls)
        text = self._closed(self._held, "") if self._inside else self._held
        self._held, self._inside = "", False
        return text, self.calls[before:]

    def _closed(self, inner: str, end: str) -> str:
        """Note the call, or give it back as text when it is none."""
        try:
            said = json.loads(inner)
            name, arguments = said["name"], said.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            name, arguments = None, None
        if name not in self._names or not isinstance(arguments, dict):
            return OPENING + inner + end
        self.calls.append(Call(name, json.dumps(arguments, ensure_ascii=False), f"call_{secrets.token_hex(12)}"))
        return ""


def _beginning(text: str) -> int:
    """Length of the longest end of `text` that a call may begin with."""
    lengths = range(min(len(text), len(OPENING) - 1), 0, -1)
    return next((length for length in lengths if OPENING.startswith(text[-length:])), 0)
