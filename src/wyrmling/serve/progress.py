"""What a training run reports while it goes on, read from its `steps.jsonl`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A job reports about so many steps, however long it is.
REPORTED_STEPS = 100


@dataclass
class Following:
    """Reads the lines that a run adds to its steps.jsonl, also when the run begins again or moves the file."""

    runs: Path
    total: int | None = None
    """About how many steps the run will take; None when nobody knows."""
    lines: list[dict[str, Any]] = field(default_factory=list)

    def news(self) -> Iterator[dict[str, Any]]:
        """The lines since the last call, each once; those of steps that are done again do not come again."""
        known = len(self.lines)
        self.lines = _read(self.runs) or self.lines
        yield from self.lines[known:]

    def reports(self, line: dict[str, Any]) -> bool:
        """Whether this line is worth an event: looks at validation rows are, and about 100 steps."""
        every = max(1, (self.total or 0) // REPORTED_STEPS)
        return "val" in line or line["step"] % every == 0

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds and watt-hours of training so far."""
        steps = [line for line in self.lines if "wh" in line]
        return (steps[-1]["seconds"], steps[-1]["wh"]) if steps else (0.0, 0.0)


def checkpoint_metrics(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The metrics of the last step, under the names of the API. What was not measured is left out."""
    steps = [line for line in lines if "loss" in line]
    looks = [line["val"] for line in lines if "val" in line]
    found: dict[str, Any] = {}
    if steps:
        found |= {"step": float(steps[-1]["step"]), "train_loss": steps[-1]["loss"]}
    if looks and "loss" in looks[-1]:
        found |= {"valid_loss": looks[-1]["loss"], "full_valid_loss": looks[-1]["loss"]}
    return found


def results_csv(lines: list[dict[str, Any]]) -> bytes:
    """The result file of a job: one row per step, with the validation loss where it was measured."""
    valid = {line["step"]: line["val"].get("loss") for line in lines if "val" in line}
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"])
    for line in lines:
        if "loss" in line:
            rows.writerow([line["step"], line["loss"], "", valid.get(line["step"]), ""])
    return out.getvalue().encode()


def _read(runs: Path) -> list[dict[str, Any]]:
    # While it is written, a run's folder has a name that begins with a point.
    files = [file for pattern in ("*", ".*.work") for file in (runs / "train").glob(f"{pattern}/steps.jsonl")]
    if not files:
        return []
    lines = []
    try:
        text = max(files, key=lambda file: file.stat().st_mtime).read_text()
    except FileNotFoundError:
        # The run has just renamed its folder.
        return []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            lines.append(json.loads(line))
    return lines
