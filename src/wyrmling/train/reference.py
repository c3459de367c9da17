"""What the model that training starts from says of the answers: computed once, before the first step, and kept.

With lora the untrained corrections change nothing, so the base model is the reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from wyrmling.core.artifact import file_digest, verify_files, write_durably
from wyrmling.core.errors import CorruptArtifact
from wyrmling.core.log import warn
from wyrmling.core.progress import bar
from wyrmling.model.heads import Model
from wyrmling.train.choices import PreferenceBatches
from wyrmling.train.order import Array
from wyrmling.train.preference import looked_at
from wyrmling.train.team import ALONE, Team

FILE, DIGEST = "reference.safetensors", "reference.json"


def fill(
    model: Model,
    parts: dict[str, PreferenceBatches],
    folder: Path,
    autocast: Callable[[], AbstractContextManager[Any]],
    team: Team = ALONE,
) -> None:
    """Give each of `parts` its reference: read from `folder`, or computed and written there.

    model   as it is before the first step
    team    has placed the model; its processes share the work, and the first of them reads and writes
    """
    found = team.same(_stored(folder, parts) if team.first else None)
    if found is None:
        found = {name: _computed(model, batches, autocast, team) for name, batches in parts.items()}
        if team.first:
            _keep(found, folder)
    for name, batches in parts.items():
        batches.reference = found[name]


def _keep(found: dict[str, Array], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / FILE, save(found))
    entry = {"bytes": (folder / FILE).stat().st_size, "sha256": file_digest(folder / FILE)}
    write_durably(folder / DIGEST, json.dumps({FILE: entry}).encode())


def _stored(folder: Path, parts: dict[str, PreferenceBatches]) -> dict[str, Array] | None:
    """What an earlier attempt computed; None when there is nothing, or when it can't be used."""
    if not (folder / DIGEST).is_file():
        return None
    try:
        verify_files(folder, json.loads((folder / DIGEST).read_text()))
        found: dict[str, Array] = load((folder / FILE).read_bytes())
    except (CorruptArtifact, ValueError) as error:
        warn(f"{FILE} cannot be used and is computed again: {error}")
        return None
    fits = all(name in found and len(found[name]) == len(batches.items.row) for name, batches in parts.items())
    return found if fits else None


def _computed(
    model: Model, batches: PreferenceBatches, autocast: Callable[[], AbstractContextManager[Any]], team: Team
) -> Array:
    """Log-probability of both sequences of each item, (items, 2) float32."""
    device, training, said = team.device, model.training, list[tuple[Array, Array, Array]]()
    mine = team.share(batches.everything())
    model.eval()
    with bar("reference", total=len(mine)) as shown, team.looking(), autocast():
        for batch in mine:
            logp_S, choices = looked_at(model, batch.to(device)), batch.choices
            if choices is not None:
                said.append((choices.item_S, choices.side_S.numpy(), logp_S.float().cpu().numpy()))
            shown.advance()
    model.train(training)
    values = np.empty((len(batches.items.row), 2), dtype=np.float32)
    for item_S, side_S, logp in team.gathered(said):
        values[item_S, side_S] = logp
    return values
