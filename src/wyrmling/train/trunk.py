"""The state before the learning rate falls, kept with a step's result, and later steps that go on from it.

A model whose rate has fallen is good, but learns little more. Its trunk goes on as if nothing had happened: with new
text, and a fall of its own at the end (Hägele 2024, arXiv 2405.18392).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wyrmling.config import Project, TrainStep
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting, CorruptArtifact

if TYPE_CHECKING:
    from wyrmling.model.heads import Model
    from wyrmling.train.optim import Optimizer
    from wyrmling.train.team import Team

TRUNK = "trunk"


def find(project: Project, step: TrainStep, earlier: Sequence[Artifact]) -> Artifact | None:
    """The artifact whose trunk the step goes on from; None when it names none.

    earlier  the artifacts of the project's steps before it
    Raises   BadSetting when the name or folder that the step gives has no trunk; CorruptArtifact when it was changed
    """
    if step.trunk is None:
        return None
    named = [made for made in earlier if made.path.name.rpartition("-")[0] == step.trunk]
    folder = project.root / Path(step.trunk).expanduser()
    found = named[0] if named else artifact.open_artifact(folder) if (folder / "manifest.json").is_file() else None
    if found is None or not (found.path / TRUNK).is_dir():
        missing = "has no trunk" if found is not None else "is neither an earlier train step nor a train artifact"
        raise BadSetting(
            f"trunk = {step.trunk!r} {missing}",
            where=f"train.{step.name}.trunk",
            fix="set keep_trunk = true in the step it comes from, and name that step, or the folder of its artifact",
        )
    return found


def inputs(found: Artifact) -> dict[str, str]:
    """What identifies a trunk in a manifest."""
    files = sorted(name for name in found.manifest["files"] if name.startswith(f"{TRUNK}/"))
    return {name: str(found.manifest["files"][name]["sha256"]) for name in files if name.endswith(".safetensors")}


def go_on(
    found: Path, model: Model, optimizer: Optimizer, step: TrainStep, team: Team, *, tokenizer_sha256: str
) -> None:
    """Give the model and the optimizer the state of the trunk in the artifact `found`.

    team     has placed the model; any number of processes may have left the trunk
    Raises   BadSetting when it belongs to other parameters, another optimizer or another tokenizer
    """
    from wyrmling.model import folder
    from wyrmling.train import shards, trainable

    about = folder.about(found / "model")
    if about is None or about.tokenizer_sha256 != tokenizer_sha256:
        raise BadSetting(
            f"the trunk of {found.name} was trained with another tokenizer than this project's",
            where=f"train.{step.name}.trunk",
            fix="set model.base to the artifact that the trunk comes from: that brings its tokenizer",
        )
    state = shards.load_newest(found / TRUNK, team, base="")
    try:
        if state is None:
            raise CorruptArtifact("there is no readable state", where=found)
        state = shards.localised(state, team)
        trainable.restore(model, state.model)
        optimizer.load(state.optimizer)
    except CorruptArtifact as error:
        raise BadSetting(
            f"the trunk of {found.name} can't be continued by this step: {error.what}",
            where=f"train.{step.name}.trunk",
            fix="use the objective and the optimizer of the step that it comes from",
        ) from error
