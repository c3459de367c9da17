"""Multiple choice by log-likelihood: the choice that the model finds likeliest, as it stands or per character or byte.

Letters: Q questions; each has its own number of choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wyrmling.core.errors import BadInput
from wyrmling.evaluate.statistics import Floats

if TYPE_CHECKING:
    from wyrmling.evaluate.score import Scorer


class Question(NamedTuple):
    """A prompt, the texts that may follow it, the index of the right one, and the log-likelihood of each, in nats."""

    prompt: str
    choices: tuple[str, ...]
    gold: int
    nats: tuple[float, ...] = ()


def _plain(text: str) -> float:
    return 1.0


def _characters(text: str) -> float:
    return float(len(text))


def _bytes(text: str) -> float:
    return float(len(text.encode()))


# By what a choice's log-likelihood is divided. Longer choices are less likely as they stand.
NORMALISED: dict[str, Callable[[str], float]] = {"choice": _plain, "choice_norm": _characters, "choice_bytes": _bytes}


def credits(questions: Sequence[Question], name: str) -> Floats:
    """1 for each question whose right choice scores highest, 1/k where it ties with k - 1 others, else 0; (Q,).

    name     choice (as it stands), choice_norm (per character) or choice_bytes (per UTF-8 byte)
    A model that finds everything equally likely thus scores as if it guessed; the first choice is not favoured.
    Raises   ValueError for a question without log-likelihoods, or a choice without text
    Source   acc, acc_norm and acc_bytes of lm-evaluation-harness (`api/task.py`), ties apart
    """
    length = NORMALISED[name]
    found = np.empty(len(questions))
    for i, question in enumerate(questions):
        if len(question.nats) != len(question.choices):
            raise ValueError(
                f"question {i} has {len(question.nats)} log-likelihoods for {len(question.choices)} choices"
            )
        lengths = [length(choice) for choice in question.choices]
        if not all(lengths):
            raise ValueError(f"question {i} has a choice without text")
        scores = np.array(question.nats) / lengths
        best = np.flatnonzero(scores == scores.max())
        found[i] = 1 / len(best) if question.gold in best else 0.0
    return found


def asked(scorer: Scorer, questions: Sequence[Question]) -> list[Question]:
    """The questions with the log-likelihood that a model gives to each choice after the prompt.

    A choice's is that of the whole text less that of the prompt, so a choice should begin where a word does, with the
    space before it.
    Raises   BadInput for a prompt and choice that don't fit the context together
    """
    from wyrmling.evaluate import score

    prompts = score.text(scorer, [_row(question.prompt) for question in questions])
    texts = [question.prompt + choice for question in questions for choice in question.choices]
    wholes = score.text(scorer, [_row(text) for text in texts])
    if wholes.targets_N.max(initial=0) > scorer.context:
        longest = int(wholes.targets_N.argmax())
        raise BadInput(
            f"{int(wholes.targets_N[longest])} tokens don't fit the context of {scorer.context}",
            where=texts[longest][:80],
            fix="shorten the prompt",
        )
    found, at = [], 0
    for question, before in zip(questions, prompts.text_nll_N.tolist(), strict=True):
        nats = wholes.text_nll_N[at : at + len(question.choices)]
        found.append(question._replace(nats=tuple(float(before - one) for one in nats)))
        at += len(question.choices)
    return found


def _row(text: str) -> dict[str, str]:
    return {"kind": "document", "text": text}
