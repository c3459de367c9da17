"""Insults and curses in text, by a list of words."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from wyrmling.core.errors import BadInput


def words(path: Path | None) -> frozenset[str]:
    """The words to look for: those shipped, or one per line of a file. Raises BadInput for a file without words."""
    # Insults and curses that are not tied to a group of people. Slurs are not shipped.
    source = resources.files(__package__) / "insults.txt" if path is None else path
    try:
        found = frozenset(line.strip().casefold() for line in source.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}", where=path, fix="name a file of words") from error
    if not found - {""}:
        raise BadInput(f"{path} holds no words", where=path, fix="write one word per line")
    return found - {""}


def has_word(text: str, wanted: frozenset[str]) -> bool:
    return not wanted.isdisjoint(re.findall(r"[\w']+", text.casefold()))
