"""A step that takes far longer than those before it is reported, with what every thread is doing."""

from __future__ import annotations

import faulthandler
import math
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from wyrmling.core import ranks
from wyrmling.core.log import warn
from wyrmling.train.loop import Step

# A step may take this many times the median of the last ones, and the allowance.
TIMES, LAST = 5.0, 50
# Seconds beyond that: kernels are compiled, a disk wakes up.
ALLOWANCE = 60.0


@dataclass
class _Clock:
    """The step that runs and when it will have taken too long."""

    step: int
    due: float = math.inf


def watched(
    stepping: Iterator[Step], folder: Path, *, first: int, allowance: float = ALLOWANCE
) -> Generator[Step, None, None]:
    """The same steps. One that hangs is named in a warning, once, and the stacks go to `folder/hang-<step>.txt`.

    Only the steps are timed, not what the caller does between them.
    """
    took: deque[float] = deque(maxlen=LAST)
    clock, over = _Clock(first), threading.Event()
    threading.Thread(target=_watch, args=(clock, over, folder, allowance), name="watchdog", daemon=True).start()
    try:
        while True:
            began = time.monotonic()
            clock.due = began + allowance + (TIMES * median(took) if took else 0.0)
            done = next(stepping, None)
            clock.due = math.inf
            if done is None:
                return
            took.append(time.monotonic() - began)
            clock.step = done.number + 1
            yield done
    finally:
        over.set()


def _watch(clock: _Clock, over: threading.Event, folder: Path, allowance: float) -> None:
    reported = 0
    while not over.wait(min(1.0, allowance / 4)):
        step = clock.step
        if time.monotonic() > clock.due and step != reported:
            reported = step
            file = folder / (f"hang-{step}.txt" if ranks.world() == 1 else f"hang-{step}-process-{ranks.rank()}.txt")
            with file.open("w") as handle:
                faulthandler.dump_traceback(handle, all_threads=True)
            warn(f"step {step} takes far longer than those before it; what every thread is doing is in {file}")
