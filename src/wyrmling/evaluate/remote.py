"""The rung of a model behind an API: what it would cost, and its answers to the test rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from wyrmling.config import Evaluate, Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.energy import Cost
from wyrmling.core.log import warn
from wyrmling.evaluate import chat_api, costs, kept, systems, tasks
from wyrmling.evaluate.chat_api import Messages, Reply
from wyrmling.evaluate.outcomes import Score, scores
from wyrmling.evaluate.statistics import Ints
from wyrmling.evaluate.tasks import Example, Rows
from wyrmling.model import retrieval

VERSION = 2
LABEL_TOKENS = 32
# How a model is told to say that no label fits.
NO_LABEL = "none"
WHERE = "evaluate.remote"


class Estimate(NamedTuple):
    """What asking for all test rows would take."""

    rows: int
    usd: float


def estimate(project: Project, data: Artifact) -> Estimate:
    """Tokens are guessed from characters. Raises BadSetting without prices."""
    rows = tasks.from_artifact(data, project.settings.objective.task)
    chosen, prompts, most = _prompts(project, data, rows)
    return Estimate(len(chosen), chat_api.estimate_usd(project.settings.evaluate.remote, WHERE, prompts, most))


def run(project: Project, data: Artifact, *, limit_usd: float) -> Artifact:
    """The remote model's answers to the test rows, as an artifact; a row without a usable answer is wrong.

    limit_usd   no further row is asked for once this is spent
    Raises      BadInput when the server refuses, gives no usable answer at all, or the money is spent before the end
    """
    settings, task = project.settings, project.settings.objective.task
    asked = settings.evaluate.remote
    shaping = {
        "rung": "remote",
        "task": task,
        "remote": asked.model_dump(include={"url", "model", "examples"}),
        "evaluate": settings.evaluate.model_dump(include={"answers", "answer_tokens", "resamples"}),
    }
    key = Key("ladder", "remote", {"data": data.id}, shaping, VERSION)
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    rows = tasks.from_artifact(data, task)
    chosen, prompts, most = _prompts(project, data, rows)
    meter = project.meter()
    with artifact.create(project.runs, key, meter) as draft:
        with project.meter() as answering:
            replies = chat_api.ask_all(asked, WHERE, prompts, max_tokens=most, limit_usd=limit_usd)
        if lost := [one for one in replies if one.text is None]:
            warn(f"{len(lost):,} of {len(replies):,} rows got no answer and count as wrong: {lost[0].problem}")
        found = answered(task, data, rows, settings.evaluate, replies)
        kept.write(draft.path, rows.test, chosen if task in tasks.ANSWERED else None, found.columns)
        usd = chat_api.spent_usd(asked, WHERE, replies)
        cost = replace(answering.cost(), usd=answering.cost().usd + usd)
        draft.figures = {
            "task": task,
            "rows": len(replies),
            "metrics": {n: one.as_dict() for n, one in (scores(found.outcome) | measured(replies, cost)).items()},
            "usd": usd,
            "notes": found.notes,
        }
    return draft.done


def measured(replies: Sequence[Reply], cost: Cost) -> dict[str, Score]:
    seconds = np.array([one.seconds for one in replies if one.text is not None])
    speed = costs.latency(seconds, "answer:one request, several at a time", device="remote")
    # What the other machine holds and burns is not known here.
    return speed | {n: one for n, one in costs.spent(cost, len(replies)).items() if n in ("rows_per_s", "usd_per_1k")}


# ---- prompts ----


def _prompts(project: Project, data: Artifact, rows: Rows) -> tuple[Ints, list[Messages], int]:
    """The test rows that are asked, a conversation for each, and the most tokens of an answer."""
    settings, task = project.settings, project.settings.objective.task
    if task == "classify":
        chosen = np.arange(len(rows.test), dtype=np.int64)
        names = json.loads((data.path / "labels.json").read_text(encoding="utf-8"))["labels"]
        wanted, right, most = "exactly one of these labels", [row["label"] for row in rows.train], LABEL_TOKENS
        if tasks.several(rows.test):
            sets = [row["labels"] or () for row in rows.train]
            wanted = f"those of these labels that fit, with commas between them, or {NO_LABEL},"
            right, most = [", ".join(some) or NO_LABEL for some in sets], LABEL_TOKENS * max(map(len, sets), default=1)
        system = (
            f"{settings.objective.goal or 'Classify the text'}. Answer with {wanted} and nothing else: "
            f"{', '.join(names)}"
        )
        said, asked = [row["text"] for row in rows.train], [rows.test[i]["text"] for i in chosen.tolist()]
    else:
        chosen = systems.answered_rows(len(rows.test), settings.evaluate)
        system = settings.objective.goal or ""
        said, right = _last_turns(rows.train)
        asked, most = _last_turns([rows.test[i] for i in chosen.tolist()])[0], settings.evaluate.answer_tokens
    index = retrieval.Bm25([text.lower().split() for text in said])
    return (
        chosen,
        [_messages(system, index, said, right, text, settings.evaluate.remote.examples) for text in asked],
        most,
    )


def _last_turns(rows: Sequence[Example]) -> tuple[list[str], list[str]]:
    return [systems.question_text(row) for row in rows], [systems.right_answer(row) for row in rows]


def _messages(
    system: str, index: retrieval.Bm25, said: Sequence[str], right: Sequence[str], text: str, examples: int
) -> Messages:
    """System message, the nearest training rows as turns, the nearest last, and the text."""
    messages = [{"role": "system", "content": system}] if system else []
    near = retrieval.best(index.scores(text.lower().split()), examples).tolist() if examples and said else []
    for row in reversed(near):
        messages += [{"role": "user", "content": said[row]}, {"role": "assistant", "content": right[row]}]
    return [*messages, {"role": "user", "content": text}]


# ---- answers ----


def answered(task: str, data: Artifact, rows: Rows, settings: Evaluate, replies: Sequence[Reply]) -> systems.Answered:
    names = json.loads((data.path / "labels.json").read_text(encoding="utf-8"))
    if task == "classify":
        read, what = (labels_in, "") if tasks.several(rows.test) else (label_in, ", or several,")
        predicted = [None if one.text is None else read(one.text, names["labels"]) for one in replies]
        found = kept.outcomes(task, rows, {"remote": {"predicted": predicted}}, names["labels"], settings.resamples)
        lost = sum(label is None for label in predicted)
        notes = [f"{lost:,} answers of the remote model name no label{what} and count as wrong"] if lost else []
        return systems.Answered(found["remote"], {"predicted": predicted}, notes)
    given: list[Any] = [None] * len(rows.test)
    for place, one in zip(systems.answered_rows(len(rows.test), settings).tolist(), replies, strict=True):
        given[place] = one.text or ""
    found = kept.outcomes(task, rows, {"remote": {"answer": given}}, [], settings.resamples)
    return systems.Answered(found["remote"], {"answer": [text for text in given if text is not None]}, [])


def label_in(text: str, labels: Sequence[str]) -> str | None:
    """The label that an answer is, or the only one that it names; None for nonsense and for several."""
    plain = {label: _plain(label) for label in labels}
    said = _plain(text)
    exact = [label for label, form in plain.items() if form == said]
    if exact:
        return exact[0]
    named = [label for label, form in plain.items() if f" {form} " in f" {said} "]
    # A label inside another one, as "card" in "lost card", is not meant by itself.
    longest = [one for one in named if not any(plain[one] in plain[other] for other in named if other != one)]
    return longest[0] if len(longest) == 1 else None


def labels_in(text: str, labels: Sequence[str]) -> list[str] | None:
    """The labels that an answer names, in the order of the labels; None for nonsense."""
    left, named = _plain(text), []
    plain = {label: form for label in labels if (form := _plain(label))}
    for label, form in sorted(plain.items(), key=lambda one: -len(one[1])):
        # What a longer label took, as "lost card", does not count for "card" too.
        left, times = re.subn(rf"(?<!\S){re.escape(form)}(?!\S)", "|", left)
        named += [label] if times else []
    if not named and left != NO_LABEL:
        return None
    return [label for label in labels if label in named]


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
