"""steps.jsonl: one line per optimizer step and per look at the validation rows, also told to trackers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from wyrmling.train.trackers import Tracker


class Journal:
    """The open journal of a run. Lines are written at once, so that whoever follows the file sees them.

    path        the steps.jsonl to write; of an earlier attempt, the lines up to `step_done` stay
    trackers    are told every new line
    """

    def __init__(self, path: Path, step_done: int, trackers: Sequence[Tracker] = ()) -> None:
        self._path, self._trackers = path, trackers
        path.write_text("".join(_lines_up_to(path, step_done)), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def undo_after(self, step: int) -> None:
        """Remove the lines of later steps, which are done again. Trackers keep them."""
        self._file.close()
        self._path.write_text("".join(_lines_up_to(self._path, step)), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """line: {"step": n, ...figures} of a step; with "val": {...} of a look; or "rollback": {...} to step n."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.write(line)


def _lines_up_to(path: Path, step: int) -> list[str]:
    """The lines of an earlier attempt without those of steps that are done again."""
    kept = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
    return kept
