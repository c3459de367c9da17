"""`wyrmling feedback`: what was said about answers, the inbox of what waits for a decision, and erasing a person's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

from wyrmling.config import Project
from wyrmling.core.errors import UsageError
from wyrmling.core.reviews import Reviews, Said
from wyrmling.core.store import Store
from wyrmling.core.tables import ReviewStatus
from wyrmling.feedback import collect, ratings, retention
from wyrmling.feedback.examples import Nothing, examples
from wyrmling.feedback.report import report

Answer = tuple[dict[str, Any], str]
SHOWN_CHARS = 100
_RATINGS: dict[int | None, str] = {1: "up", 0: "neutral", -1: "down"}


@contextmanager
def reviews_of(project: Project) -> Iterator[Reviews]:
    """The feedback of a project, after what is too old was erased."""
    with closing(Store.open(project.database_url)) as store:
        retention.expire(store, project.settings.feedback.keep_days)
        yield Reviews(store)


def summary(project: Project) -> Answer:
    """Usage and feedback in numbers."""
    with reviews_of(project) as reviews:
        found, waiting = report(reviews.store), reviews.counts()
    usage, said = found.usage, found.feedback
    lines = [
        f"answers    {usage.requests:,}, {usage.prompt_tokens + usage.completion_tokens:,} tokens, {usage.wh:.3f} Wh",
        f"feedback   {said.total:,}: {said.up:,} up, {said.down:,} down, {said.corrections:,} corrections",
        f"inbox      {waiting['new']:,} to review: wyrmling feedback inbox",
        f"accepted   {waiting['accepted']:,}, of which {waiting['unused']:,} are new since the last training",
    ]
    return {**found.as_dict(), "review": waiting}, "\n".join(lines)


def listing(project: Project, status: ReviewStatus | None, limit: int | None, **chosen: Any) -> Answer:
    """Feedback with the answers it is about, oldest first."""
    with reviews_of(project) as reviews:
        found = reviews.find(status=status, limit=limit, **_known(chosen))
        waiting = reviews.counts()
    lines = [_line(said) for said in found] or ["nothing here"]
    if status == "new" and found:
        lines.append("decide with: wyrmling feedback accept ID..., reject ID..., or --all")
    return {"feedback": [_document(said) for said in found], "counts": waiting}, "\n".join(lines)


def decide(project: Project, ids: Sequence[str], status: ReviewStatus, *, everything: bool, **chosen: Any) -> Answer:
    """Accept or reject feedback, by its ids or its answers' ids, or everything new that fits.

    Raises   UsageError for an unknown id, and when neither ids nor --all say what is meant
    """
    if bool(ids) == everything:
        raise UsageError(
            "say which feedback is meant", fix="give its ids, or --all (with --rating or --user for a part)"
        )
    with reviews_of(project) as reviews:
        found = reviews.find(ids=ids or None, status=None if ids else "new", **_known(chosen))
        known = {name for said in found for name in (said.feedback.id, said.feedback.answer_id)}
        if missing := [name for name in ids if name not in known]:
            raise UsageError(f"there is no feedback {missing[0]!r}", fix="see the ids with: wyrmling feedback list")
        reviews.decide([said.feedback.id for said in found], status)
        waiting = reviews.counts()
    lines = [f"{status} {len(found):,}; {waiting['new']:,} left to review"]
    empty = [reason for said in found if status == "accepted" and (reason := _reason(said, project))]
    if empty:
        lines.append(f"{len(empty):,} of them give nothing to learn from: {', '.join(sorted(set(empty)))}")
    return {"decided": [said.feedback.id for said in found], "status": status, "counts": waiting}, "\n".join(lines)


def rate(project: Project, answer_id: str, **said: Any) -> Answer:
    """Say something about an answer."""
    with closing(Store.open(project.database_url)) as store:
        usage = store.find_usage(answer_id)
        # Whoever has the database may rate the answers of every key.
        kept = ratings.rate(store, answer_id, key_id=None if usage is None else usage.key_id, **said)
    return asdict(kept), f"kept as {kept.id}"


def forget(project: Project, user: str) -> Answer:
    """Erase what a person asked and said."""
    with closing(Store.open(project.database_url)) as store:
        found = retention.forget(project, store, user)
    lines = [f"erased the texts of {found.erased.answers:,} answers and {found.erased.feedback:,} pieces of feedback"]
    lines += [f"deleted {folder}, which held some of it" for folder in found.folders]
    lines += [f"learned from it: {folder}; train without it: wyrmling retrain" for folder in found.models]
    document = {**found.erased._asdict(), "deleted": found.folders, "models": found.models}
    return document, "\n".join(lines)


def collected(project: Project) -> Answer:
    """The accepted feedback as files to learn from."""
    with reviews_of(project) as reviews:
        made = collect.run(project, reviews.find(status="accepted"))
    figures = made.figures
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(figures["left_out"].items())) or "none"
    text = (
        f"{figures['accepted']:,} accepted: {figures['examples']:,} examples, {figures['pairs']:,} pairs, "
        f"{figures['rated']:,} rated answers, {figures['regression']:,} frozen for tests; left out: {left_out}\n"
        f"  {made.path}"
    )
    return {**figures, "artifact": str(made.path), "reused": made.reused}, text


def _known(chosen: dict[str, Any]) -> dict[str, Any]:
    """The conditions that were given; a rating as a number."""
    rating = chosen.pop("rating", None)
    if rating is not None:
        if rating not in ("up", "neutral", "down"):
            raise UsageError(f"{rating!r} is not a rating", fix="use up, neutral or down")
        chosen["rating"] = ratings.RATINGS[rating]
    return chosen


def _reason(said: Said, project: Project) -> str | None:
    try:
        examples(said, project.settings.objective.task)
    except Nothing as reason:
        return str(reason)
    return None


def _document(said: Said) -> dict[str, Any]:
    usage = said.usage
    answer = {"endpoint": usage.endpoint, "model": usage.model, "answered": usage.created, "labels": usage.labels}
    prompt = said.feedback.prompt or usage.prompt
    return {
        **asdict(said.feedback),
        **answer,
        "prompt": None if prompt is None else json.loads(prompt),
        "answer": usage.answer,
    }


def _line(said: Said) -> str:
    feedback, usage = said.feedback, said.usage
    prompt = feedback.prompt or usage.prompt
    asked = "(the text was not kept)" if prompt is None else _short(prompt)
    given = ", ".join(usage.labels) if usage.labels else _short(usage.answer or "")
    parts = [f"{feedback.id}  {feedback.status:<8} {_RATINGS.get(feedback.rating, '-'):<8} {asked}"]
    if given:
        parts.append(f"    answer      {given}")
    if feedback.correction is not None:
        parts.append(f"    correction  {_short(feedback.correction)}")
    if feedback.preferred_over is not None:
        parts.append(f"    better than {feedback.preferred_over}")
    if feedback.comment:
        parts.append(f"    comment     {_short(feedback.comment)}")
    return "\n".join(parts)


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= SHOWN_CHARS else plain[: SHOWN_CHARS - 3] + "..."
