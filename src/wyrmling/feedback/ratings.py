"""What a person may say about an answer, checked before it is kept."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from wyrmling.core.errors import BadInput
from wyrmling.core.store import Feedback, Store

RATINGS: dict[int | str, int] = {1: 1, 0: 0, -1: -1, "up": 1, "neutral": 0, "down": -1}


class UnknownAnswer(BadInput):
    """No answer with this id was given, or not to this asker."""

    def __init__(self, answer_id: str) -> None:
        super().__init__(
            f"there is no answer {answer_id[:64]!r}",
            where="id",
            fix="send the id that came with the answer, such as cmpl-...",
        )
        self.answer_id = answer_id


def rate(
    store: Store,
    answer_id: str,
    *,
    rating: int | str | None = None,
    correction: str | None = None,
    comment: str | None = None,
    key_id: str | None = None,
    labels: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
) -> Feedback:
    """The feedback that was kept.

    rating      -1, 0, 1, or down, neutral, up
    correction  what the answer should have been: a text; a classifier's label; a tagger's tags, with spaces between
    key_id      who says it; another key's answers can't be rated
    labels      the labels of the model that answered, None when it is not a classifier; tags likewise
    Raises      UnknownAnswer; BadInput when nothing is said, or a rating, label or tag is unknown
    """
    usage = store.find_usage(answer_id)
    if usage is None or (usage.key_id is not None and usage.key_id != key_id):
        # The same words for both: an id must not tell whether someone else used it.
        raise UnknownAnswer(answer_id)
    if rating is None and not correction and not comment:
        raise BadInput("this feedback says nothing", where="rating", fix="give a rating, a correction or a comment")
    if rating is not None and (isinstance(rating, bool) or rating not in RATINGS):
        raise BadInput(f"{rating!r} is not a rating", where="rating", fix="use -1, 0, 1, or down, neutral, up")
    if correction is not None:
        _check_correction(correction, labels, tags)
    feedback = Feedback(
        id=f"fb-{secrets.token_hex(12)}",
        answer_id=answer_id,
        model_digest=usage.model_digest,
        rating=None if rating is None else RATINGS[rating],
        correction=correction,
        comment=comment,
        key_id=key_id,
    )
    store.add_feedback(feedback)
    return feedback


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
