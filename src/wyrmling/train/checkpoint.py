"""Resumable training state on disk: whole or absent, verified when read; a bad one falls back to the one before.

`step-<n>/` holds `model.safetensors` (what is trained), `optimizer.safetensors`, sometimes `best.safetensors`,
`state.json`, and a
`MANIFEST.json` with the size and sha256 of each, written last. The order of the data and every random draw are
functions of the step, so the state needs no random generator and no position in the data.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wyrmling.core.artifact import file_digest, sync_folder, verify_files, write_durably
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.core.log import warn

MANIFEST = "MANIFEST.json"
FORMAT = 1


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


def save(folder: Path, state: State, *, keep: int) -> Path:
    """Write `state` as `folder/step-<n>`, then remove all but the newest `keep`.

    Raises   BadInput when the disk is full; the checkpoints that were there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f"{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _write(temporary, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if _is_disk_full(error):
            raise BadInput(
                f"the disk is too full for the checkpoint of step {state.step}",
                where=folder,
                fix="free some space and run the same command again; it goes on from the checkpoint before",
            ) from error
        raise
    # The same step may be saved twice: after a resume, or when the last step is both due and final.
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    sync_folder(folder)
    for old in _folders(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_newest(folder: Path, *, base: str = "") -> State | None:
    """The newest state that verifies, or None when there is none. A bad one is named in a warning and removed.

    base   digest of the model whose frozen weights it must belong to
    """
    for found in _folders(folder):
        try:
            state = _read(found)
            if state.base != base:
                raise CorruptArtifact("its frozen weights are those of another base", where=found)
            return state
        except CorruptArtifact as error:
            warn(f"{found.name} cannot be used: {error.what}; going back to the checkpoint before it")
            shutil.rmtree(found, ignore_errors=True)
    return None


def _write(folder: Path, state: State) -> None:
    _save_tensors(state.model, folder / "model.safetensors")
    _save_tensors(state.optimizer, folder / "optimizer.safetensors")
    if state.best is not None:
        _save_tensors(state.best, folder / "best.safetensors")
    numbers = {k: v for k, v in _shallow(state).items() if k not in ("model", "optimizer", "best")}
    write_durably(folder / "state.json", json.dumps(numbers, indent=1).encode())
    files = {file.name: _entry(file) for file in sorted(folder.iterdir())}
    write_durably(folder / MANIFEST, json.dumps({"format": FORMAT, "files": files}, indent=1).encode())


def _shallow(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, str(path))
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _entry(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}


def _read(folder: Path) -> State:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError) as error:
        raise CorruptArtifact(f"it has no readable {MANIFEST}", where=folder) from error
    verify_files(folder, files)
    best = folder / "best.safetensors"
    return State(
        **json.loads((folder / "state.json").read_text()),
        model=load_file(folder / "model.safetensors"),
        optimizer=load_file(folder / "optimizer.safetensors"),
        best=load_file(best) if best.name in files else None,
    )


def _folders(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    if not folder.is_dir():
        return []
    return sorted((f for f in folder.glob("step-*") if f.suffix != ".tmp" and f.is_dir()), reverse=True)


def _is_disk_full(error: Exception) -> bool:
    """safetensors wraps the system's error in its own, with the text only."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in full
    return any(os.strerror(number).lower() in str(error).lower() for number in full)
