"""What a person reads while work goes on. Everything goes to stderr; stdout belongs to results."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass
class Voice:
    """How much to say, set once by the command line."""

    quiet: bool = False
    debug: bool = False

    kept: list[tuple[str, str]] | None = None
    """Where lines go instead of to stderr while a worker collects them: ("say" or "warn", text)."""


voice = Voice()


@contextlib.contextmanager
def collected() -> Iterator[list[tuple[str, str]]]:
    """Keep what the block says, so that whoever waits for it can repeat it in order with `repeat`."""
    before, voice.kept = voice.kept, []
    try:
        yield voice.kept
    finally:
        voice.kept = before


def repeat(lines: Iterable[Sequence[str]]) -> None:
    """Say what `collected` kept."""
    for kind, text in lines:
        (warn if kind == "warn" else say)(text)


def say(text: str) -> None:
    """One line for the person watching; silent with --quiet."""
    if voice.kept is not None:
        voice.kept.append(("say", text))
    elif not voice.quiet:
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A line that is said even with --quiet: something was decided that the user may not want."""
    if voice.kept is not None:
        voice.kept.append(("warn", text))
        return
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\033[33mwarning: {text}\033[0m" if coloured else f"warning: {text}", file=sys.stderr, flush=True)
