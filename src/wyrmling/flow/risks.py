"""risks: what a model may do wrong beside its task, as rates with intervals; and planting the secrets for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wyrmling.config import Project
from wyrmling.core.errors import UsageError
from wyrmling.core.log import say
from wyrmling.evaluate.risks import RISKS
from wyrmling.flow import models, stages

PLANTED = 16
_NEEDED = {"canary": "canaries", "forgetting": "general"}

Said = tuple[dict[str, Any], str]


def plant(project: Project, path: Path) -> Said:
    """Write a file of secrets to be added to the sources."""
    from wyrmling.evaluate.risks import canaries

    canaries.write(path, PLANTED, project.settings.seed)
    text = (
        f"{PLANTED} secrets are in {path}. Add it to the training sources, and name it for the measure:\n\n"
        f'[data.sources.canaries]\npath = "{path}"\ntext = "text"\nsplit = "train"\n\n'
        f'[evaluate.risks]\ncanaries = "{path}"'
    )
    return {"planted": PLANTED, "path": str(path)}, text


def run(project: Project, reference: str | None, names: list[str] | None) -> Said:
    """The measures of a model, those named or all that the settings allow.

    Raises   UsageError for a measure that this task has not
    """
    task = project.settings.objective.task
    unknown = [name for name in names or () if name not in RISKS[task]]
    if unknown or not RISKS[task]:
        raise UsageError(
            f"{', '.join(unknown) or 'nothing'} can't be measured for the task {task!r}",
            fix=f"use some of {', '.join(RISKS[task]) or '(none)'}",
        )
    from wyrmling.evaluate import score, tasks
    from wyrmling.evaluate.risks import examine

    wanted = names or _possible(project)
    model = stages.train(project)[-1].path / "model" if reference is None else models.resolve(project, reference)
    machine = project.settings.machine
    scorer = score.load(model, device=machine.device, threads=machine.threads)
    tasks.check_head(task, scorer.model.head_name, model)
    found = examine.scores(project, scorer, tasks.from_artifact(stages.data(project), task), wanted)
    document = {name: one.as_dict() for name, one in found.items()}
    return {"model": str(model), "risks": document}, "\n".join(
        f"{name:14} {one.value:8.4f} ({one.low:.4f} to {one.high:.4f}), n {one.n:,}\n               {one.note}"
        for name, one in found.items()
    )


def _possible(project: Project) -> list[str]:
    """The measures whose files are named; the others are said."""
    settings, task = project.settings.evaluate.risks, project.settings.objective.task
    left_out = {name for name in RISKS[task] if name in _NEEDED and getattr(settings, _NEEDED[name]) is None}
    if project.settings.model.base == "scratch" and settings.base is None and "forgetting" in RISKS[task]:
        left_out.add("forgetting")
    for name in sorted(left_out):
        say(
            f"{name} is not measured: set evaluate.risks.{_NEEDED[name]}"
            + (" and base" if name == "forgetting" else "")
        )
    return [name for name in RISKS[task] if name not in left_out]
