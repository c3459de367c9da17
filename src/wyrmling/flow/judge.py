"""judge: another model's word on written answers, and how far it can be trusted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wyrmling.config import Judge, Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting, UsageError
from wyrmling.evaluate.judge import TASKS
from wyrmling.flow import models, stages

Said = tuple[dict[str, Any], str]


def run(project: Project, reference: str | None, against: str | None, human: Path | None, spend: float | None) -> Said:
    """A model's answers judged, or those of two compared.

    human   answers that people judged. None: those that the settings name, if any
    spend   consent to send test rows to another machine and pay so much there. None: no consent
    Raises  UsageError for a task without written answers, and without consent; BadSetting without a judge or an answer
    """
    task, asked = project.settings.objective.task, project.settings.evaluate.judge
    if task not in TASKS:
        raise UsageError(f"the task {task!r} has no written answers to judge", fix=f"judge one of {', '.join(TASKS)}")
    if asked.model is None:
        raise BadSetting(
            "no judge is named", where="evaluate.judge.model", fix="name it, and url where it is elsewhere"
        )
    if project.settings.evaluate.answers == 0:
        raise BadSetting(
            "no answers are written, so there is nothing to judge", where="evaluate.answers", fix="raise it"
        )
    from wyrmling.evaluate.judge import run as judging
    from wyrmling.evaluate.judge.asking import Bench

    labelled = human or (None if asked.human is None else project.root / asked.human)
    data = stages.data(project)
    if asked.url is None:
        bench = Bench(asked, models.resolve(project, asked.model))
    else:
        bench = _elsewhere(project, data, labelled, spend, two=against is not None)
    first = stages.train(project)[-1].path / "model" if reference is None else models.resolve(project, reference)
    folders = [first, *([] if against is None else [models.resolve(project, against)])]
    made = judging.run(project, data, folders, bench, labelled)
    document = {"models": [str(one) for one in folders], **made.figures, "answers": str(made.path / judging.ANSWERS)}
    return document, _text(document)


def _elsewhere(project: Project, data: Artifact, labelled: Path | None, spend: float | None, *, two: bool) -> Any:
    """The judge behind a URL, where sending rows there is allowed: on this machine always."""
    from wyrmling.evaluate.judge import run as judging
    from wyrmling.evaluate.judge.asking import Bench
    from wyrmling.serve.guard import is_loopback

    asked = project.settings.evaluate.judge
    if is_loopback(urlsplit(asked.url or "").hostname or ""):
        return Bench(_priced(asked), limit_usd=math.inf if spend is None else spend)
    rows, usd = judging.estimate(project, data, labelled, two=two)
    if spend is None or usd > spend:
        raise UsageError(
            f"it would send {rows:,} rows to {asked.url} and cost about ${usd:.2f}",
            fix=f"allow that with --spend {max(0.01, usd * 1.2):.2f}",
        )
    return Bench(asked, limit_usd=spend)


def _priced(asked: Judge) -> Judge:
    """A server of one's own costs nothing, unless the settings say otherwise."""
    prices = {name: getattr(asked, name) or 0.0 for name in ("usd_per_million_input", "usd_per_million_output")}
    return asked.model_copy(update=prices)


def _text(document: dict[str, Any]) -> str:
    lines = [f"{document['rows']:,} answers judged by {document['judge']['judge']}, {document['missing']:,} missing"]
    lines += [_line(name, one) for name, one in document["metrics"].items()]
    people = document["human"]
    if people["metrics"]:
        lines += [f"with people, on {people['rows']:,} answers, {people['missing']:,} of them missing"]
        lines += [_line(name, one) for name, one in people["metrics"].items()]
    if document["why_not"] is None:
        lines.append("people agree with it: evidence beside what is measured, never in place of it")
    else:
        lines.append(f"not usable in accept, nor as evidence: {document['why_not']}")
    return "\n".join([*lines, f"every answer: {document['answers']}"])


def _line(name: str, one: dict[str, Any]) -> str:
    if one["value"] is None:
        return f"  {name:15} {one['note']}"
    ends = "" if one["low"] is None else f" ({one['low']:.3f} to {one['high']:.3f})"
    return f"  {name:15} {one['value']:.3f}{ends}, n {one['n']:,}"
