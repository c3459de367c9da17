"""From accepted feedback to examples to learn from. Only what a person said becomes a target: nothing is invented.

| said about an answer | becomes |
|---|---|
| a correction | the right answer or label; for text also a pair, correction over answer |
| thumbs up | the answer, or the label it gave, as right; for text also a rated answer |
| thumbs down alone | for text a rated answer; a label that is wrong names no right one, so nothing |
| this answer over that one | a pair |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from wyrmling.config import Task
from wyrmling.core.reviews import Said

# What an example is for, which is the file it goes to: learned as it is, as a pair, or as good or bad.
Form = Literal["examples", "pairs", "rated"]


@dataclass(frozen=True)
class Example:
    """One row to learn from. `asked` is what it answers, by which repeats are found; `row` is as in its file."""

    form: Form
    asked: str
    row: dict[str, Any]
    said: Said

    def line(self) -> dict[str, Any]:
        """The row as it is written, with where it came from."""
        feedback = self.said.feedback
        return {**self.row, "answer_id": feedback.answer_id, "feedback_id": feedback.id, "model": feedback.model_digest}


class Nothing(Exception):
    """No example can come from this feedback; the message is the reason, one word for the counts."""


def examples(said: Said, task: Task) -> list[Example]:
    """The examples that feedback makes for a project with this task. Raises Nothing."""
    prompt = json.loads(said.feedback.prompt or said.usage.prompt or "null")
    if prompt is None:
        raise Nothing("no_text")
    if said.usage.endpoint == "classify":
        return [_labelled(said, prompt)]
    if said.usage.endpoint == "tag":
        return [_tagged(said, prompt)]
    found = list(_written(said, _messages(prompt), continued=prompt if task == "complete" else None))
    if not found:
        raise Nothing("no_answer_text" if said.feedback.rating is not None or said.other else "only_a_comment")
    return found


def _labelled(said: Said, texts: list[str]) -> Example:
    feedback = said.feedback
    label = feedback.correction
    if label is None and feedback.rating == 1 and said.usage.labels:
        label = said.usage.labels[feedback.item]
    if label is None:
        raise Nothing("no_right_label")
    text = texts[feedback.item]
    return Example("examples", text, {"text": text, "label": label}, said)


def _tagged(said: Said, texts: list[list[str]]) -> Example:
    words, tags = texts[said.feedback.item], (said.feedback.correction or "").split()
    if not tags:
        raise Nothing("no_right_tags")
    if len(tags) != len(words):
        raise Nothing("tags_do_not_fit")
    return Example("examples", " ".join(words), {"words": words, "tags": tags}, said)


def _messages(prompt: Any) -> list[dict[str, str]]:
    """A conversation that ends with what was asked; a prompt to go on from counts as a user's message."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not (isinstance(prompt, list) and prompt and all(isinstance(message, dict) for message in prompt)):
        raise Nothing("no_single_text")
    return prompt


def _written(said: Said, prompt: list[dict[str, str]], continued: Any) -> Iterator[Example]:
    """What corrections, ratings and preferences of a written answer give. continued: the text that it goes on from."""
    feedback, correction = said.feedback, said.feedback.correction
    # Of several answers under one id it is not known which one was meant.
    answer = said.usage.answer if said.usage.items == 1 else None
    other = said.other.answer if said.other is not None and said.other.items == 1 else None
    asked = json.dumps(prompt, ensure_ascii=False)
    right = correction or (answer if feedback.rating == 1 else None)
    if right and isinstance(continued, str):
        yield Example("examples", asked, {"text": continued + right}, said)
    elif right and continued is None:
        yield Example("examples", asked, {"messages": [*prompt, _said(right)]}, said)
    for chosen, rejected in ((correction, answer), (answer if other else None, other)):
        if chosen and rejected and chosen != rejected:
            row = {"chosen": [*prompt, _said(chosen)], "rejected": [*prompt, _said(rejected)]}
            yield Example("pairs", asked, row, said)
    if answer and not correction and feedback.rating in (1, -1):
        rated = {"messages": [*prompt, _said(answer)], "rating": feedback.rating == 1}
        yield Example("rated", asked, rated, said)


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
