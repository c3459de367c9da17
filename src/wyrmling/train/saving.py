"""Checkpoints while training goes on: written at once, made durable by a thread, one at a time."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from wyrmling.train import checkpoint, shards
from wyrmling.train.checkpoint import State
from wyrmling.train.team import ALONE, Team

# With no interval in the settings: a minute, and longer where saving would take more than this share of the time.
EVERY_SECONDS, SHARE = 60.0, 0.02


class Saver:
    """Saves to one folder. What went wrong in the thread is raised by the next call, on the thread that trains.

    every   seconds from one save to the next; None derives them
    team    processes that save together
    """

    def __init__(self, folder: Path, *, keep: int, every: float | None, team: Team = ALONE) -> None:
        self.folder, self._keep, self._every, self._team = folder, keep, every, team
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[float] | None = None
        self._began = time.monotonic()
        self._took = 0.0

    def due(self) -> bool:
        """Whether it is time for another, which it is not while one is being written. Raises what that one raised."""
        if self._every != 0 and self._pending is not None and not self._pending.done():
            return False
        self.wait()
        every = max(EVERY_SECONDS, self._took / SHARE) if self._every is None else self._every
        return time.monotonic() - self._began >= every

    def save(self, state: State) -> None:
        """Write a checkpoint. Its tensors may change as soon as this returns, and it is on disk after `wait()`."""
        self.wait()
        self._began = time.monotonic()
        if (temporary := shards.write(self.folder, state, self._team)) is not None:
            self._pending = self._thread.submit(self._seal, temporary, self._began)

    def wait(self) -> None:
        """Until the last one is on disk. Raises what went wrong."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._took = pending.result()

    def close(self) -> None:
        """Let the last one be finished, whatever becomes of it."""
        self._thread.shutdown()

    def _seal(self, temporary: Path, began: float) -> float:
        checkpoint.seal(temporary, keep=self._keep)
        return time.monotonic() - began
