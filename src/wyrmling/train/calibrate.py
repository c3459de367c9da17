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
from statistics import median

from wyrmling.config import Budget, Project, TrainStep
from wyrmling.core import hardware, steps
from wyrmling.core.artifact import Artifact
from wyrmling.core.log import say
from wyrmling.tokenizer import folder
from wyrmling.train import run
from wyrmling.train.forecast import Quantity
from wyrmling.train.sizing import Derived
from wyrmling.train.workload import Work, memory_gb, room_gb, seconds

# Steps that are timed, after one that warms up: at least three, more of short ones until this much time has passed, and
# never more than a tenth of the run.
LEAST_STEPS, TIMED_SECONDS, SHARE = 3, 6.0, 0.1
# By how much what batches take beside weights and moments still grows in the heap of a CPU: whole runs meet batches of
# more shapes (six runs, benchmarks/forecast.py).
STILL_TO_GROW = 0.4
# Looks at the validation rows: the first also makes kernels for their sizes, the last tells what all others take.
LOOKS = 2


@dataclass(frozen=True)
class Calibration:
    """What a few real steps showed; times in seconds, `wh` and `memory_gb` of the whole of it.

    share   of its time that the process was not kept waiting by others; 1 where that can't be told
    start   what comes once: rows, checks, model, and what the first step and the first look took longer than others
    end     after the last look: checkpoint, model folder, probes
    """

    steps: int
    start: float
    step: float
    look: float
    end: float
    whole: float
    wh: float
    memory_gb: float
    share: float = 1.0

    def run(self, derived: Derived, steady_gb: float = math.inf) -> dict[Quantity, float]:
        """Minutes, peak memory and energy of the whole training step at this pace.

        steady_gb   of the memory, what is the same for all batches
        """
        looks = math.ceil(derived.steps / derived.evaluate_every)
        total = self.share * (self.start + derived.steps * self.step + looks * self.look + self.end)
        kwh = self.wh / 1000 * total / self.whole
        memory = self.memory_gb + STILL_TO_GROW * max(0.0, self.memory_gb - steady_gb)
        return {"minutes": total / 60, "memory_gb": memory, "kwh": kwh}


def calibrate(
    project: Project, data: Artifact, tokens: Artifact, works: dict[str, tuple[Derived, Work]]
) -> Iterator[tuple[str, Calibration]]:
    """The calibration of every training step in order, each from the model that the few steps before it left.

    It ends before a step that this machine has too little memory for.

    works   the numbers and the work of each step, of the rows in `tokens`
    """
    project.runs.mkdir(parents=True, exist_ok=True)
    base = folder.locate_base(project)
    with tempfile.TemporaryDirectory(dir=project.runs, prefix=".calibration-") as place:
        made: list[Artifact] = []
        for step in project.steps:
            derived, work = works[step.name]
            if not _fits(project, step, work):
                return
            brief = _brief(step, derived, work)
            made.append(run.run(_unlimited(project, Path(place)), data, tokens, brief, base, earlier=made))
            base = made[-1].path / "model"
            yield step.name, measured(made[-1], alone=work.device == "cpu" and work.threads == 1)


def _fits(project: Project, step: TrainStep, work: Work) -> bool:
    """Whether there is memory for the step, going by the closed form; said when there is not."""
    needed, room = memory_gb(work), room_gb(project.settings, work.device)
    if work.device == "cpu":
        room = hardware.available_memory_gb()
    if needed > room:
        say(f"{step.name}: no real steps, they would need about {needed:.2g} GB and {room:.2g} are free")
    return needed <= room


def _brief(step: TrainStep, derived: Derived, work: Work) -> TrainStep:
    """The step with as few updates as tell its time, a look in the middle of them and one at the end."""
    one = seconds(work, hardware.rates(work.device, use_threads=work.threads)) / derived.steps
    timed = max(LEAST_STEPS, min(math.ceil(TIMED_SECONDS / one), int(SHARE * derived.steps)))
    few = min(1 + timed, derived.steps)
    changes = {"steps": few, "evaluate_every": math.ceil(few / LOOKS), "save_every_seconds": math.inf}
    return step.model_copy(update={**changes, "patience": None, "track": ()})


def _unlimited(project: Project, place: Path) -> Project:
    """The project with its results elsewhere, and without the limits that would end it early."""
    objective = project.settings.objective
    budget = Budget(memory_gb=objective.budget.memory_gb)
    settings = project.settings.model_copy(update={"objective": objective.model_copy(update={"budget": budget})})
    return Project(root=place, settings=settings)


def measured(made: Artifact, *, alone: bool = False) -> Calibration:
    """What the journal and the cost of a brief training step say.

    alone   one thread did the work: on a machine without other programs it takes as long as its processor time
    """
    done, looks = steps.read(made.path / steps.STEPS_FILE)
    took = {look["step"]: look["look_seconds"] for look in looks}
    ends, look = [line["seconds"] for line in done], looks[-1]["look_seconds"] if looks else 0.0
    # A line is written before the look at its step, if there is one.
    between = [after["seconds"] - before["seconds"] - took.get(before["step"], 0.0) for before, after in pairwise(done)]
    # Steps have as many tokens as each other; what else the machine does for a moment is not the run's pace.
    step = median(between or ends)
    in_between = sum(took.get(line["step"], 0.0) for line in done[:-1])
    cost = made.cost
    return Calibration(
        steps=len(done),
        start=max(0.0, ends[0] - step) + max(0.0, in_between - look * (len(took) - 1)),
        step=step,
        look=look,
        end=max(0.0, cost["seconds"] - ends[-1] - look),
        whole=cost["seconds"],
        wh=cost["wh"],
        memory_gb=cost["peak_memory_gb"],
        share=min(1.0, cost["cpu_seconds"] / cost["seconds"]) if alone else 1.0,
    )
