"""A stage's output folder: content-addressed, written whole or not at all, verified when read.

`runs/<stage>/<name>-<id>/` holds the files of one result and a `manifest.json`, written last: inputs, settings,
figures, cost, forecast, versions, and the size and sha256 of every file. The id is a hash of what the result depends
on, so the same question finds the same folder. Work in progress lives beside it in `.<name>-<id>.work`; a rename makes
it the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import wyrmling
from wyrmling.core.energy import Meter
from wyrmling.core.errors import BadInput, CorruptArtifact

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Key:
    """What a stage's result depends on.

    stage     the stage's word: data, tokenizer, train, evaluate
    name      which of its results: the project's or the step's name
    inputs    name -> sha256 or artifact id of everything read
    settings  the resolved settings that shape the result
    version   raised by the stage when the same inputs would give another result
    """

    stage: str
    name: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    version: int

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits of the sha256 over everything above but the name."""
        return digest([self.stage, dict(self.inputs), dict(self.settings), self.version])[:12]

    def folder(self, runs: Path) -> Path:
        return runs / self.stage / f"{self.name}-{self.id}"

    def work(self, runs: Path) -> Path:
        return runs / self.stage / f".{self.name}-{self.id}.work"


@dataclass(frozen=True)
class Artifact:
    """A finished stage folder. `reused` is True when this call found it rather than made it."""

    path: Path
    manifest: dict[str, Any]
    reused: bool = False
    by_others: bool = False
    """Made for this call by processes that it launched; they have kept what there is to remember of it."""

    @property
    def id(self) -> str:
        return str(self.manifest["id"])

    @property
    def stage(self) -> str:
        return str(self.manifest["stage"])

    @property
    def figures(self) -> dict[str, Any]:
        return dict(self.manifest["figures"])

    @property
    def cost(self) -> dict[str, Any]:
        return dict(self.manifest["cost"])


@dataclass
class Draft:
    """A stage folder being written. Set `figures` (and `forecast`) before the block ends."""

    path: Path
    figures: dict[str, Any] = field(default_factory=dict)
    forecast: dict[str, Any] | None = None
    earlier_cost: dict[str, float] = field(default_factory=dict)
    """What interrupted attempts at the same work already took, by the names of `energy.SPENT`; added to the cost."""
    artifact: Artifact | None = None

    @property
    def done(self) -> Artifact:
        """The finished artifact, once the block has ended."""
        if self.artifact is None:
            raise RuntimeError("the artifact is not finished yet")
        return self.artifact


def digest(value: Any) -> str:
    """sha256 of a JSON-able value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def open_artifact(path: Path, *, verify: bool = True, reused: bool = False, by_others: bool = False) -> Artifact:
    """The artifact in `path`; with `verify`, every file is hashed and compared.

    Raises   CorruptArtifact naming the first missing or changed file.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptArtifact(
            f"{path.name} has no readable {MANIFEST}",
            where=path,
            fix="delete the folder and run the same command again",
        ) from error
    if verify:
        verify_files(path, files)
    return Artifact(path=path, manifest=manifest, reused=reused, by_others=by_others)


def verify_files(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Check size and sha256 of every file named in a manifest. Raises CorruptArtifact."""
    for relative, expected in files.items():
        file = path / relative
        if not file.is_file():
            problem = "is missing"
        elif file.stat().st_size != expected["bytes"]:
            problem = f"has {file.stat().st_size} bytes instead of {expected['bytes']}"
        elif file_digest(file) != expected["sha256"]:
            problem = "has other bytes than were written"
        else:
            continue
        raise CorruptArtifact(
            f"{relative} {problem}",
            where=file,
            fix="restore it from a backup, or delete the folder and run the same command again",
        )


def find(runs: Path, key: Key) -> Artifact | None:
    """The finished, verified artifact for this key, or None when there is none.

    Raises   CorruptArtifact when there is one and it was changed.
    """
    folder = key.folder(runs)
    if not folder.is_dir():
        return None
    ours = folder.resolve() in _MADE_BY_OTHERS
    return open_artifact(folder, reused=not ours, by_others=ours)


# What launched processes made for this call.
_MADE_BY_OTHERS: set[Path] = set()


@contextlib.contextmanager
def made_by_others(runs: Path) -> Iterator[None]:
    """What is finished under `runs` while this is open counts as made by this call, whichever process made it."""
    before = set(runs.resolve().glob(f"*/[!.]*/{MANIFEST}"))
    yield
    _MADE_BY_OTHERS.update(file.parent for file in runs.resolve().glob(f"*/[!.]*/{MANIFEST}") if file not in before)


@contextlib.contextmanager
def create(runs: Path, key: Key, meter: Meter, *, resume: bool = False) -> Iterator[Draft]:
    """Write an artifact: the block fills `draft.path`, then it is hashed, given a manifest and renamed into place.

    runs    the project's folder of results
    meter   measures seconds, energy and memory of the block
    resume  True keeps what an interrupted attempt left in `draft.path` (training checkpoints); False starts empty
    An exception in the block leaves the work folder when `resume` is set, else removes it; the result never appears.
    Raises   BadInput when the disk is full; WyrmlingError when another process is writing the same artifact.
    """
    work, final = key.work(runs), key.folder(runs)
    work.parent.mkdir(parents=True, exist_ok=True)
    with _only_one_writer(work):
        if not resume and work.exists():
            shutil.rmtree(work)
        work.mkdir(exist_ok=True)
        draft = Draft(path=work)
        try:
            with meter:
                yield draft
            manifest = _manifest(key, draft, meter)
            write_durably(work / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
            os.replace(work, final)
            sync_folder(final.parent)
        except BaseException as error:
            if not resume:
                shutil.rmtree(work, ignore_errors=True)
            if isinstance(error, OSError) and error.errno == 28:
                raise BadInput(
                    "the disk is full",
                    where=runs,
                    fix="free some space and run the same command again; nothing made is lost",
                ) from error
            raise
        draft.artifact = Artifact(path=final, manifest=manifest)


@contextlib.contextmanager
def assist(runs: Path, key: Key, meter: Meter, *, resume: bool = False) -> Iterator[Draft]:
    """The draft that another process of the same run creates: to read from, and to leave files that it knows of."""
    with meter:
        yield Draft(path=key.work(runs))


def _manifest(key: Key, draft: Draft, meter: Meter) -> dict[str, Any]:
    files = {}
    for file in sorted(p for p in draft.path.rglob("*") if p.is_file() and p.name != MANIFEST):
        with file.open("rb") as handle:
            with contextlib.suppress(OSError):
                os.fsync(handle.fileno())
            sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        files[file.relative_to(draft.path).as_posix()] = {"bytes": file.stat().st_size, "sha256": sha256}
    cost = meter.cost().as_dict()
    for name, value in draft.earlier_cost.items():
        cost[name] = cost[name] + value
    return {
        "format": FORMAT,
        "stage": key.stage,
        "name": key.name,
        "id": key.id,
        "version": key.version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": dict(key.inputs),
        "settings": dict(key.settings),
        "figures": draft.figures,
        "cost": cost,
        "forecast": draft.forecast,
        "versions": versions(),
        "files": files,
    }


def versions() -> dict[str, str]:
    """Versions that can change a result. torch only when it is loaded: naming it must not import it."""
    found = {"wyrmling": wyrmling.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "numpy", "tokenizers", "sklearn"):
        if name in sys.modules:
            found[name] = str(sys.modules[name].__version__)
    return found


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it has either the old bytes or the new ones."""
    with replacing_durably(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing_durably(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; after the block it takes that place, of which a crash leaves old or new."""
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    with temporary.open("r+b") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable, where the platform can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _only_one_writer(work: Path) -> Iterator[None]:
    """Hold an operating-system lock beside the work folder; it ends with the process, however that ends."""
    lock = work.with_name(work.name + ".lock")
    with lock.open("a+b") as handle:
        if not _lock(handle):
            raise BadInput(
                "another process is making the same artifact",
                where=work,
                fix="wait for it, or stop it, then run the same command again",
            )
        try:
            yield
        finally:
            # Still locked: whoever opens the path from here on makes a new file.
            lock.unlink(missing_ok=True)


def _lock(handle: Any) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
