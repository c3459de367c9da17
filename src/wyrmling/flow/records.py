"""What training took beside what was forecast, kept in the project database; the next forecast is corrected by it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from wyrmling.config import Project
from wyrmling.core import hardware
from wyrmling.core.artifact import Artifact
from wyrmling.core.store import Store


def remember(project: Project, steps: Iterable[Artifact]) -> int:
    """Keep forecast and actual of the training steps that were made just now; how many those were.

    A step that was found, not made, or that has no forecast teaches nothing.
    """
    made = [step for step in steps if not step.reused and step.manifest["forecast"]]
    if not made:
        return 0
    objectives = {step.name: step.objective for step in project.steps}
    quantities = ["minutes", "kwh"]
    # On a GPU the forecast is of the board's memory, the cost of the process's.
    if hardware.device(project.settings.machine.device) == "cpu":
        quantities.append("memory_gb")
    with closing(Store.open(project.database_url)) as store:
        for step in made:
            forecast, cost, name = step.manifest["forecast"], step.cost, step.manifest["name"]
            actual = {
                "minutes": cost["seconds"] / 60,
                "kwh": cost["wh"] / 1000,
                "memory_gb": cost["peak_memory_gb"],
            }
            store.save_forecast(
                hardware.machine().id,
                f"{project.settings.name}/{name}/{objectives[name]}",
                {what: forecast[what]["closed_form"] for what in quantities},
                {what: actual[what] for what in quantities},
            )
    return len(made)
