"""steps.jsonl, read back: what a training run wrote about its steps and its looks at the validation rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STEPS_FILE = "steps.jsonl"
# Points of a curve: more can't be seen.
POINTS = 200

Line = dict[str, Any]


def read(path: Path) -> tuple[list[Line], list[Line]]:
    """The lines of the steps and of the looks. A line that is being written just now is left for the next time."""
    steps: list[Line] = []
    looks: list[Line] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if "val" in line:
                    looks.append(line)
                elif "loss" in line:
                    steps.append(line)
    return steps, looks


def curve(path: Path) -> dict[str, list[tuple[int, float]]] | None:
    """(step, loss) of the training rows, averaged, and of the validation rows; None when there are no steps."""
    steps, looks = read(path)
    losses = [(line["step"], line["loss"]) for line in steps if line.get("loss") is not None]
    if not losses:
        return None
    seen = [(line["step"], line["val"]["loss"]) for line in looks if "loss" in line["val"]]
    return {"train": averaged(losses), "val": seen}


def averaged(points: Sequence[tuple[int, float]], most: int = POINTS) -> list[tuple[int, float]]:
    """At most so many points: each the last step and the mean of a stretch."""
    stretch = -(-len(points) // most)
    parts = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
