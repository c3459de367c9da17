"""Which of several processes this one is: `wyrmling launch` starts each with its number in the environment. No torch.

A process that nobody launched is number 0 of 1. What a launched one has to say at its end, an error or that it was
stopped, it leaves in a file for the launcher, which says it once.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from wyrmling.core import errors
from wyrmling.core.errors import Interrupted, WyrmlingError

# The folder in which the processes of a node leave what they have to say.
FOLDER = "WYRMLING_LAUNCH"


class Said(NamedTuple):
    """What a process left: its number, when it did, and the error it ended with."""

    rank: int
    at: float
    error: WyrmlingError


def launched() -> bool:
    """Whether torch's launcher started this process. Other software sets RANK too, so that alone says nothing."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """The number of this process among all."""
    return _number("RANK", 0)


def world() -> int:
    """How many processes there are, on all nodes."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process on its node."""
    return _number("LOCAL_RANK", 0)


def local_world() -> int:
    """How many processes this node has."""
    return _number("LOCAL_WORLD_SIZE", 1)


def first() -> bool:
    """Whether this process writes the results and speaks for all."""
    return rank() == 0


def leave(error: WyrmlingError) -> int | None:
    """Leave an error for the launcher; the exit code that suits it. None when there is no launcher to read it.

    A process that was stopped has done its duty, and torch's launcher takes any other code than 0 for a failure.
    """
    if not launched() or FOLDER not in os.environ:
        return None
    said = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    _file().write_text(json.dumps(said | {"rank": rank(), "at": time.time()}), encoding="utf-8")
    return 0 if isinstance(error, Interrupted) else error.exit_code


def forget() -> None:
    """Remove what an earlier attempt of this process left, when the launcher started it again."""
    if launched() and FOLDER in os.environ:
        _file().unlink(missing_ok=True)


def left_in(folder: Path) -> list[Said]:
    """What the processes left, the first one first."""
    found = []
    for file in folder.glob("*.json"):
        said = json.loads(file.read_text(encoding="utf-8"))
        kind: type[WyrmlingError] = getattr(errors, said["kind"], WyrmlingError)
        found.append(Said(said["rank"], said["at"], kind(said["what"], where=said["where"], fix=said["fix"])))
    return sorted(found, key=lambda one: one.at)


def _file() -> Path:
    return Path(os.environ[FOLDER]) / f"{rank()}.json"


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name, default)) if launched() else default
