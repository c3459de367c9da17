"""`wyrmling tune`: real trainings over named settings, judged on the validation rows; a killed search goes on.

Data and tokenizer are shared by all trials that leave them as they are, and so are the train steps before the first
one that is searched. What a trial trains lies in its own folder; only the best trained model stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wyrmling.config import Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact
from wyrmling.core.energy import SPENT
from wyrmling.core.errors import WyrmlingError
from wyrmling.core.log import say
from wyrmling.flow import search_space, trials
from wyrmling.flow.sampler import Asked, Sampler
from wyrmling.flow.search_space import Space
from wyrmling.flow.trials import Folder, Record

if TYPE_CHECKING:
    from wyrmling.train.assemble import Look
    from wyrmling.train.rivals import Comparison, RowScores

# A trial is given up when it is worse than the best one at the same look with this p-value; it is asked at every look.
SURELY = 0.01
TEXT = ("causal", "sft")


class GivenUp(WyrmlingError):
    """A trial is not worth going on with; `over` ends the search too."""

    def __init__(self, why: str, *, over: bool = False) -> None:
        super().__init__(why)
        self.over = over


@dataclass(frozen=True)
class Judge:
    """The figure of the validation rows that decides."""

    name: str
    higher_is_better: bool

    def better(self, new: float, old: float | None) -> bool:
        return old is None or (new > old if self.higher_is_better else new < old)


def judge_of(project: Project, space: Space) -> Judge:
    """What the last train step is judged by; bits per byte where trials may differ in their tokens."""
    from wyrmling.train import judges

    step = project.steps[-1]
    if step.objective in TEXT and any(key.startswith(("tokenizer.", "data.", "model.base")) for key in space):
        return Judge("bits_per_byte", False)
    return Judge(*judges.judge_of(project.settings, step))


def tune(project: Project, over: Mapping[str, str]) -> Search:
    """Search, or go on with a search that was cut off; what it found.

    over     settings and where to look, beside those of [tune.over]
    Raises   UsageError for settings that can't be searched; Interrupted after a signal, with the work saved
    """
    space = search_space.parse({**project.settings.tune.over, **over})
    search_space.check(project, space)
    search = Search(project, space)
    search.run()
    return search


class Search:
    """One search: its folder, its trials, and what they have cost."""

    def __init__(self, project: Project, space: Space) -> None:
        self.project, self.space = project, space
        self.judge = judge_of(project, space)
        self.folder = project.runs / "tune" / f"{project.settings.name}-{self._id()}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stopped: str | None = None

    def _id(self) -> str:
        """The same for the same question: the settings, and where to look. How long to look is not part of it."""
        settings = self.project.settings.model_dump(mode="json", exclude={"tune", "serve", "evaluate", "database"})
        return artifact.digest([settings, {key: repr(one) for key, one in self.space.items()}])[:8]

    @property
    def records(self) -> list[Record]:
        return trials.records(self.folder)

    @property
    def has_paired_scores(self) -> bool:
        """Whether each validation row earns something of its own."""
        from wyrmling.train.rivals import PAIRED

        return self.project.steps[-1].objective in PAIRED

    @property
    def best(self) -> Record | None:
        """The best trial that was trained to its end."""
        found: Record | None = None
        for record in self.records:
            ended = record.end == "done" and record.value is not None
            if ended and self.judge.better(record.value or 0.0, found.value if found else None):
                found = record
        return found

    def spent(self, *, but: str = "") -> dict[str, float]:
        """What all trials have cost, all but one."""
        return {name: sum(record.spent[name] for record in self.records if record.name != but) for name in SPENT}

    def run(self) -> None:
        """Train with the settings as they are, then trial after trial until their number or the budget is reached."""
        asked, seed = self.project.settings.tune, self.project.settings.seed
        better = self.judge.higher_is_better
        sampler = Sampler(self.folder / "study.db", self.space, seed=seed, higher_is_better=better)
        if self._ended({}) is None:
            say("tune: the settings as they are")
            self._train({}, lambda look, value: False)
        while self.stopped is None and sampler.tried < asked.trials:
            if (limit := self._passed_by_another()) is not None:
                self.stopped = f"tune.budget.{limit} has no room for another trial"
                break
            self._try(sampler, sampler.ask())
        if self.best is not None:
            Folder.of(self.folder, self.best.settings).hand_over(self.project.runs)

    def _try(self, sampler: Sampler, asked: Asked) -> None:
        record = self._ended(asked.settings)
        if record is None:
            settings = "  ".join(f"{key}={value}" for key, value in asked.settings.items())
            say(f"tune: trial {sampler.tried + 1} of {self.project.settings.tune.trials}: {settings}")
            record = self._train(asked.settings, lambda look, value: sampler.falls_behind(asked, look, value))
        if record.end == "done" and record.value is not None:
            sampler.done(asked, record.value)
        elif record.end == "refused":
            sampler.refused(asked)
        elif record.end == "given up":
            sampler.given_up(asked)

    def _ended(self, settings: Mapping[str, str]) -> Record | None:
        """The record of a trial that was tried before; None for one that is new, or that the budget cut off."""
        record = Folder.of(self.folder, settings).record()
        return None if record is None or record.end == "cut off" else record

    def _passed_by_another(self) -> str | None:
        """The limit that a trial as long as those before would pass."""
        from wyrmling.train.pace import limit_passed

        ended = [record.spent["seconds"] for record in self.records if record.spent["seconds"]]
        mean = sum(ended) / len(ended) if ended else 0.0
        spent = self.spent()
        return limit_passed(self.project.settings.tune.budget, spent, spent, mean)

    def _train(self, settings: Mapping[str, str], falls_behind: Callable[[int, float], bool]) -> Record:
        """One trial from start to end, and its record."""
        folder = Folder.of(self.folder, settings)
        folder.path.mkdir(parents=True, exist_ok=True)
        before = self.best
        watch = _Watch(self, folder, settings, before, falls_behind)
        try:
            made = list(self._steps(settings, folder, watch))
        except GivenUp as given_up:
            self.stopped = given_up.what if given_up.over else None
            record = watch.record("cut off" if given_up.over else "given up", given_up.what)
        except WyrmlingError as error:
            if error.exit_code != 1 or not settings:
                raise
            record = watch.record("refused", error.what)
        else:
            record = replace(watch.record("done"), spent=_spent(made, folder))
        self._keep_the_better(folder, record, before)
        say(f"  {record.end}: {shown(record.value)} {self.judge.name}" + (f" ({record.why})" if record.why else ""))
        return folder.end(record)

    def _keep_the_better(self, folder: Folder, record: Record, before: Record | None) -> None:
        """Of two trained models one stays; what was cut off stays to be taken up again."""
        if record.end == "cut off":
            return
        won = record.end == "done" and record.value is not None
        if not won or (before is not None and not self.judge.better(record.value or 0.0, before.value)):
            folder.forget_models()
        elif before is not None:
            Folder.of(self.folder, before.settings).forget_models()

    def _steps(self, settings: Mapping[str, str], folder: Folder, watch: _Watch) -> Iterator[Artifact]:
        """The artifacts of the train steps; those before the first searched one lie in the project's results."""
        from wyrmling.flow import stages
        from wyrmling.tokenizer import folder as tokenizers
        from wyrmling.train import run

        trial = self.project.with_settings([f"{key}={value}" for key, value in settings.items()])
        data, tokens = stages.data(trial), stages.tokenizer(trial)
        base = tokenizers.locate_base(trial)
        own, made = Project(folder.path, trial.settings), list[Artifact]()
        for number, step in enumerate(trial.steps):
            place = trial if number < self._first_searched() else own
            on_look = watch.look if number == len(trial.steps) - 1 else None
            made.append(run.run(place, data, tokens, step, base, earlier=made, on_look=on_look))
            base = made[-1].path / "model"
            yield made[-1]

    def _first_searched(self) -> int:
        """The number of the first train step that is not the same in all trials."""
        names = [step.name for step in self.project.steps]
        parts = [key.split(".") for key in self.space]
        return min(names.index(part[1]) if part[0] == "train" and part[1] in names else 0 for part in parts)

    def compared(self) -> Comparison | None:
        """The best trial against the settings as they are, on the same validation rows."""
        from wyrmling.train.rivals import compare

        best, present = self.best, Folder.of(self.folder, {}).record()
        if best is None or present is None or not best.settings:
            return None
        ours, theirs = (Folder.of(self.folder, one.settings).rows(one.best_look) for one in (best, present))
        return None if ours is None or theirs is None else compare(ours, theirs)


class _Watch:
    """What happens at each look of a trial: its figure and scores are kept, and it may be given up."""

    def __init__(
        self,
        search: Search,
        folder: Folder,
        settings: Mapping[str, str],
        best: Record | None,
        falls_behind: Callable[[int, float], bool],
    ) -> None:
        self.search, self.folder, self.settings = search, folder, dict(settings)
        self.best, self.falls_behind = best, falls_behind
        # A trial that was cut off had looks before.
        self.curve: dict[int, float] = folder.looks()
        self.spent: Mapping[str, float] = dict.fromkeys(SPENT, 0.0)
        self.so_far = search.spent(but=folder.path.name)

    def look(self, look: Look) -> None:
        """Raises GivenUp."""
        value = look.figures.get(self.search.judge.name)
        self.spent = look.spent
        if value is None:
            return
        self.curve[look.number] = value
        rows = look.rows() if self.search.has_paired_scores else None
        self.folder.keep(look.number, self.curve, rows)
        if (limit := self._limit_passed()) is not None:
            raise GivenUp(f"tune.budget.{limit} is used up", over=True)
        if not self.settings or not self.search.project.settings.tune.prune:
            return
        if self.falls_behind(look.number, value):
            raise GivenUp(f"behind most others at look {look.number}")
        if (against := self._surely_worse(look.number, rows)) is not None:
            raise GivenUp(
                f"surely behind the best at look {look.number}: {against.difference:+.4f} a target, "
                f"p {against.p:.2g} ({against.test}, {against.rows} rows)"
            )

    def _limit_passed(self) -> str | None:
        from wyrmling.train.pace import limit_passed

        used = {name: self.so_far[name] + self.spent[name] for name in SPENT}
        return limit_passed(self.search.project.settings.tune.budget, used, self.spent, 0.0)

    def _surely_worse(self, look: int, rows: RowScores | None) -> Comparison | None:
        from wyrmling.train.rivals import compare

        if self.best is None or rows is None:
            return None
        theirs = Folder.of(self.search.folder, self.best.settings).rows(look)
        found = None if theirs is None else compare(rows, theirs)
        return found if found is not None and found.difference < 0 and found.p < SURELY else None

    def record(self, end: trials.End, why: str = "") -> Record:
        """The trial as it stands; its value is that of the best look."""
        best_look = 0
        for number, value in self.curve.items():
            # As in training, the later one of equals.
            if not best_look or not self.search.judge.better(self.curve[best_look], value):
                best_look = number
        curve = tuple(self.curve[number] for number in sorted(self.curve))
        best = self.curve.get(best_look)
        return Record(self.folder.path.name, self.settings, end, best, curve, best_look, why, dict(self.spent))


def _spent(made: list[Artifact], folder: Folder) -> dict[str, float]:
    """What the train steps of a trial cost; shared ones only where they were made for it."""
    own = [one for one in made if not one.reused or one.path.is_relative_to(folder.path)]
    return {name: sum(float(one.cost[name]) for one in own) for name in SPENT}


def shown(value: float | None) -> str:
    """A figure for people."""
    return "none" if value is None else f"{value:.4f}"
