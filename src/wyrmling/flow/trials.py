"""The trials of a search on disk: what each was trained with, its looks, its scores per row, and how it ended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wyrmling.core import artifact
from wyrmling.core.artifact import write_durably
from wyrmling.core.energy import SPENT

if TYPE_CHECKING:
    from wyrmling.train.rivals import RowScores

# cut off: by the budget of the search; given more, it goes on.
End = Literal["done", "given up", "refused", "cut off"]
PRESENT = "present"


@dataclass(frozen=True)
class Record:
    """A trial that came to an end.

    settings   TOML text by key; empty for the trial with the settings as they are
    value      the figure of its best look; None when it was not looked at
    curve      the figure of every look
    why        of one that was given up or refused
    """

    name: str
    settings: Mapping[str, str]
    end: End
    value: float | None
    curve: tuple[float, ...] = ()
    best_look: int = 0
    why: str = ""
    spent: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Folder:
    """The folder of one trial: a root with its own `runs`, `trial.json` when it ended, and scores per row and look."""

    path: Path

    @staticmethod
    def of(search: Path, settings: Mapping[str, str]) -> Folder:
        """The folder for these settings: the same after the search was cut off, so that training goes on."""
        return Folder(search / "trials" / (artifact.digest(dict(settings))[:12] if settings else PRESENT))

    def record(self) -> Record | None:
        """How the trial ended; None while it has not."""
        file = self.path / "trial.json"
        if not file.is_file():
            return None
        raw = json.loads(file.read_text(encoding="utf-8"))
        return Record(**raw | {"curve": tuple(raw["curve"])})

    def end(self, record: Record) -> Record:
        write_durably(self.path / "trial.json", json.dumps(record.document(), indent=1).encode())
        return record

    def looks(self) -> dict[int, float]:
        """The figure of each look so far."""
        file = self.path / "looks.json"
        return {int(look): value for look, value in json.loads(file.read_text()).items()} if file.is_file() else {}

    def keep(self, look: int, looks: Mapping[int, float], rows: RowScores | None) -> None:
        """The scores per row at a look, and the figures of all looks so far."""
        if rows is not None:
            rows.save(self.path / f"rows-{look}.npz")
        write_durably(self.path / "looks.json", json.dumps(looks).encode())

    def rows(self, look: int) -> RowScores | None:
        """The scores per row at a look; None when there was none, or they were not kept."""
        from wyrmling.train.rivals import RowScores

        file = self.path / f"rows-{look}.npz"
        return RowScores.load(file) if file.is_file() else None

    def forget_models(self) -> None:
        """Delete what was trained; the record and the scores stay."""
        shutil.rmtree(self.path / "runs", ignore_errors=True)

    def hand_over(self, runs: Path) -> None:
        """Move what was trained to the project's results, where the same settings find it."""
        for made in sorted((self.path / "runs" / "train").glob(f"*/{artifact.MANIFEST}")):
            target = runs / "train" / made.parent.name
            if not made.parent.name.startswith(".") and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(made.parent, target)
        self.forget_models()


def records(search: Path) -> list[Record]:
    """Every trial that ended, the one with the settings as they are first, then in the order of their ends."""
    files = sorted((search / "trials").glob("*/trial.json"), key=lambda file: file.stat().st_mtime_ns)
    found = [record for file in files if (record := Folder(file.parent).record()) is not None]
    return sorted(found, key=lambda record: bool(record.settings))
