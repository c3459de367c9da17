"""How long texts are kept, and erasing those of one person, in the database and in what was made from it."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wyrmling.config import Project
from wyrmling.core.artifact import MANIFEST
from wyrmling.core.reviews import Erased, Reviews
from wyrmling.core.store import Store
from wyrmling.feedback.collect import STAGE, artifacts_with

# Stages whose artifacts hold texts of the rows they were made from; a model folder holds none.
_WITH_TEXTS = ("tokenizer", "evaluate")


@dataclass(frozen=True)
class Forgotten:
    """What an erasure reached.

    folders  artifacts that were deleted because they held the texts
    models   folders of training steps that learned from them: only training again takes that out of a model
    """

    erased: Erased
    folders: tuple[Path, ...]
    models: tuple[Path, ...]


def expire(store: Store, keep_days: float | None) -> Erased:
    """Erase what is older than `keep_days`; None erases nothing."""
    if keep_days is None:
        return Erased(0, 0)
    before = datetime.now(UTC) - timedelta(days=keep_days)
    return Reviews(store).expire(before.isoformat(timespec="microseconds"))


def forget(project: Project, store: Store, user: str) -> Forgotten:
    """Erase what an end user, or a key, asked and said, and the artifacts that hold it; they are made again without it.

    Killed on the way it can be called again: the database, by which the artifacts are found, comes last.
    """
    reviews = Reviews(store)
    held = artifacts_with(project, [said.feedback.id for said in reviews.find_about(user)])
    folders, models = list(held), []
    for data in _made_from(project, "data", [f"{STAGE}/{folder.name}/" for folder in held]):
        folders.append(data)
        for stage in _WITH_TEXTS:
            folders += _made_from(project, stage, [_id_of(data)])
        models += _made_from(project, "train", [_id_of(data)])
    for folder in reversed(folders):
        shutil.rmtree(folder)
    return Forgotten(reviews.forget(user), tuple(folders), tuple(models))


def _made_from(project: Project, stage: str, inputs: list[str]) -> list[Path]:
    """The artifacts of a stage one of whose inputs, by name or value, contains one of these."""
    found = []
    for manifest in sorted((project.runs / stage).glob(f"*/{MANIFEST}")):
        with suppress(ValueError, KeyError):
            read: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["inputs"]
            if any(wanted in f"{name}={value}" for name, value in read.items() for wanted in inputs):
                found.append(manifest.parent)
    return found


def _id_of(folder: Path) -> str:
    return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["id"])
