"""`wyrmling retrain`: what people said about answers becomes the next model, if that is no worse than the champion.

Collect accepted feedback, mix it with the old rows, check the data, train from the trunk or the champion, evaluate both
models on the same rows, and let them meet: PROMOTE, HOLD or INCONCLUSIVE, with the reasons. Killed at any time and
started again, it goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wyrmling import config
from wyrmling.config import Project, TrainStep
from wyrmling.core import artifact, resolve
from wyrmling.core.artifact import Artifact
from wyrmling.core.energy import Cost
from wyrmling.core.errors import BadInput, UsageError
from wyrmling.core.log import say, warn
from wyrmling.core.reviews import Reviews, Said
from wyrmling.core.store import ModelRecord, Store, folder_digest
from wyrmling.core.tables import Decided
from wyrmling.evaluate.verdict import EXIT_CODES, Status
from wyrmling.feedback import collect, retention
from wyrmling.flow import duel, gate, records
from wyrmling.flow.duel import Condition, Evidence
from wyrmling.tokenizer.folder import locate_base, refuse_remote

SOURCE, *PREFERENCES = collect.SOURCES
VERDICTS: dict[Status, str] = {"PASS": "PROMOTE", "FAIL": "HOLD", "INCONCLUSIVE": "INCONCLUSIVE"}


@dataclass(frozen=True)
class Outcome:
    """A finished retraining: what was learned from, what was decided and why, and what this call cost."""

    feedback: Artifact
    record: ModelRecord
    champion: ModelRecord
    status: Status
    why: str
    conditions: tuple[Condition, ...]
    evaluation: Artifact
    cost: Cost | None = None

    @property
    def exit_code(self) -> int:
        """0 promoted (or on trial), 3 the champion stays, 4 the test rows cannot tell."""
        return EXIT_CODES[self.status]

    def document(self) -> dict[str, Any]:
        conditions = [{"name": c.name, "status": c.status, "text": c.text} for c in self.conditions]
        return {
            "verdict": VERDICTS[self.status],
            "why": self.why,
            "conditions": conditions,
            "model": f"{self.record.name}:{self.record.version}",
            "champion": f"{self.champion.name}:{self.champion.version}",
            "aliases": list(self.record.aliases),
            "feedback": {**self.feedback.figures, "artifact": str(self.feedback.path)},
            "evaluation": str(self.evaluation.path),
            "cost": None if self.cost is None else self.cost.as_dict(),
        }

    def text(self) -> str:
        figures = self.feedback.figures
        lines = [
            f"learned from {figures['examples']:,} accepted examples of {figures['users']:,} users, and the old rows; "
            f"{figures['regression']:,} more are only tested on",
            f"{VERDICTS[self.status]}: {self.why}",
            *(f"  {condition.line}" for condition in self.conditions),
            f"report {self.evaluation.path / 'report.html'}",
        ]
        return "\n".join(lines)


def run(project: Project) -> Outcome:
    """Train a challenger on the old rows and the accepted feedback, and decide about it.

    Raises   UsageError without a champion; BadSetting for a base behind an API; whatever the stages raise
    """
    refuse_remote(project)
    with closing(Store.open(project.database_url)) as store, project.meter() as meter:
        retention.expire(store, project.settings.feedback.keep_days)
        reviews = Reviews(store)
        champion = store.resolve(project.settings.name)
        accepted = reviews.find(status="accepted")
        feedback = collect.run(project, accepted)
        start = start_of(project, champion)
        say(f"retrain: {feedback.figures['examples']:,} examples from feedback; training starts from {start.why}")
        mixed = mixed_project(project, feedback)
        data, steps = _train(mixed, start)
        model = steps[-1].path / "model"
        seen = _seen_by(project, reviews, champion)
        evidence = _evidence(mixed, data, feedback, model, resolve.folder_of(champion.path) or champion.path, seen)
        conditions = tuple(duel.judge(evidence, project.settings.retrain))
        outcome = _settle(project, reviews, champion, model, evidence.new, conditions, feedback, accepted)
    return replace(outcome, cost=meter.cost())


# ---- what is trained on what ----


@dataclass(frozen=True)
class Start:
    """The model folder that training starts from.

    trunk  True: what the champion's last steps began with, so that the same steps are done again. False: the champion
    made   the artifact that holds it; None for a base model from elsewhere
    """

    folder: Path
    trunk: bool
    made: Artifact | None
    why: str


def start_of(project: Project, champion: ModelRecord) -> Start:
    """What training starts from. Raises UsageError when the champion's folder, or a trunk asked for, is gone."""
    folder, named = resolve.folder_of(champion.path), f"{champion.name}:{champion.version}"
    if folder is None:
        raise UsageError(f"the champion's folder is gone: {champion.path}", fix="make it again with: wyrmling run")
    wanted = project.settings.retrain.start
    trunk: Path | None = None if wanted == "champion" else folder
    for _ in last_steps(project):
        trunk = None if trunk is None else trunk_of(project, trunk)
    if trunk is not None:
        made = _artifact_of(trunk)
        return Start(trunk, True, made, f"{trunk if made is None else made.path.name}, the trunk of {named}")
    if wanted == "trunk":
        raise UsageError(
            f"{named} has no trunk here: no training step of this project made what it began with",
            where="retrain.start",
            fix='use start = "champion"',
        )
    return Start(folder, False, None, named)


def trunk_of(project: Project, model: Path) -> Path | None:
    """The model that the training step which made `model` began with; None when it is not here, or began with none."""
    step = _artifact_of(model)
    began = {} if step is None else {k: v for k, v in step.manifest["inputs"].items() if k not in ("data", "tokens")}
    if not began:
        return None
    for manifest in sorted((project.runs / "train").glob(f"*/{artifact.MANIFEST}")):
        other = artifact.open_artifact(manifest.parent, verify=False)
        files = {name.removeprefix("model/"): about["sha256"] for name, about in other.manifest["files"].items()}
        if other.path != model.parent and began.items() <= files.items():
            return other.path / "model"
    base = locate_base(project)
    return base if base is not None and resolve.inputs(base) == began else None


def _artifact_of(model: Path) -> Artifact | None:
    """The training step that made a model folder."""
    there = model.name == "model" and (model.parent / artifact.MANIFEST).is_file()
    return artifact.open_artifact(model.parent, verify=False) if there else None


def mixed_project(project: Project, feedback: Artifact) -> Project:
    """The project with accepted feedback among the training rows of its last steps."""
    raw = project.settings.model_dump(mode="json", exclude_unset=True)
    sources, last = dict(_sources(project, feedback)), last_steps(project)
    steps = []
    for step in project.steps:
        made = step.model_dump(mode="json", exclude_unset=True)
        if step in last and step.sources is not None:
            fitting = PREFERENCES if str(step.objective) == "preference" else [SOURCE]
            made["sources"] = [*step.sources, *(name for name in fitting if name in sources)]
        steps.append(made)
    raw["data"]["sources"] |= sources
    raw["train"] = steps
    return replace(project, settings=config.parse(raw, where="wyrmling retrain"))


def from_model(project: Project, folder: Path) -> Project:
    """The project that does its last steps on a model that is finished, with its tokenizer."""
    raw = project.settings.model_dump(mode="json", exclude_unset=True)
    raw["train"] = [step.model_dump(mode="json", exclude_unset=True) for step in last_steps(project)]
    raw |= {"model": {"base": str(folder)}, "tokenizer": {}}
    return replace(project, settings=config.parse(raw, where="wyrmling retrain"))


def last_steps(project: Project) -> tuple[TrainStep, ...]:
    """The steps that are repeated: the last; with a preference step at the end, the one before it too."""
    steps = project.steps
    return steps[-2:] if str(steps[-1].objective) == "preference" else steps[-1:]


def _sources(project: Project, feedback: Artifact) -> Iterator[tuple[str, dict[str, Any]]]:
    """The files of accepted feedback, as sources of rows to learn from."""
    files = {SOURCE: (collect.EXAMPLES, _columns(project))}
    if any(str(step.objective) == "preference" for step in project.steps):
        pairs, ratings = {"chosen": "chosen", "rejected": "rejected"}, {"messages": "messages", "rating": "rating"}
        files |= dict(zip(PREFERENCES, ((collect.PAIRS, pairs), (collect.RATED, ratings)), strict=True))
    for name, (file, named) in files.items():
        if (path := feedback.path / file).is_file():
            where = path.relative_to(project.root).as_posix()
            yield name, {"path": where, "format": "jsonl", "split": "train", **named}


def _columns(project: Project) -> dict[str, str]:
    """Where the lines of collected feedback have what the task learns from."""
    columns: dict[str, dict[str, str]] = {
        "classify": {"text": "text", "label": "label"},
        "tag": {"words": "words", "tags": "tags"},
        "complete": {"text": "text"},
    }
    return columns.get(project.settings.objective.task, {"messages": "messages"})


def _train(mixed: Project, start: Start) -> tuple[Artifact, list[Artifact]]:
    """The data, and the last steps of the project done again."""
    from wyrmling.data import run as data
    from wyrmling.tokenizer import run as tokenizer
    from wyrmling.train import run as train

    rows, finished = data.run(mixed), from_model(mixed, start.folder)
    whose = mixed if start.trunk and start.made is None else finished
    tokens = tokenizer.run(whose, rows)
    # From the trunk the same steps with the same derived numbers; a champion is tuned as any finished model is.
    project, base = mixed if start.trunk else finished, start.folder
    before = [] if start.made is None else [start.made]
    made: list[Artifact] = []
    for step in last_steps(project):
        # Other rows are what a retraining is for: one that was interrupted on older ones is let lie.
        made.append(train.run(project, rows, tokens, step, base, earlier=[*before, *made], accept_data_change=True))
        base = made[-1].path / "model"
    records.remember(project, made)
    return rows, made


# ---- both models on the same rows ----


def _evidence(
    mixed: Project, data: Artifact, feedback: Artifact, model: Path, champion: Path, seen: set[str]
) -> Evidence:
    from wyrmling.evaluate import run as evaluate

    plain = _only_answers(mixed)
    new = evaluate.run(mixed, data, model, against=champion)
    old = evaluate.run(plain, data, champion)
    frozen = feedback.path / collect.REGRESSION
    tests = [
        evaluate.run(plain, data, one, test_file=frozen) if frozen.is_file() else None for one in (model, champion)
    ]
    lines = _feedback_ids(feedback.path)
    unseen = frozenset(number for number, feedback_id in enumerate(lines, start=1) if feedback_id not in seen)
    accepted = _accepted(plain, data, feedback, champion) if unseen else None
    same_shape = duel.same_shape(model, champion)
    return Evidence(data, new, old, tests[0], tests[1], accepted, unseen, same_shape)


def _seen_by(project: Project, reviews: Reviews, champion: ModelRecord) -> set[str]:
    """The feedback that the champion learned from: what it says of that is no judgement."""
    decided = [one for one in reviews.decisions(champion.name) if one.version == champion.version]
    folders = [project.runs / collect.STAGE / f"{champion.name}-{one.used}" for one in decided]
    return {feedback_id for folder in folders for feedback_id in _feedback_ids(folder)}


def _feedback_ids(folder: Path) -> list[str]:
    """The feedback behind each line of the examples in a feedback artifact."""
    file = folder / collect.EXAMPLES
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line)["feedback_id"] for line in lines]


def _only_answers(mixed: Project) -> Project:
    """For evaluations that give the answers and no more; files are read with the columns of feedback."""
    raw = mixed.settings.model_dump(mode="json", exclude_unset=True)
    raw["objective"] = {**raw["objective"], "accept": []}
    raw["evaluate"] = {**raw.get("evaluate", {}), "baselines": False, "overlap": "report"}
    first = {SOURCE: {"path": collect.REGRESSION, "split": "test", **_columns(mixed)}}
    raw["data"]["sources"] = first | {k: v for k, v in raw["data"]["sources"].items() if k != SOURCE}
    raw["train"] = [{**step, "sources": None} for step in raw["train"]]
    return replace(mixed, settings=config.parse(raw, where="wyrmling retrain"))


def _accepted(plain: Project, data: Artifact, feedback: Artifact, champion: Path) -> Artifact | None:
    """The champion's answers to the accepted examples, for a classifier."""
    from wyrmling.evaluate import run as evaluate

    examples = feedback.path / collect.EXAMPLES
    if plain.settings.objective.task != "classify" or not examples.is_file():
        return None
    try:
        return evaluate.run(plain, data, champion, test_file=examples)
    except BadInput as error:
        warn(f"the accepted labels can't be compared with the champion's: {error.what}")
        return None


# ---- the decision ----


def _settle(
    project: Project,
    reviews: Reviews,
    champion: ModelRecord,
    model: Path,
    evaluation: Artifact,
    conditions: tuple[Condition, ...],
    feedback: Artifact,
    accepted: Sequence[Said],
) -> Outcome:
    """Register the challenger, move the aliases as decided, and log the decision; a decision is not taken twice."""
    name, store, digest = project.settings.name, reviews.store, folder_digest(model)
    status = duel.overall(conditions)
    if digest == champion.digest:
        status, why = "PASS", f"nothing has changed since {name}:{champion.version} was trained"
        return Outcome(feedback, champion, champion, status, why, (), evaluation)
    version = store.register_model(name, model, digest, gate.metrics_of(evaluation), status)
    reviews.mark_used([said.feedback.id for said in accepted], feedback.id)
    before = [one for one in reviews.decisions(name) if one.version == version]
    promoted_before = any(one.verdict == "PROMOTE" for one in before)
    if status == "PASS" and not promoted_before:
        move = store.challenge if project.settings.serve.canary else store.promote
        move(f"{name}:{version}")
    record = store.resolve(f"{name}:{version}")
    why = _why(record, champion, conditions, promoted_before)
    lines = [condition.line for condition in conditions]
    decided = Decided(name, VERDICTS[status], version, champion.version, why, lines, feedback.id)
    if not before or replace(before[-1], created=decided.created, why=why) != decided:
        reviews.log(decided)
    return Outcome(feedback, record, champion, status, why, conditions, evaluation)


def _why(record: ModelRecord, champion: ModelRecord, conditions: Sequence[Condition], promoted_before: bool) -> str:
    this, that = f"{record.name}:{record.version}", f"{champion.name}:{champion.version}"
    failed = [condition for condition in conditions if condition.status != "PASS"]
    if failed:
        worst = next((one for one in failed if one.status == "FAIL"), failed[0])
        return f"{that} stays the champion; {worst.name}: {worst.text}"
    if "champion" in record.aliases:
        return f"{this} is the champion now; back with: wyrmling models rollback {record.name}"
    if promoted_before:
        return (
            f"{this} was promoted before and {that} was made champion since; "
            f"to change that: wyrmling models promote {this}"
        )
    return f"{this} answers a share of the requests (serve.canary); it is judged by: wyrmling models canary"
