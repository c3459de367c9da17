"""JSON files of model folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wyrmling.core.artifact import write_durably
from wyrmling.core.errors import CorruptArtifact


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CorruptArtifact when there is none."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtifact(
            f"{file.name} is not readable JSON: {error}",
            where=file,
            fix="restore the file from a backup, or make it again",
        ) from error
    if not isinstance(raw, dict):
        raise CorruptArtifact(f"{file.name} holds no JSON object", where=file, fix="restore the file from a backup")
    return raw


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_durably(file, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
