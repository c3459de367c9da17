"""A project folder and its settings."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wyrmling.config.reading import overridden, parse
from wyrmling.config.settings import PROJECT_FILE, Settings, default_steps
from wyrmling.config.train import TrainStep
from wyrmling.core.energy import Meter
from wyrmling.core.errors import BadSetting, UsageError


@dataclass(frozen=True)
class Project:
    """A project folder and its settings."""

    root: Path
    settings: Settings

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def steps(self) -> tuple[TrainStep, ...]:
        """The training steps, derived from the task when the file names none."""
        return self.settings.train or default_steps(self.settings)

    def with_settings(self, overrides: Sequence[str]) -> Project:
        """The same project with `section.key=value` overrides applied. Raises UsageError for a bad one."""
        raw = self.settings.model_dump(mode="json", exclude_unset=True)
        return Project(self.root, overridden(raw, self.settings, overrides))

    def meter(self) -> Meter:
        """A new meter with the prices and power of `[machine]`."""
        machine = self.settings.machine
        return Meter(
            watts=machine.watts,
            usd_per_hour=machine.usd_per_hour,
            usd_per_kwh=machine.usd_per_kwh,
            country=machine.country,
            pue=machine.pue,
        )

    @property
    def database_url(self) -> str:
        return self.settings.database or f"sqlite:///{self.root / 'wyrmling.db'}"


class Home(NamedTuple):
    """Where a command was told to look that may also do without a project: --project and --set."""

    folder: Path | None = None
    overrides: tuple[str, ...] = ()

    def project(self) -> Project:
        """The project named, else the nearest upward. Raises UsageError when there is none; BadSetting as `load`."""
        return load(self.folder or find_project(Path.cwd()), self.overrides)


def find_project(start: Path) -> Path:
    """The nearest folder upward from `start` that holds a project file.

    Raises   UsageError when there is none.
    """
    for folder in (start, *start.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder
    raise UsageError(
        f"no {PROJECT_FILE} in {start} or above it",
        fix="name the project folder with --project DIR, or make one with: wyrmling init DIR",
    )


def load(folder: Path, overrides: list[str] | tuple[str, ...] = ()) -> Project:
    """The project in `folder`, with `section.key=value` overrides applied.

    Raises   UsageError for a missing project file or a bad override; BadSetting for a bad project file.
    """
    root = folder.expanduser().resolve()
    path = root / PROJECT_FILE
    if root.is_file():
        raise UsageError(f"{folder} is a file", fix=f"name the folder that holds the {PROJECT_FILE}")
    if not path.is_file():
        raise UsageError(f"{path} does not exist", fix=f"make a project with: wyrmling init {folder}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"not valid TOML: {error}", where=path, fix="mend the line that the message names") from error
    settings = parse(raw, where=PROJECT_FILE)
    return Project(root=root, settings=overridden(raw, settings, overrides) if overrides else settings)
