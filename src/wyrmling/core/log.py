"""What a person reads while work goes on. Everything goes to stderr; stdout belongs to results."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rich.console import Console


@dataclass
class Voice:
    """How much to say, set once by the command line."""

    quiet: bool = False
    debug: bool = False


voice = Voice()
console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for the person watching; silent with --quiet."""
    if not voice.quiet:
        console.print(text, markup=False)


def warn(text: str) -> None:
    """A line that is said even with --quiet: something was decided that the user may not want."""
    console.print(f"warning: {text}", style="yellow" if sys.stderr.isatty() else None, markup=False)
