"""Which files a source names: a file, a folder or a glob. Links to folders are never followed, so they can't loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from wyrmling.config import PROJECT_FILE
from wyrmling.core.errors import BadInput

FIX = "correct the path; it is relative to the project folder"


class Refused(NamedTuple):
    """A file or folder that is there but can't be read, and why."""

    path: Path
    message: str


def find_files(name: str, pattern: str, root: Path) -> tuple[list[Path], list[Refused]]:
    """The files in order of their paths, and what could not be looked into. Raises BadInput when there is neither.

    Hidden files and folders (.DS_Store, .git) are the system's, not the user's: they are left out. So is what wyrmling
    itself keeps in the project folder, where a source is the folder that holds it.
    """
    where = f"data.sources.{name}.path = {pattern!r}"
    path = root / Path(pattern).expanduser()
    refused: list[Refused] = []
    if any(mark in pattern for mark in "*?[") and not path.exists():
        anchor = Path(path.anchor)
        found = list(anchor.glob(path.relative_to(anchor).as_posix()))
        base = next(parent for parent in path.parents if not any(mark in parent.as_posix() for mark in "*?["))
        if "**" in pattern and base.is_dir():
            refused = _walk(base, root)[1]
        elif base.is_dir() and not os.access(base, os.R_OK | os.X_OK):
            refused = [Refused(base, "Permission denied")]
    elif path.is_dir():
        found, refused = _walk(path, root)
    elif path.exists() or path.is_symlink():
        found = [path]
    else:
        raise BadInput(f"{path} does not exist", where=where, fix=FIX)
    files = []
    for file in found:
        if file.is_file():
            files.append(file)
        elif not file.is_dir():
            refused.append(Refused(file, _not_a_file(file)))
    files = [file for file in files if file == path or not (_hidden(file, path, root) or _ours(file, path, root))]
    refused = [entry for entry in refused if entry.path == path or not _hidden(entry.path, path, root)]
    if not files and not refused:
        raise BadInput(f"no file matches {pattern!r}", where=where, fix=FIX)
    return sorted(files, key=Path.as_posix), sorted(set(refused))


def _walk(folder: Path, root: Path) -> tuple[list[Path], list[Refused]]:
    """All entries under a folder that are no folders, and the folders that can't or must not be looked into."""
    found: list[Path] = []
    refused: list[Refused] = []

    def note(error: OSError) -> None:
        refused.append(Refused(Path(error.filename), error.strerror or "can't be read"))

    for parent, folders, files in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (Path(parent) / name).is_symlink():
                refused.append(
                    Refused(Path(parent) / name, "a link to a folder is not followed; name that folder as a source")
                )
        found += [Path(parent) / name for name in files]
    return found, refused


def _not_a_file(path: Path) -> str:
    if path.is_symlink():
        return "a link that leads nowhere; mend or remove it"
    return "not an ordinary file; it is not read" if path.exists() else "it can't be reached (permission denied)"


def _hidden(file: Path, start: Path, root: Path) -> bool:
    """True when a part of the path below where the search started is hidden; hidden folders above it do not count."""
    for folder in (start, root):
        if file.is_relative_to(folder):
            return any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.name.startswith(".")


def _ours(file: Path, start: Path, root: Path) -> bool:
    """True for the project file, the database, and what is under runs/ when the search started outside of it."""
    if not file.is_relative_to(root):
        return False
    first, *inner = file.relative_to(root).parts
    if inner:
        return first == "runs" and not start.is_relative_to(root / "runs")
    return first == PROJECT_FILE or first.startswith("wyrmling.db")


def relative(path: Path, root: Path) -> str:
    """The path as it is shown and hashed: relative to the project folder, with forward slashes."""
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()
