"""`wyrmling objective check`: before training, whether the conditions can be shown, and whether to train at all.

It reads the rows as the data stage keeps them, fits the cheap baselines, and asks the plan what the budget allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from wyrmling.config import Project
from wyrmling.core import artifact
from wyrmling.flow import plan, stages
from wyrmling.flow.plan import Fit
from wyrmling.flow.summary import aligned

if TYPE_CHECKING:
    from wyrmling.evaluate.accept import Criterion
    from wyrmling.evaluate.slices import Columns
    from wyrmling.evaluate.tasks import Rows

Outlook = Literal["can pass", "cannot pass", "too few rows", "later"]
EXIT_CODES: dict[Outlook, int] = {"cannot pass": 3, "too few rows": 4, "can pass": 0, "later": 0}
# assumption: two models of one task disagree about every tenth row; Banking77's linear model and a tuned one do.
DISCORDANT = 0.1
# Fewer rows teach or test a label badly (assumptions, said as warnings only).
FEW_TRAIN, FEW_TEST = 30, 20


@dataclass(frozen=True)
class Prospect:
    """What the test rows can show about one condition. rows_needed: None when there are enough, or none would do."""

    criterion: str
    outlook: Outlook
    reason: str
    rows: int
    rows_needed: int | None = None


@dataclass(frozen=True)
class Check:
    """What the check found. baselines: verdict of each on the conditions of quality, cheapest first."""

    prospects: tuple[Prospect, ...]
    fits: tuple[Fit, ...]
    baselines: Mapping[str, str]
    warnings: tuple[str, ...]
    rows: int
    digest: str

    @property
    def exit_code(self) -> int:
        """3 when a condition can't pass or the budget can't hold, 4 when the rows are too few to tell, else 0."""
        codes = {EXIT_CODES[one.outlook] for one in self.prospects}
        if 3 in codes or any(fit.status == "does not fit" for fit in self.fits):
            return 3
        return max(codes, default=0)

    def document(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "objective": self.digest,
            "accept": [asdict(one) for one in self.prospects],
            "budget": [fit.document() for fit in self.fits],
            "baselines": dict(self.baselines),
            "warnings": list(self.warnings),
            "exit_code": self.exit_code,
        }

    def text(self) -> str:
        lines = [f"{self.rows:,} test rows; objective {self.digest[:12]}"]
        lines += [f"{one.outlook:<13} {one.criterion}: {one.reason}" for one in self.prospects]
        if not self.prospects:
            lines.append('objective.accept names no condition, such as "macro_f1 >= 0.85"')
        if self.fits:
            lines += aligned([(fit.limit, f"{fit.value:g}: {fit.status}") for fit in self.fits]).splitlines()
        lines += [f"baseline {name}: {status}" for name, status in self.baselines.items()]
        passing = [name for name, status in self.baselines.items() if status == "PASS"]
        if passing:
            lines.append(
                f"{passing[0]} meets the conditions of quality already: the cheaper answer may be all you need"
            )
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def check(project: Project) -> Check:
    """Look at the test rows, the budget and the baselines; makes the data artifact when it is not there, no model.

    Raises   BadSetting for a bad line of objective.accept; BadInput without test rows
    """
    from wyrmling.evaluate import accept, measure, neighbours, slices, tasks

    settings = project.settings
    task = settings.objective.task
    accept.of(settings)
    planned = plan.plan(project)
    data = stages.data(project)
    rows = tasks.from_artifact(data, task)
    names = json.loads((data.path / "labels.json").read_text(encoding="utf-8"))
    near = neighbours.find([tasks.text_of(row) for row in rows.train], [tasks.text_of(row) for row in rows.test])
    columns = slices.columns(rows.test, near.flags)
    values = slices.values_of(columns)
    criteria = accept.parse(settings.objective.accept, task, accept.labels_in(data, task), values)
    criteria = accept.expand(criteria, slices.large(columns))
    counts = measure.rows_by_label(rows.test, task)
    by_name = counts | slices.rows_by_value(columns)
    prospects = tuple(_prospect(one, accept.rows_of(one, len(rows.test), by_name), len(counts)) for one in criteria)
    # A condition without rows can be asked of nothing.
    asked = settings.evaluate.baselines and all(one.rows for one in prospects)
    return Check(
        prospects=prospects,
        fits=planned.fits,
        baselines=_baselines(project, criteria, rows, columns, names) if asked else {},
        warnings=tuple(_warnings(rows, task, near.flags)),
        rows=len(rows.test),
        digest=artifact.digest(settings.objective.model_dump(mode="json")),
    )


def _prospect(criterion: Criterion, n: int, labels: int) -> Prospect:
    """What n test rows can show about a condition."""
    from wyrmling.evaluate import accept, metrics
    from wyrmling.evaluate.outcomes import MIN_ROWS_PER_CLASS

    if criterion.point:
        return Prospect(criterion.text, "later", "decided on the point value, whatever the rows can show", n)
    if criterion.metric in accept.COST:
        return Prospect(criterion.text, "later", "measured once there is a model", n)
    if n == 0:
        whose = criterion.label or "=".join(criterion.part or ())
        return Prospect(criterion.text, "cannot pass", f"no test row of {whose}", 0, 1)
    averaged = {**metrics.CLASSIFY, **metrics.TAG}.get(criterion.metric)
    if averaged is not None and averaged.per_class and criterion.part is None and n < MIN_ROWS_PER_CLASS * labels:
        needed = MIN_ROWS_PER_CLASS * labels
        reason = f"an average over {labels} labels has an interval from {needed} rows on; there are {n}"
        return Prospect(criterion.text, "too few rows", reason, n, needed)
    if criterion.against is not None:
        return _paired(criterion, n)
    if (
        not criterion.higher_is_better
        or not 0 < criterion.threshold <= 1
        or criterion.metric in metrics.LOWER_IS_BETTER
    ):
        return Prospect(criterion.text, "can pass", f"judged by {n:,} rows", n)
    return _proportion(criterion, n)


def _proportion(criterion: Criterion, n: int) -> Prospect:
    from wyrmling.evaluate import accept, power

    threshold = criterion.threshold
    truth = power.truth_to_pass(n, threshold)
    if truth is None:
        best = f"{n} rows, all right, prove at most {power.highest_provable(n):.3f}"
        if threshold >= 1:
            return Prospect(criterion.text, "cannot pass", f"{best}, and no number of rows proves 1", n)
        needed = power.rows_to_prove(threshold)
        return Prospect(criterion.text, "cannot pass", f"{best}; it needs {needed:,} rows", n, needed)
    about = "" if accept.is_proportion(criterion) else "about, as for a share of rows: "
    reason = f"{about}{n:,} rows show it in four of five tests if the truth is {truth:.3f} or more"
    return Prospect(criterion.text, "can pass", reason, n)


def _paired(criterion: Criterion, n: int) -> Prospect:
    """A condition on a difference: a gain to be found, or a loss to be ruled out."""
    from wyrmling.evaluate import accept, power

    said = "the champion" if criterion.against == accept.CHAMPION else f"the baseline {criterion.against}"
    found = power.detectable(n, DISCORDANT)
    shown = f"if one row in ten differs, {n:,} rows find a difference to {said} of {found:.3f} in four of five tests"
    margin = abs(criterion.threshold)
    if criterion.threshold < 0 and criterion.higher_is_better and margin < found:
        needed = power.rows_for_difference(margin, DISCORDANT) if margin < DISCORDANT else n
        reason = f"{shown}; to show that an equal model is not worse by {margin:g} takes about {needed:,}"
        return Prospect(criterion.text, "too few rows", reason, n, needed)
    return Prospect(criterion.text, "can pass", shown, n)


def _baselines(
    project: Project, criteria: Sequence[Criterion], rows: Rows, columns: Columns, names: Mapping[str, Sequence[str]]
) -> Mapping[str, str]:
    """The verdict of each baseline on the conditions that can be asked of it: quality, not cost, not comparisons."""
    from wyrmling.evaluate import accept, measure, metrics, systems
    from wyrmling.evaluate.outcomes import scores

    if not rows.train:
        return {}
    task, settings = project.settings.objective.task, project.settings.evaluate
    found = {}
    for name, baseline in systems.baselines_for(task, rows, names["labels"], names["tags"], settings).items():
        outcome = baseline.run(rows).outcome
        known = set(outcome.names) | set(metrics.PER_CLASS)
        asked = [one for one in criteria if one.against is None and one.metric in known]
        if len(asked) < sum(one.metric not in accept.COST and one.against is None for one in criteria) or not asked:
            continue
        found[name] = measure.judge(asked, outcome, scores(outcome), columns, {}).status
    return found


def _warnings(rows: Rows, task: str, flags: Sequence[str | None]) -> Iterator[str]:
    """What makes the test weak: thin labels, and rows that stand in training too."""
    from wyrmling.evaluate import measure

    train, test = measure.rows_by_label(rows.train, task), measure.rows_by_label(rows.test, task)
    for what, counts, few in (("training", train, FEW_TRAIN), ("test", test, FEW_TEST)):
        thin = sorted(label for label in {**train, **test} if counts.get(label, 0) < few)
        if thin:
            named = ", ".join(f"{label} {counts.get(label, 0)}" for label in thin[:8])
            yield f"{len(thin)} labels have under {few} {what} rows: {named}{' …' if len(thin) > 8 else ''}"
    same, near = flags.count("same"), flags.count("near")
    if same or near:
        yield f"of the test rows {same:,} stand in training too, and {near:,} nearly do"
