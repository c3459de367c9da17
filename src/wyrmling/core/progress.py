"""One progress bar for all long work: a rich bar on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wyrmling.core.log import voice

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_EVERY_SECONDS = 5.0


class Bar:
    """Tell how far the work is. Made by `bar(...)`."""

    def __init__(self, title: str, total: float | None, rich_bar: Progress | None) -> None:
        self._title, self._total, self._rich = title, total, rich_bar
        self._task = rich_bar.add_task(title, total=total, note="") if rich_bar else None
        self._done = 0.0
        self._started = self._said = time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Move on by `amount`; `note` is shown beside the bar (rate, loss, Wh)."""
        self.at(self._done + amount, note)

    def at(self, done: float, note: str = "") -> None:
        """Stand at `done` of the total."""
        self._done = done
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if voice.quiet or now - self._said < PLAIN_EVERY_SECONDS:
            return
        self._said = now
        total = f"/{self._total:g}" if self._total else ""
        left = ""
        if self._total and done:
            left = f"  about {(now - self._started) * (self._total / done - 1):.0f} s left"
        print(f"{self._title} {done:g}{total}  {note}{left}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def bar(title: str, total: float | None = None) -> Iterator[Bar]:
    """A progress bar for the length of the block. Keep notes short: "loss 2.31  0.4 Wh"."""
    if voice.quiet or not sys.stderr.isatty():
        yield Bar(title, total, None)
        return
    # Commands that take no time should not wait for it.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as rich_bar:
        yield Bar(title, total, rich_bar)
