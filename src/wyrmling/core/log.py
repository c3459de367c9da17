"""What a person reads while work goes on. Everything goes to stderr; stdout belongs to results."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console


@dataclass
class Voice:
    """How much to say, set once by the command line."""

    quiet: bool = False
    debug: bool = False

    kept: list[tuple[str, str]] | None = None
    """Where lines go instead of to stderr while a worker collects them: ("say" or "warn", text)."""


voice = Voice()
console = Console(stderr=True, highlight=False, soft_wrap=True)


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
        console.print(text, markup=False)


def warn(text: str) -> None:
    """A line that is said even with --quiet: something was decided that the user may not want."""
    if voice.kept is not None:
        voice.kept.append(("warn", text))
        return
    console.print(f"warning: {text}", style="yellow" if sys.stderr.isatty() else None, markup=False)
