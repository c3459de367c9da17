"""Ctrl-C and termination while training: the first asks to stop after the step, the second ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

# SIGBREAK is what Windows sends for Ctrl-Break, SIGUSR1 what Slurm sends before a time limit.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK")


@dataclass
class Stop:
    """Whether somebody asked to stop. `signal` is the name of what was received, None while nobody did."""

    signal: str | None = None


@contextlib.contextmanager
def watch() -> Iterator[Stop]:
    """Catch the signals for the length of the block. Outside the main thread there are none to catch."""
    stop = Stop()

    def receive(number: int, _: FrameType | None) -> None:
        if stop.signal is not None:
            os._exit(128 + number)
        stop.signal = signal.Signals(number).name

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [getattr(signal, name) for name in NAMES if name in signal.Signals.__members__]
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
