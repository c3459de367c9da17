"""Checkpoints of a model that is cut: every process writes what it holds, and any number of processes reads it back.

`model-00002.safetensors` is what the third process of the first copy has of each tensor (pieces.py). Durability, hashes
and the fallback are checkpoint.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from wyrmling.model.layout import Layout, whole_layout
from wyrmling.train import checkpoint, pieces
from wyrmling.train.checkpoint import State
from wyrmling.train.pieces import Pieces
from wyrmling.train.team import Team


def write(folder: Path, state: State, team: Team) -> Path | None:
    """The files of `state`, not yet durable: the folder to seal on the first process, None on the others.

    Raises   BadInput when the disk is full
    """
    if not team.cut:
        return checkpoint.write(folder, state) if team.first else None
    if team.first:
        checkpoint.begin(folder, state.step)
    team.wait()
    temporary = checkpoint.being_written(folder, state.step)
    if team.in_first_copy:
        with checkpoint.whole_or_absent(temporary):
            for kind, tensors in checkpoint.tensors_of(state).items():
                pieces.save(tensors, _written(tensors, team), temporary / f"{kind}-{team.rank:05d}.safetensors")
    if team.first:
        checkpoint.write_numbers(temporary, state)
    team.wait()
    return temporary if team.first else None


def save(folder: Path, state: State, team: Team, *, keep: int) -> None:
    """Write `state` as `folder/step-<n>`, then remove all but the newest `keep` and the newest restore point.

    Raises   BadInput when the disk is full; the checkpoints that were there stay
    """
    if (temporary := write(folder, state, team)) is not None:
        checkpoint.seal(temporary, keep=keep)


def load_newest(folder: Path, team: Team, *, base: str, restore_points: bool = False) -> State | None:
    """The newest state that the first process finds whole, on every process; its tensors may be read piece by piece."""
    state = checkpoint.load_newest(folder, base=base, restore_points=restore_points) if team.first else None
    step = team.same(None if state is None else state.step)
    if step is None or state is not None:
        return state
    return checkpoint.read(folder, step)


def localised(state: State, team: Team) -> State:
    """The same state with the tensors that this process holds."""
    if not team.cut:
        return state
    return replace(
        state,
        model=_parts(state.model, team.layouts),
        optimizer=_parts(state.optimizer, team.layouts),
        best=None if state.best is None else _parts(state.best, team.layouts),
    )


def _written(tensors: Mapping[str, Tensor], team: Team) -> dict[str, Layout]:
    """What this process writes: what it holds, but for what another writes too."""
    found = {name: _layout_of(name, tensor, team.layouts) for name, tensor in tensors.items()}
    return {
        name: layout
        for name, layout in found.items()
        if (layout.counted and 0 not in layout.held if layout.shape else team.first)
    }


def _parts(tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout]) -> dict[str, Tensor]:
    found = {}
    for name in tensors:
        layout = layouts.get(_parameter(name, layouts))
        if isinstance(tensors, Pieces):
            found[name] = tensors[name] if layout is None else tensors.part(name, layout)
        else:
            found[name] = tensors[name] if layout is None else layout.cut(tensors[name])
    return found


def _layout_of(name: str, tensor: Tensor, layouts: Mapping[str, Layout]) -> Layout:
    """Moments have the shape of their parameter; a count of steps is the same everywhere."""
    layout = layouts.get(_parameter(name, layouts))
    return whole_layout(tuple(tensor.shape)) if layout is None else layout


def _parameter(name: str, layouts: Mapping[str, Layout]) -> str:
    """The parameter that a tensor of a state belongs to: itself, muon.NAME, adamw.NAME.exp_avg; else an empty text."""
    rest = name.partition(".")[2]
    whose, _, what = rest.rpartition(".")
    found = next((one for one in (name, rest, whose) if one in layouts), "")
    return "" if found == whose and what == "step" else found
