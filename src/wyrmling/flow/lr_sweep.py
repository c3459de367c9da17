"""`wyrmling tune --find-lr`: a sweep of the learning rate of one train step, and its curve."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import UsageError
from wyrmling.core.log import say

if TYPE_CHECKING:
    from wyrmling.train.lr_finder import Sweep


def answer(project: Project, name: str | None) -> tuple[dict[str, Any], str]:
    """Sweep the step of this name, or the last; the suggestion, and where the curve is.

    The steps before it are trained first, where they are not there yet: it starts from what they left.
    Raises   UsageError when there is no such step
    """
    from wyrmling.train.lr_finder import sweep

    names = [step.name for step in project.steps]
    if name is not None and name not in names:
        raise UsageError(f"there is no train step {name!r}", fix=f"the steps of this project are: {', '.join(names)}")
    number = len(names) - 1 if name is None else names.index(name)
    found = sweep(_job(project, number))
    page, table = _write(project, names[number], found)
    document = {
        "step": names[number],
        "suggested": found.suggested,
        "lowest": found.lowest,
        "diverged": found.diverged,
        "rates": found.rates,
        "losses": found.losses,
        "plot": str(page),
        "table": str(table),
    }
    ended = f"too large from {found.rates[-1]:.2g} on" if found.diverged else "the loss stayed low to the end"
    lines = [
        f"train.{names[number]}: the loss falls fastest at {found.suggested:.2g}, is lowest at "
        f"{found.lowest:.2g}; {ended}",
        f"try it: wyrmling train --set train.{names[number]}.lr={found.suggested:.2g}",
        f"plot {page}",
    ]
    return document, "\n".join(lines)


def _job(project: Project, number: int) -> Any:
    from wyrmling.flow import stages
    from wyrmling.tokenizer import folder
    from wyrmling.train import run
    from wyrmling.train.assemble import Job

    data, tokens = stages.data(project), stages.tokenizer(project)
    base, made = folder.locate_base(project), list[Artifact]()
    for step in project.steps[:number]:
        say(f"tune: train.{step.name} comes before the step that is swept")
        made.append(run.run(project, data, tokens, step, base, earlier=made))
        base = made[-1].path / "model"
    return Job(project, project.steps[number], data.id, tokens, base, first=not made, run_id="sweep")


def _write(project: Project, name: str, found: Sweep) -> tuple[Any, Any]:
    """The curve as a page and as a table."""
    from wyrmling.evaluate.charts import Curve, curves
    from wyrmling.evaluate.html import document, section

    folder = project.runs / "tune"
    folder.mkdir(parents=True, exist_ok=True)
    page, table = folder / f"lr-{name}.html", folder / f"lr-{name}.csv"
    lines = [
        Curve("loss", list(zip(found.rates, found.losses, strict=True)), False),
        Curve("averaged", list(zip(found.rates, found.averaged, strict=True)), True),
    ]
    plot = curves(lines, f"Loss of {name} over the learning rate", "learning rate", "nats per target", log=True)
    about = f'<p class="soft">Falls fastest at {found.suggested:.3g}, lowest at {found.lowest:.3g}.</p>'
    sections = [section(f"Learning rate of {name}", f"<figure>{plot}</figure>{about}")]
    page.write_text(document("Learning rate", sections), encoding="utf-8")
    with table.open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(["lr", "loss", "averaged"])
        rows.writerows(zip(found.rates, found.losses, found.averaged, strict=True))
    return page, table
