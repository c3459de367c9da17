"""What a person may say about an answer, checked before it is kept."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Any

from wyrmling.core.errors import BadInput
from wyrmling.core.reviews import pseudonym
from wyrmling.core.store import Feedback, Store, Usage

RATINGS: dict[int | str, int] = {1: 1, 0: 0, -1: -1, "up": 1, "neutral": 0, "down": -1}


class UnknownAnswer(BadInput):
    """No answer with this id was given, or not to this asker."""

    def __init__(self, answer_id: str, param: str = "id") -> None:
        super().__init__(
            f"there is no answer {answer_id[:64]!r}",
            where=param,
            fix="send the id that came with the answer, such as cmpl-...",
        )
        self.answer_id, self.param = answer_id, param


def rate(
    store: Store,
    answer_id: str,
    *,
    rating: int | str | None = None,
    correction: str | None = None,
    comment: str | None = None,
    preferred_over: str | None = None,
    item: int = 0,
    prompt: Any = None,
    user: str | None = None,
    key_id: str | None = None,
    labels: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    unless_since: str | None = None,
) -> Feedback:
    """The feedback that was kept.

    rating      -1, 0, 1, or down, neutral, up
    correction  what the answer should have been: a text; a classifier's label; a tagger's tags, with spaces between
    preferred_over   the id of another answer to the same prompt, which is worse
    item        which text of a request that had several, counted from 0
    prompt      what was asked, as it was asked: an example can come from it although the server keeps no prompts
    user        the end user who says it, by the caller's name for them
    key_id      who says it; another key's answers can't be rated
    labels      the labels of the model that answered, None when it is not a classifier; tags likewise
    unless_since   when the same was said since this time, that is the answer, and nothing more is kept
    Raises      UnknownAnswer; BadInput when nothing is said, a rating, label or tag is unknown, or it is about
                another prompt
    """
    usage = _find(store, answer_id, key_id)
    if rating is None and not correction and not comment and preferred_over is None:
        raise BadInput("this feedback says nothing", where="rating", fix="give a rating, a correction or a comment")
    if rating is not None and (isinstance(rating, bool) or rating not in RATINGS):
        raise BadInput(f"{rating!r} is not a rating", where="rating", fix="use -1, 0, 1, or down, neutral, up")
    if correction is not None:
        _check_correction(correction, labels, tags)
    if preferred_over is not None:
        _check_same_prompt(usage, _find(store, preferred_over, key_id, "preferred_over"))
    if not 0 <= item < usage.items:
        raise BadInput(f"the answer has no item {item}", where="item", fix=f"use 0 to {usage.items - 1}")
    feedback = Feedback(
        id=f"fb-{secrets.token_hex(12)}",
        answer_id=answer_id,
        model_digest=usage.model_digest,
        rating=None if rating is None else RATINGS[rating],
        correction=correction,
        comment=comment,
        key_id=key_id,
        user=None if user is None else pseudonym(user),
        item=item,
        prompt=None if prompt is None else _checked_prompt(prompt, usage),
        preferred_over=preferred_over,
    )
    return store.add_feedback(feedback, unless_since=unless_since)


def prompt_text(prompt: Any) -> str:
    """A prompt as it is kept and hashed."""
    return json.dumps(prompt, ensure_ascii=False)


def prompt_hash(text: str) -> str:
    """What the usage record of an answer says of its prompt."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _find(store: Store, answer_id: str, key_id: str | None, param: str = "id") -> Usage:
    usage = store.find_usage(answer_id)
    if usage is None or (usage.key_id is not None and usage.key_id != key_id):
        # The same words for both: an id must not tell whether someone else used it.
        raise UnknownAnswer(answer_id, param)
    return usage


def _check_same_prompt(usage: Usage, other: Usage) -> None:
    if usage.id == other.id or usage.prompt_sha256 != other.prompt_sha256:
        raise BadInput(
            "a preference needs two answers to the same prompt",
            where="preferred_over",
            fix="ask the same again, and name the worse of the two answers",
        )


def _checked_prompt(prompt: Any, usage: Usage) -> str:
    """The prompt as it is kept. A single text may have been sent alone or in a list."""
    for form in (prompt, [prompt]):
        if prompt_hash(text := prompt_text(form)) == usage.prompt_sha256:
            return text
    raise BadInput(
        "this is not the prompt that was answered", where="prompt", fix="send it exactly as it was sent then"
    )


def _check_correction(correction: str, labels: Sequence[str] | None, tags: Sequence[str] | None) -> None:
    if labels is not None and correction not in labels:
        shown = ", ".join(sorted(labels)[:20]) + (", ..." if len(labels) > 20 else "")
        raise BadInput(
            f"{correction[:100]!r} is not a label of this model", where="correction", fix=f"use one of: {shown}"
        )
    if tags is not None:
        for tag in correction.split():
            if tag not in tags:
                raise BadInput(
                    f"{tag[:100]!r} is not a tag of this model",
                    where="correction",
                    fix=f"use one of: {', '.join(tags)}",
                )
