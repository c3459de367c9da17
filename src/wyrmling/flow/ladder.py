"""`wyrmling ladder`: every way to answer, from a guess to full training, on the same test rows in one table.

Each rung is an artifact, so an unchanged one is found and a run that was cut off goes on. Those that the budget does
not allow are left out, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from wyrmling import config
from wyrmling.config import Project, TrainMethod, TrainStep
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key, write_durably
from wyrmling.core.errors import BadInput, BadSetting, NothingToLearn, UsageError
from wyrmling.core.log import say
from wyrmling.flow import plan, records, stages
from wyrmling.train.methods import METHODS

if TYPE_CHECKING:
    from wyrmling.evaluate.accept import Criterion
    from wyrmling.evaluate.ladder import Ladder, Rung
    from wyrmling.evaluate.outcomes import Outcome, Score
    from wyrmling.evaluate.tasks import Rows
    from wyrmling.evaluate.verdict import Verdict

VERSION = 1
TABLE, PAGE, MARKDOWN = "ladder.json", "ladder.html", "ladder.md"

WHAT = {
    "majority": "the most frequent label",
    "tfidf": "words and characters, a linear model",
    "frequent_tag": "the most frequent tag of each word",
    "crf": "a conditional random field",
    "bm25": "the answer to the nearest training question",
    "unigram": "frequencies of bytes",
    "five_gram": "frequencies of five bytes",
    "base": "the base model as it is",
    "zero-shot": "the base model and the names of the labels, or the bare question",
    "few-shot": "the base model and training rows that it is shown",
    "probe": "the base model, and a head that is trained",
    "freeze": "the last blocks of the base model trained",
    "lora": "low-rank corrections of the base model",
    "qlora": "the same on a base in 4 bits",
    "full": "all weights trained",
    "remote": "a model behind an API",
}
# Rungs that train or show rows to a model, by task, cheapest first.
MODELS: dict[str, tuple[str, ...]] = {
    "classify": ("zero-shot", "few-shot", "probe", "lora", "full"),
    "tag": ("probe", "lora", "full"),
    **dict.fromkeys(("answer", "summarize"), ("zero-shot", "few-shot", "lora", "full")),
    **dict.fromkeys(("complete", "chat"), ("base", "lora", "full")),
}
# Only when they are asked for by name.
EXTRA = ("freeze", "qlora")
# Of a step whose method is replaced: what suits one method and not another.
_OF_THE_METHOD = {"method", "freeze", "lora", "few_shot", "lr"}


class Remote(NamedTuple):
    """What a remote model may cost. usd: consent to send the test rows out and spend this much; None: no consent."""

    usd: float | None = None


NOTHING = Remote()


def run(project: Project, rungs: Sequence[str] | None = None, remote: Remote = NOTHING) -> tuple[Ladder, Path]:
    """The ladder of a project, and the folder that holds its table as JSON, Markdown and HTML.

    rungs    names of those to run. None: all that the task has and the budget allows
    Raises   UsageError for an unknown rung; BadSetting for a bad line of objective.accept
    """
    from wyrmling.evaluate import accept, ladder, tasks

    settings, task = project.settings, project.settings.objective.task
    accept.of(settings)
    if task in tasks.ANSWERED and settings.evaluate.answers == 0:
        what = f"the rungs of the task {task!r} are compared by their written answers, and evaluate.answers = 0"
        raise BadSetting(what, where="evaluate.answers", fix="set it to 100, for example")
    names = _names(task, rungs, remote=settings.evaluate.remote.url is not None)
    data = stages.data(project)
    rows = tasks.from_artifact(data, task)
    found: list[tuple[str, Artifact, dict[str, float]]] = []
    left_out = []
    for name in names:
        try:
            found.append((name, *_run(project, data, name, remote)))
        except _LeftOut as reason:
            say(f"{name}: left out: {reason}")
            left_out.append(ladder.LeftOut(name, str(reason)))
    if not found:
        raise UsageError("no rung was run: " + "; ".join(f"{one.name}: {one.reason}" for one in left_out))
    made = ladder.compare(task, _count(task, rows, project), _judged(project, data, rows, found), left_out)
    return made, _keep(project, made, [one for _, one, _ in found])


class _LeftOut(Exception):
    """Why a rung is not run."""


def _names(task: str, asked: Sequence[str] | None, *, remote: bool) -> list[str]:
    """The rungs to run, cheapest first. Raises UsageError naming the nearest for one that there is not."""
    from wyrmling.evaluate import accept

    usual = [*_cheap(task), *MODELS[task]]
    known = [*usual, *EXTRA, *(["remote"] if task not in ("tag", "complete", "chat") else [])]
    if asked is None:
        return usual + (["remote"] if remote and "remote" in known else [])
    for name in asked:
        if name not in known:
            what = f"the task {task!r} has no rung {name!r}{accept.nearest(name, known)}"
            raise UsageError(what, fix=f"the rungs are: {', '.join(known)}")
    return [name for name in WHAT if name in asked]


def _cheap(task: str) -> tuple[str, ...]:
    """The baselines of a task; where written answers are compared, those that write."""
    from wyrmling.evaluate import accept, tasks

    return ("bm25",) if task in tasks.ANSWERED else accept.BASELINES[task]


def _run(project: Project, data: Artifact, name: str, remote: Remote) -> tuple[Artifact, dict[str, float]]:
    """The artifact with a rung's answers, and what it took to get ready. Raises _LeftOut."""
    if name in _cheap(project.settings.objective.task):
        from wyrmling.evaluate import cheap

        made = cheap.run(project, data, name)
        return made, dict(made.figures["making"])
    if name == "remote":
        return _remote(project, data, remote)
    return _model(project, data, name)


# ---- rungs with a model ----


def _model(project: Project, data: Artifact, name: str) -> tuple[Artifact, dict[str, float]]:
    from wyrmling.evaluate import run as evaluate
    from wyrmling.tokenizer import folder
    from wyrmling.tokenizer import run as tokenizer
    from wyrmling.train import run as train

    if name == "base":
        base = folder.locate_base(project)
        if base is None:
            raise _LeftOut('model.base is "scratch": there is no model before training')
        return evaluate.run(_unjudged(project), data, base), dict.fromkeys(("seconds", "wh", "usd"), 0.0)
    asked = with_method(project, name)
    _afford(asked)
    try:
        steps = train.run_all(asked, data, tokenizer.run(asked, data))
    except (BadSetting, NothingToLearn) as error:
        # What one method can't do is no reason to lose the others.
        raise _LeftOut(error.what) from error
    records.remember(asked, steps)
    made = evaluate.run(_unjudged(asked), data, steps[-1].path / "model")
    making = {what: sum(float(step.cost[what]) for step in steps) for what in ("seconds", "wh", "usd")}
    return made, making


def with_method(project: Project, rung: str) -> Project:
    """The project with another method in its last training step; its own one as it is.

    A number of passes is kept by methods of as many: a probe's cost next to nothing, and it wants ten times as many.
    Raises   _LeftOut when there is no trained model to begin with
    """
    *before, last = project.steps
    few_shot = rung in ("zero-shot", "few-shot")
    method = cast(TrainMethod, "few-shot" if few_shot else rung)
    if last.method == method and rung != "zero-shot":
        return project
    if not before and method != "full" and project.settings.model.base == "scratch":
        raise _LeftOut('it needs a trained model to start from, and model.base is "scratch"')
    other = set(_OF_THE_METHOD)
    if METHODS[method].passes != METHODS[last.method].passes:
        other |= {"epochs", "steps", "batch_tokens"}
    if few_shot or method == "probe":
        # A head is of no use to what shows rows, nor to what learns one itself.
        before = [step for step in before if step.method != "probe"]
    own = {name: getattr(last, name) for name in last.model_fields_set - other}
    if few_shot:
        own = {name: value for name, value in own.items() if name in ("name", "objective", "sources")}
    shown: dict[str, Any] = {"few_shot": config.FewShot(examples=0)} if rung == "zero-shot" else {}
    step = TrainStep(**own, **shown, method=method)
    settings = project.settings.model_copy(update={"train": (*before, step)})
    return Project(project.root, settings)


def _afford(project: Project) -> None:
    """Raises _LeftOut when the forecast says that the budget cannot hold, or that there is nothing to learn from."""
    try:
        fits = plan.plan(project).fits
    except BadSetting as error:
        raise _LeftOut(error.what) from error
    for fit in fits:
        if fit.status == "does not fit":
            low, high = fit.forecast.low, fit.forecast.high
            raise _LeftOut(f"{fit.limit} is {fit.value:g}, and it would take {low:.2g} to {high:.2g}")


def _unjudged(project: Project) -> Project:
    """Without conditions and baselines: the ladder has both."""
    settings = project.settings
    objective = settings.objective.model_copy(update={"accept": ()})
    evaluate = settings.evaluate.model_copy(update={"baselines": False})
    return Project(project.root, settings.model_copy(update={"objective": objective, "evaluate": evaluate}))


def _remote(project: Project, data: Artifact, asked: Remote) -> tuple[Artifact, dict[str, float]]:
    from wyrmling.evaluate import remote

    settings = project.settings.evaluate.remote
    if settings.url is None or settings.model is None:
        raise _LeftOut("set evaluate.remote.url and evaluate.remote.model")
    estimate = remote.estimate(project, data)
    if asked.usd is None or estimate.usd > asked.usd:
        raise _LeftOut(
            f"it would send {estimate.rows:,} test rows and some training rows to {settings.url} and cost about "
            f"${estimate.usd:.2f}: allow that with --spend {max(0.01, estimate.usd * 1.2):.2f}"
        )
    try:
        made = remote.run(project, data, limit_usd=asked.usd)
    except BadInput as error:
        raise _LeftOut(error.what) from error
    return made, dict.fromkeys(("seconds", "wh", "usd"), 0.0)


# ---- the table ----


def _count(task: str, rows: Rows, project: Project) -> int:
    """Test rows that are compared."""
    from wyrmling.evaluate import tasks

    return min(len(rows.test), project.settings.evaluate.answers) if task in tasks.ANSWERED else len(rows.test)


def _judged(
    project: Project, data: Artifact, rows: Rows, found: Sequence[tuple[str, Artifact, dict[str, float]]]
) -> list[Rung]:
    """The rungs with their answers read back, each with its verdict on the conditions."""
    from wyrmling.evaluate import accept, kept, ladder, measure, neighbours, slices, tasks
    from wyrmling.evaluate.outcomes import Score as Measured

    settings, task = project.settings, project.settings.objective.task
    names = json.loads((data.path / "labels.json").read_text(encoding="utf-8"))
    columns_of = {name: kept.read(made, rows.test) for name, made, _ in found}
    outcomes = kept.outcomes(task, rows, columns_of, names["labels"], settings.evaluate.resamples)
    rungs = []
    for name, made, making in found:
        measured = {metric: Measured(**score) for metric, score in made.figures["metrics"].items()}
        cheap = name in _cheap(task)
        rungs.append(ladder.Rung(name, WHAT[name], cheap, outcomes[name], measured, making, made.id))
    if not settings.objective.accept:
        return rungs
    near = neighbours.find([tasks.text_of(row) for row in rows.train], [tasks.text_of(row) for row in rows.test])
    columns = slices.columns(rows.test, near.flags)
    labels = accept.labels_in(data, task)
    criteria = accept.parse(settings.objective.accept, task, labels, slices.values_of(columns))
    criteria = accept.expand(criteria, slices.large(columns))
    beside = {rung.name: rung.outcome for rung in rungs if rung.cheap}

    def judge(asked: Sequence[Criterion], outcome: Outcome, measured: Mapping[str, Score]) -> Verdict:
        return measure.judge(asked, outcome, measured, columns, beside, (accept.CHAMPION,))

    return [ladder.judged(rung, criteria, judge, tuple(beside)) for rung in rungs]


def _keep(project: Project, made: Ladder, answers: Sequence[Artifact]) -> Path:
    """The table as an artifact of the rungs that it shows."""
    from wyrmling.evaluate import ladder_page

    goal = project.settings.objective.goal
    key = Key(
        "ladder",
        f"{project.settings.name}-table",
        inputs={f"{one.stage}-{one.manifest['name']}-{one.id}": one.id for one in answers},
        settings={"objective": project.settings.objective.model_dump(mode="json"), "left_out": _reasons(made)},
        version=VERSION,
    )
    if (done := artifact.find(project.runs, key)) is not None:
        return done.path
    with artifact.create(project.runs, key, project.meter()) as draft:
        text = json.dumps(made.document(), indent=1, ensure_ascii=False)
        write_durably(draft.path / TABLE, text.encode())
        write_durably(draft.path / MARKDOWN, ladder_page.markdown(made).encode())
        page = ladder_page.page_of(made, goal=goal, notes=list(_notes(answers)))
        write_durably(draft.path / PAGE, page.encode())
        draft.figures = {"recommended": made.recommended, "why": made.why, "rungs": [x.rung.name for x in made.lines]}
    return draft.done.path


def _reasons(made: Ladder) -> list[list[str]]:
    return [[one.name, one.reason] for one in made.left_out]


def _notes(answers: Sequence[Artifact]) -> Iterator[str]:
    for one in answers:
        yield from one.figures["notes"]


def answer(project: Project, rungs: Sequence[str] | None, remote: Remote) -> tuple[dict[str, Any], str]:
    """What the verb prints."""
    from wyrmling.evaluate import ladder_page

    made, folder = run(project, rungs, remote)
    files = {"report": str(folder / PAGE), "markdown": str(folder / MARKDOWN)}
    return made.document() | files, f"{ladder_page.text(made)}\n  {folder / PAGE}"
