"""Units of work for the tests of `core.shards`: worker processes import them by the name of this file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from wyrmling.core.errors import BadInput
from wyrmling.core.log import say, warn


@dataclass(frozen=True)
class Unit:
    number: int
    folder: Path
    breaks: bool = False


def square(unit: Unit) -> int:
    """Says something, leaves a line per call, and gives a number."""
    with (unit.folder / f"calls-{unit.number}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    say(f"unit {unit.number}")
    if unit.breaks and not (unit.folder / "mended").exists():
        raise BadInput("the unit is broken", where=f"unit {unit.number}", fix="mend it")
    if unit.number == 2:
        warn("two")
    return unit.number**2


def units(folder: Path, count: int = 5, broken: int | None = None) -> list[Unit]:
    return [Unit(number, folder, number == broken) for number in range(count)]


def die(unit: Unit) -> None:
    os._exit(9)


def sleep(unit: Unit) -> None:
    (unit.folder / f"worker-{os.getpid()}").touch()
    time.sleep(60)
