"""Resumable training state on disk: whole or absent, verified when read; a bad one falls back to the one before.

`step-<n>/` holds `model.safetensors` (what is trained), `optimizer.safetensors`, sometimes `best.safetensors`,
`state.json`, and a `MANIFEST.json` with the size and sha256 of each, written last. The order of the data and every
random draw are functions of the step, so the state needs no random generator and no position in the data.

A save has two halves. `write` hands the tensors to the operating system, which is their only copy: nothing is held
twice in memory. `seal` waits for the disk, hashes, and renames; it takes most of the time and reads nothing that
training changes, so train/saving.py runs it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wyrmling.core.artifact import file_digest, sync_folder, verify_files, write_durably
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.core.hardware import GB
from wyrmling.core.log import warn
from wyrmling.train.pieces import Pieces

MANIFEST = "MANIFEST.json"
FORMAT = 3
# The state of every so many steps is saved, and the newest such one kept, for a rollback to go to. A step number
# decides, not the clock: a run that rolls back is then the same however often it was interrupted.
RESTORE_EVERY = 200
# The disk must have this much more than the checkpoints are expected to take.
ROOM_MARGIN = 1.1


@dataclass
class State:
    """Everything that decides how training goes on.

    step         finished optimizer steps
    model        trained weights by name
    optimizer    what Optimizer.state() gave
    best         weights of the best look at the validation rows so far; None when they are `model` or there was none
    progress     counters that travel with the state: tokens, skipped steps, best look, looks without improvement
    spent        seconds, wh, usd and kg_co2 so far, over all attempts
    base         digest of the model whose frozen weights belong to these; empty when all weights are here
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    best: Mapping[str, Tensor] | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    base: str = ""


def write(folder: Path, state: State) -> Path:
    """The files of `state` in `folder/step-<n>.tmp`, not yet durable. Raises BadInput when the disk is full."""
    temporary = begin(folder, state.step)
    with whole_or_absent(temporary):
        for kind, tensors in tensors_of(state).items():
            _save_tensors(tensors, temporary / f"{kind}.safetensors")
        write_numbers(temporary, state)
    return temporary


def begin(folder: Path, step: int) -> Path:
    """An empty `folder/step-<n>.tmp`."""
    temporary = being_written(folder, step)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def being_written(folder: Path, step: int) -> Path:
    return folder / f"{_name(step)}.tmp"


def tensors_of(state: State) -> dict[str, Mapping[str, Tensor]]:
    """What goes into files of tensors, by the beginning of their names."""
    found = {"model": state.model, "optimizer": state.optimizer, "best": state.best}
    return {kind: tensors for kind, tensors in found.items() if tensors is not None}


def write_numbers(temporary: Path, state: State) -> None:
    """Everything but the tensors."""
    numbers = {k: v for k, v in vars(state).items() if k not in ("model", "optimizer", "best")}
    (temporary / "state.json").write_text(json.dumps(numbers, indent=1))


def seal(temporary: Path, *, keep: int) -> Path:
    """Make what `write` wrote a checkpoint, then remove all but the newest `keep` and the newest restore point.

    Raises   BadInput when the disk is full; the checkpoints that were there stay
    """
    final, folder = temporary.with_suffix(""), temporary.parent
    with whole_or_absent(temporary):
        files = {file.name: _entry(file) for file in sorted(temporary.iterdir())}
        write_durably(temporary / MANIFEST, json.dumps({"format": FORMAT, "files": files}, indent=1).encode())
        # The same step may be saved twice: after a resume, or when the last step is both due and final.
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        sync_folder(folder)
    found = _folders(folder)
    points = [one for one in found if _step(one) % RESTORE_EVERY == 0]
    for old in found[keep:]:
        if old not in points[:1]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def discard_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of steps after `step`, which a rollback undoes."""
    for found in _folders(folder):
        if _step(found) > step:
            shutil.rmtree(found, ignore_errors=True)


def load_newest(folder: Path, *, base: str = "", restore_points: bool = False) -> State | None:
    """The newest state that verifies, or None when there is none. A bad one is named in a warning and removed.

    base             digest of the model whose frozen weights it must belong to
    restore_points   only those that a rollback goes to
    """
    for found in _folders(folder):
        if restore_points and _step(found) % RESTORE_EVERY:
            continue
        try:
            state = _read(found)
            if state.base != base:
                raise CorruptArtifact("its frozen weights are those of another base", where=found)
            return state
        except CorruptArtifact as error:
            warn(f"{found.name} cannot be used: {error.what}; going back to the checkpoint before it")
            shutil.rmtree(found, ignore_errors=True)
    return None


def room_needed(model: Mapping[str, Tensor], moments: int, *, keep: int) -> int:
    """Bytes that the checkpoints of a run take at most: those kept, a restore point, and the one being written.

    model     the trained weights; the best ones may lie beside the newest
    moments   bytes of what the optimizer remembers
    """
    return (keep + 2) * (2 * sum(tensor.nbytes for tensor in model.values()) + moments)


def require_room(folder: Path, needed: int, *, step: str) -> None:
    """Raises   BadInput when the disk has less than `needed` bytes and a tenth, those of older checkpoints counted."""
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free + there
    if free < ROOM_MARGIN * needed:
        raise BadInput(
            f"the checkpoints of train step {step} take up to {needed / GB:.2g} GB, the disk has {free / GB:.2g} GB",
            where=folder,
            fix=f"free some space, or set train.{step}.keep_checkpoints = 1",
        )


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


@contextlib.contextmanager
def whole_or_absent(temporary: Path) -> Iterator[None]:
    """Remove what could not be written; a full disk is an error that says so."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if _is_disk_full(error):
            raise BadInput(
                f"the disk is too full for the checkpoint of step {_step(temporary.with_suffix(''))}",
                where=temporary.parent,
                fix="free some space and run the same command again; it goes on from the checkpoint before",
            ) from error
        raise


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, str(path))


def _entry(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}


def _read(folder: Path) -> State:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: {key: entry[key] for key in ("bytes", "sha256")} for name, entry in manifest["files"].items()}
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifact(f"it has no readable {MANIFEST}", where=folder) from error
    if version != FORMAT:
        raise CorruptArtifact(f"it was written in format {version}, not {FORMAT}", where=folder)
    verify_files(folder, files)
    return _state(folder)


def read(folder: Path, step: int) -> State:
    """The state of a step that somebody else has just verified."""
    return _state(folder / _name(step))


def _state(folder: Path) -> State:
    model, optimizer = _tensors(folder, "model"), _tensors(folder, "optimizer")
    if model is None or optimizer is None:
        raise CorruptArtifact("it has no weights", where=folder)
    numbers = json.loads((folder / "state.json").read_text())
    return State(**numbers, model=model, optimizer=optimizer, best=_tensors(folder, "best"))


def _tensors(folder: Path, kind: str) -> Mapping[str, Tensor] | None:
    """The tensors of one kind: from the file of one process, or from those of several."""
    if (file := folder / f"{kind}.safetensors").is_file():
        return load_file(file)
    files = sorted(folder.glob(f"{kind}-*.safetensors"))
    return Pieces(files) if files else None


def _folders(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    if not folder.is_dir():
        return []
    return sorted((f for f in folder.glob("step-*") if f.suffix == "" and f.is_dir()), reverse=True)


def _is_disk_full(error: Exception) -> bool:
    """safetensors wraps the system's error in its own, with the text only."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in full
    return any(os.strerror(number).lower() in str(error).lower() for number in full)
