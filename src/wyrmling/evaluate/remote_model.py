"""A model that was trained behind an API: what asking it costs, and its evaluation on the test rows."""

from __future__ import annotations

import ipaddress
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from wyrmling.config import ChatApi, Project
from wyrmling.core import resolve
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.core.log import warn
from wyrmling.evaluate import accept, answers, chat_api, metrics, remote, tasks
from wyrmling.evaluate.chat_api import Messages
from wyrmling.evaluate.outcomes import scores
from wyrmling.evaluate.remote import LABEL_TOKENS, Estimate
from wyrmling.evaluate.tasks import Example, Rows

if TYPE_CHECKING:
    from wyrmling.evaluate.measure import Evaluation

# What written answers are compared in: no API tells how likely it finds the expected ones.
WRITTEN = "token_f1"
WHERE = "model.remote"
_SPENT = ("latency_p50_ms", "latency_p95_ms", "rows_per_s", "usd_per_1k")
_ROLES = ("system", "user", "assistant")


class Remote(NamedTuple):
    """What the folder of such a model holds, as JSON.

    url, model   where it answers, under which name
    base, job    what it was trained from, by which job
    tokens, usd  what the job learned from, over all epochs, and what that cost
    """

    url: str
    model: str
    base: str
    job: str
    tokens: int
    usd: float


def read(folder: Path) -> Remote:
    """Raises BadInput for a file that is none of ours."""
    try:
        return Remote(**json.loads((folder / resolve.REMOTE).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BadInput(
            f"{resolve.REMOTE} does not say where a model answers: {error}",
            where=folder / resolve.REMOTE,
            fix="delete the folder and run the same command again",
        ) from error


def api(project: Project, url: str, model: str) -> ChatApi:
    """Where such a model, or the one it is trained from, is asked. What is of this machine is free unless priced."""
    asked, free = project.settings.model.remote, 0.0 if is_near(url) else None
    read, written = asked.usd_per_million_input, asked.usd_per_million_output
    return ChatApi(
        url=url,
        model=model,
        key=asked.key,
        usd_per_million_input=free if read is None else read,
        usd_per_million_output=free if written is None else written,
        at_once=asked.at_once,
        timeout_seconds=asked.timeout_seconds,
    )


def is_near(url: str) -> bool:
    """Whether an address is of this machine: what runs here is not billed by others."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ---- what is sent ----


def conversation(row: Example) -> Messages:
    """A row as it is learned: the last message is the answer. A label is the answer to its text.

    Raises   BadInput for a row with several labels, or a conversation that is not of system, user and assistant alone
    """
    if row["kind"] == "labelled":
        if row["labels"] is not None:
            raise BadInput(
                "the row may have several labels, and a model behind an API learns one answer",
                where=row["origin"],
                fix="leave label_separator out, or train here",
            )
        return [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["label"]}]
    messages = [{"role": one["role"], "content": one["content"]} for one in row["messages"]]
    if messages[-1]["role"] != "assistant" or any(one["role"] not in _ROLES for one in messages):
        raise BadInput(
            "the conversation has a message that is not of system, user or assistant, or does not end with an answer",
            where=row["origin"],
            fix="take the row out, or train here",
        )
    return messages


def asked_rows(project: Project, rows: Rows) -> Rows:
    """The test rows that are asked for: all labelled ones, of answers as many as evaluate.answers says."""
    settings = project.settings
    if settings.objective.task == "classify":
        return rows
    from wyrmling.evaluate import systems

    chosen_N = systems.answered_rows(len(rows.test), settings.evaluate)
    return replace(rows, test=[rows.test[i] for i in chosen_N.tolist()])


def _most(project: Project) -> int:
    """Tokens of an answer at most."""
    settings = project.settings
    return LABEL_TOKENS if settings.objective.task == "classify" else settings.evaluate.answer_tokens


# ---- what it costs ----


def estimate(project: Project, url: str, rows: Rows) -> Estimate:
    """What asking for the test rows would take, by tokens guessed from characters. Raises BadSetting without prices."""
    prompts = [conversation(row)[:-1] for row in asked_rows(project, rows).test]
    return Estimate(len(prompts), chat_api.estimate_usd(api(project, url, ""), WHERE, prompts, _most(project)))


def agree(project: Project, folder: Path, rows: Rows, limit_usd: float | None) -> None:
    """Before anything is sent. Raises UsageError that names the price, unless that much may be spent."""
    found = read(folder)
    check_conditions(project)
    asking = estimate(project, found.url, rows)
    what = f"asking {found.model} would send {asking.rows:,} test rows to {found.url}"
    require(what, asking.usd, limit_usd)


def require(what: str, usd: float, limit_usd: float | None) -> None:
    """Raises UsageError unless that much may be spent. what: what would be done, in words."""
    if limit_usd is None or usd > limit_usd:
        raise UsageError(
            f"{what} and cost about ${usd:.2f}",
            fix=f"allow that with --spend {cents(usd * 1.2)}; nothing was sent",
        )


def cents(usd: float) -> str:
    """An amount that holds this one, in whole cents."""
    return f"{math.ceil(round(usd * 100, 6)) / 100:.2f}"


def check_conditions(project: Project) -> None:
    """Raises BadSetting for a condition that no API can meet, before its answers are paid for."""
    task = project.settings.objective.task
    known = {*(metrics.CLASSIFY if task == "classify" else answers.NAMES), *_SPENT}
    for line in accept.of(project.settings):
        if line.metric not in known or line.against == accept.CHAMPION:
            raise BadSetting(
                f"{line.text!r} can't be judged of a model behind an API",
                where="objective.accept",
                fix=f"remove the line, or use one of: {', '.join(sorted(known))}",
            )


# ---- the evaluation ----


def evaluate(project: Project, data: Artifact, folder: Path, rows: Rows, limit_usd: float) -> Evaluation:
    """The evaluation of the model, beside the cheap baselines; a row without a usable answer is wrong.

    Raises   as `chat_api.ask_all`, and BadInput for a test row with a label that no training row has
    """
    from wyrmling.evaluate import measure

    settings, task, found = project.settings, project.settings.objective.task, read(folder)
    rows = asked_rows(project, rows)
    labels = json.loads((data.path / "labels.json").read_text(encoding="utf-8"))["labels"]
    if task == "classify":
        tasks.gold_labels(rows.test, labels)
    test = measure.test_of(project, rows, labels)

    prompts = [conversation(row)[:-1] for row in rows.test]
    asked = api(project, found.url, found.model)
    with project.meter() as answering:
        replies = chat_api.ask_all(asked, WHERE, prompts, max_tokens=_most(project), limit_usd=limit_usd)
    usd = chat_api.spent_usd(asked, WHERE, replies)
    cost = replace(answering.cost(), usd=answering.cost().usd + usd)
    if lost := [one for one in replies if one.text is None]:
        warn(f"{len(lost):,} of {len(replies):,} rows got no answer and count as wrong: {lost[0].problem}")
    answered = remote.answered(task, data, rows, settings.evaluate, replies)
    # No usable answer is none of the labels.
    said = {name: [word or "" for word in words] for name, words in answered.columns.items()}
    answered = answered._replace(columns=_gold(task, rows) | said)
    own: dict[str, Any] = {} if task == "classify" else {"main": WRITTEN, "part": WRITTEN}
    made = measure.Measured(answered, scores(answered.outcome) | remote.measured(replies, cost), cost, **own)
    baselines = measure.fitted(project, rows, labels, [])
    return replace(measure.written(project, folder, test, made, baselines, {}), usd=usd)


def _gold(task: str, rows: Rows) -> dict[str, list[str]]:
    return {"gold": [row["label"] if task == "classify" else conversation(row)[-1]["content"] for row in rows.test]}
