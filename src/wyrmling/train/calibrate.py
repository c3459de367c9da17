"""A few real steps of each training step, on this machine and on the real rows: what a forecast can be measured by.

The steps are done by the same loop as in training, in a folder that is thrown away; what they show is start, step,
look, end and memory. No torch is imported before they begin.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from wyrmling.config import Budget, Project, TrainStep
from wyrmling.core import hardware, steps
from wyrmling.core.artifact import Artifact
from wyrmling.tokenizer import folder
from wyrmling.train import run
from wyrmling.train.forecast import Quantity
from wyrmling.train.sizing import Derived
from wyrmling.train.workload import Work, seconds

# Steps that are timed, after one that warms up: at least three, more of short ones until this much time has passed, and
# never more than a tenth of the run.
LEAST_STEPS, TIMED_SECONDS, SHARE = 3, 6.0, 0.1
# Batches of ever other sizes leave holes in the heap: memory grows for a while, and settles. After so many steps it has
# grown by 63 % of what it will (measured with 150 steps of a masked model, docs/plan.md).
SETTLING_STEPS = 30.0


@dataclass(frozen=True)
class Calibration:
    """What a few real steps showed; times in seconds, `wh` and `memory_gb` of the whole of it.

    start   before the first step: rows, checks, model
    end     after the last look: checkpoint, model folder, probes
    grown   GB by which the peak memory rose from the first step to the last
    """

    steps: int
    start: float
    step: float
    look: float
    end: float
    whole: float
    wh: float
    memory_gb: float
    grown: float

    def still_to_grow(self, steps: int) -> float:
        """GB by which so many steps let the memory grow beyond what these few showed."""
        if steps <= self.steps or self.steps < 2:
            return 0.0
        seen = 1 - math.exp(-(self.steps - 1) / SETTLING_STEPS)
        return self.grown / seen * (math.exp(-self.steps / SETTLING_STEPS) - math.exp(-steps / SETTLING_STEPS))

    def run(self, derived: Derived, before_gb: float = 0.0) -> dict[Quantity, float]:
        """Minutes, peak memory and energy of the whole training step at this pace.

        before_gb   by how much more the steps before it let the memory grow than they did while calibrating
        """
        looks = math.ceil(derived.steps / derived.evaluate_every)
        total = self.start + derived.steps * self.step + looks * self.look + self.end
        kwh = self.wh / 1000 * total / self.whole
        memory = self.memory_gb + before_gb + self.still_to_grow(derived.steps)
        return {"minutes": total / 60, "memory_gb": memory, "kwh": kwh}


def calibrate(
    project: Project, data: Artifact, tokens: Artifact, works: dict[str, tuple[Derived, Work]]
) -> Iterator[tuple[str, Calibration]]:
    """The calibration of every training step in order, each from the model that the few steps before it left.

    works   the numbers and the work of each step, of the rows in `tokens`
    """
    project.runs.mkdir(parents=True, exist_ok=True)
    base = folder.locate_base(project)
    with tempfile.TemporaryDirectory(dir=project.runs, prefix=".calibration-") as place:
        made: list[Artifact] = []
        for step in project.steps:
            brief = _brief(step, *works[step.name])
            made.append(run.run(_unlimited(project, Path(place)), data, tokens, brief, base, earlier=made))
            base = made[-1].path / "model"
            yield step.name, measured(made[-1])


def _brief(step: TrainStep, derived: Derived, work: Work) -> TrainStep:
    """The step with as few updates as tell its time, and one look after them."""
    one = seconds(work, hardware.rates(work.device, use_threads=work.threads)) / derived.steps
    timed = max(LEAST_STEPS, min(math.ceil(TIMED_SECONDS / one), int(SHARE * derived.steps)))
    few = min(1 + timed, derived.steps)
    changes = {"steps": few, "evaluate_every": few, "patience": None, "save_every_seconds": math.inf, "track": ()}
    return step.model_copy(update=changes)


def _unlimited(project: Project, place: Path) -> Project:
    """The project with its results elsewhere, and without the limits that would end it early."""
    objective = project.settings.objective
    budget = Budget(memory_gb=objective.budget.memory_gb)
    settings = project.settings.model_copy(update={"objective": objective.model_copy(update={"budget": budget})})
    return Project(root=place, settings=settings)


def measured(made: Artifact) -> Calibration:
    """What the journal and the cost of a brief training step say."""
    done, looks = steps.read(made.path / steps.STEPS_FILE)
    ends = [line["seconds"] for line in done]
    step = fmean(_middle([after - before for before, after in pairwise(ends)] or ends))
    look = looks[-1]["look_seconds"] if looks else 0.0
    cost = made.cost
    return Calibration(
        steps=len(done),
        start=max(0.0, ends[0] - step),
        step=step,
        look=look,
        end=max(0.0, cost["seconds"] - ends[-1] - look),
        whole=cost["seconds"],
        wh=cost["wh"],
        memory_gb=cost["peak_memory_gb"],
        grown=done[-1]["memory_gb"] - done[0]["memory_gb"],
    )


def _middle(values: list[float]) -> list[float]:
    """The values without the largest and the smallest tenth."""
    cut = len(values) // 10
    return sorted(values)[cut : len(values) - cut]
