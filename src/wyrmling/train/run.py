"""The train stage: token shards and a model to start from -> a trained model folder.

This file finds finished work without loading torch; train/fit.py does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wyrmling.config import Project, TrainStep
from wyrmling.core import artifact, hardware, ranks, resolve
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.energy import SPENT
from wyrmling.evaluate import accept
from wyrmling.tokenizer import folder
from wyrmling.train import same_rows, trunk
from wyrmling.train.judges import JUDGES, judge_of

if TYPE_CHECKING:
    from wyrmling.train.assemble import Look

VERSION = 7

# Settings of a step that change how it is run, but not what comes out.
_NOT_IN_THE_RESULT = {"save_every_seconds", "keep_checkpoints", "hang_seconds", "checkpoint_activations", "track"}


def run_all(
    project: Project, data: Artifact, tokens: Artifact, only: str | None = None, *, accept_data_change: bool = False
) -> list[Artifact]:
    """The artifacts of the project's steps in order, up to the step named `only`; each starts from the one before.

    Raises   BadSetting for a condition on a label that the data does not have; else as `run`
    """
    # Else it would be said only after training, by the evaluation.
    accept.of(project.settings, accept.labels_in(data, project.settings.objective.task))
    base = folder.locate_base(project)
    made: list[Artifact] = []
    for step in project.steps:
        made.append(run(project, data, tokens, step, base, earlier=made, accept_data_change=accept_data_change))
        base = made[-1].path / "model"
        if step.name == only:
            break
    return made


def run(
    project: Project,
    data: Artifact,
    tokens: Artifact,
    step: TrainStep,
    base: Path | None,
    *,
    earlier: list[Artifact] | None = None,
    on_look: Callable[[Look], None] | None = None,
    accept_data_change: bool = False,
) -> Artifact:
    """The artifact of one step: found when nothing it depends on has changed, else trained or taken up again.

    base     the model folder to start from; None starts from random weights. A step with a trunk starts from that
    earlier  the steps before it, whose cost counts against the budget
    on_look  is told of each look at the validation rows, and may end the run by raising
    accept_data_change   begin anew where an interrupted run of this step was learning from other rows
    Raises   NothingToLearn, BadSetting before anything is trained; Interrupted (exit 75) after a signal; BadInput when
             the rows have changed under an interrupted run; BadSetting for a GPU that is not there
    """
    found = trunk.find(project, step, earlier or [])
    base = base if found is None else found.path / "model"
    key = _key(project, data, tokens, step, base, {} if found is None else trunk.inputs(found))
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    hardware.require(hardware.device(project.settings.machine.device))
    if ranks.first():
        same_rows.require(project.runs, key, accept=accept_data_change)
    from wyrmling.train import few_shot
    from wyrmling.train.assemble import Job
    from wyrmling.train.fit import fit
    from wyrmling.train.team import join

    meter = project.meter()
    open_draft = artifact.create if ranks.first() else artifact.assist
    with open_draft(project.runs, key, meter, resume=True) as draft:
        job = Job(
            project=project,
            step=step,
            data_id=data.id,
            tokens=tokens,
            base=base,
            first=not earlier,
            run_id=key.id,
            trunk=None if found is None else found.path,
            spent_before={name: sum(float(one.cost[name]) for one in earlier or []) for name in SPENT},
            on_look=on_look,
        )
        if step.method != "few-shot":
            if ranks.first():
                same_rows.remember(draft.path, key)
            fit(job, draft, meter)
        elif ranks.first():
            few_shot.fit(job, data, draft)
        if ranks.first():
            # What it was trained for; other conditions later do not make it another model.
            draft.figures["objective"] = artifact.digest(project.settings.objective.model_dump(mode="json"))
    join(hardware.device(project.settings.machine.device)).wait()
    return draft.done if ranks.first() else artifact.open_artifact(key.folder(project.runs), verify=False)


def _key(
    project: Project, data: Artifact, tokens: Artifact, step: TrainStep, base: Path | None, state: Mapping[str, str]
) -> Key:
    settings = project.settings
    inputs = {"data": data.id, "tokens": tokens.id, **state}
    if base is not None:
        inputs |= resolve.inputs(base)
    shaping: dict[str, Any] = {
        "step": step.model_dump(mode="json", exclude=_NOT_IN_THE_RESULT),
        "model": settings.model.model_dump(mode="json"),
        "objectives": [one.objective for one in project.steps],
        "task": settings.objective.task,
        "budget": settings.objective.budget.model_dump(mode="json"),
        "seed": settings.seed,
        "device": settings.machine.device,
        "dtype": settings.machine.dtype,
        "compile": settings.machine.compile,
    }
    if (judge := judge_of(settings, step).name) != JUDGES[step.objective].name:
        shaping["judge"] = judge
    return Key("train", step.name, inputs=inputs, settings=shaping, version=VERSION)
