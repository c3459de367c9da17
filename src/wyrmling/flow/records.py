"""What training took, or a few real steps of it, beside what was forecast: kept in the project database.

The next forecast on the same machine is corrected by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from wyrmling.config import Project
from wyrmling.core import hardware
from wyrmling.core.artifact import Artifact
from wyrmling.core.log import say
from wyrmling.core.store import Store
from wyrmling.train.forecast import FLOPS, Quantity


def remember(project: Project, steps: Iterable[Artifact]) -> int:
    """Keep forecast and actual of the training steps that were made just now; how many those were.

    A step that was found, not made, that has no forecast, or that ended before its last update teaches nothing;
    launched processes have kept what they made.
    """
    new = (step for step in steps if not (step.reused or step.by_others))
    made = [step for step in new if step.manifest["forecast"] and step.figures.get("stopped") is None]
    if not made:
        return 0
    objectives = {step.name: step.objective for step in project.steps}
    quantities = _quantities(project)
    with closing(Store.open(project.database_url)) as store:
        for step in made:
            forecast, cost, name = step.manifest["forecast"], step.cost, step.manifest["name"]
            actual: dict[Quantity, float] = {
                "minutes": cost["seconds"] / 60,
                "kwh": cost["wh"] / 1000,
                "memory_gb": cost["peak_memory_gb"],
            }
            store.save_forecast(
                hardware.machine().id,
                f"{project.settings.name}/{name}/{objectives[name]}",
                {what: forecast[what]["closed_form"] for what in quantities} | {FLOPS: forecast[FLOPS]["value"]},
                {what: actual[what] for what in quantities},
            )
    return len(made)


def _quantities(project: Project) -> list[Quantity]:
    """What is compared. On a GPU the forecast is of the board's memory, the cost of the process's."""
    on_cpu = hardware.device(project.settings.machine.device) == "cpu"
    return ["minutes", "kwh", "memory_gb"] if on_cpu else ["minutes", "kwh"]


def calibrate(project: Project) -> int:
    """Take a few real steps of each training step, and keep what a whole run would take at their pace; how many steps.

    Makes the data and the token store first, where they are not there yet.
    """
    from wyrmling.flow import facts, plan, stages
    from wyrmling.train import calibrate, forecast
    from wyrmling.train.workload import steady_gb

    data, tokens = stages.data(project), stages.tokenizer(project)
    known = facts.look(project)
    shape = plan.base_shape(project)
    works = forecast.works(project, known.facts, shape=shape, validation_tokens=known.validation_tokens)
    pricing, objectives = forecast.Pricing.of(project), {step.name: step.objective for step in project.steps}
    quantities = _quantities(project)
    count = 0
    with closing(Store.open(project.database_url)) as store:
        for name, found in calibrate.calibrate(project, data, tokens, works):
            derived, work = works[name]
            said, actual = forecast.step_forecast(work, pricing), found.run(derived, steady_gb(work))
            say(f"{name}: {found.steps} real steps of {found.step:.2g} s, {found.memory_gb:.2f} GB")
            store.save_forecast(
                hardware.machine().id,
                f"{project.settings.name}/{name} (calibrated)/{objectives[name]}",
                {what: said.closed_form[what] for what in quantities} | {FLOPS: said.flops},
                {what: actual[what] for what in quantities},
            )
            count += found.steps
    return count
