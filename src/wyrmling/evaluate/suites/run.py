"""Ask a model the items of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wyrmling.core.artifact import file_digest
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.evaluate import choice, score
from wyrmling.evaluate.score import Scorer
from wyrmling.evaluate.statistics import Floats
from wyrmling.evaluate.suites import code, outcome
from wyrmling.evaluate.suites.definition import Suite
from wyrmling.evaluate.suites.items import Item, read
from wyrmling.evaluate.write import continuations
from wyrmling.model import folder
from wyrmling.tokenizer.tokenizer import Tokenizer

# Multiple choice is scored as it stands, per character and per byte; the first is reported by group.
_CHOICE = ("choice", "choice_norm", "choice_bytes")


def run(
    suite: Suite,
    path: Path,
    data: Path,
    *,
    limit: int | None = None,
    shots: int | None = None,
    run_code: bool = False,
) -> dict[str, Any]:
    """The document of a suite: scores with intervals, by group, and what the model said to each item.

    path       the model folder; data: the folder of the suite's files
    limit      at most so many items of each group, the first ones
    shots      worked examples. None: as the suite says
    run_code   the programs that the model writes may be run; a suite of code needs it
    Raises     BadSetting for a model that does not write; BadInput as reading the items does
    """
    if suite.kind == "code":
        if not run_code:
            raise BadSetting(
                f"the suite {suite.name} runs what the model writes",
                where="--run-code",
                fix="say --run-code to allow it: without network, with little time and memory (docs/suites.md)",
            )
        code.check()
    items = _limited(read(suite, data, shots=shots), limit)
    scorer = _scorer(path)
    if scorer.model.head_name != "next":
        raise BadSetting(
            f"the model has the head {scorer.model.head_name!r}, and suites ask models that write",
            where=path,
            fix="name a model trained with the objective causal or sft",
        )
    credits, said = _ASK[suite.kind](suite, scorer, items)
    files = {file.name: file_digest(file) for file in sorted(data.glob(suite.files))}
    asked = [{"origin": item.origin, "said": one} for item, one in zip(items, said, strict=True)]
    return outcome.document(
        suite, items, credits, files=files, shots=suite.shots if shots is None else shots, answers=asked
    )


def _scorer(path: Path) -> Scorer:
    """Any model that writes, also one that was not trained here and names no task."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = folder.load(path, device=device, dtype=torch.float32)
    return Scorer(model, Tokenizer.load(path), [], [], device)


def _limited(items: list[Item], limit: int | None) -> list[Item]:
    if limit is None:
        return items
    seen: dict[str, int] = {}
    kept = []
    for item in items:
        seen[item.group] = seen.get(item.group, 0) + 1
        if seen[item.group] <= limit:
            kept.append(item)
    return kept


def _choose(suite: Suite, scorer: Scorer, items: Sequence[Item]) -> tuple[dict[str, Floats], list[Any]]:
    if any(item.prompt for item in items):
        asked = choice.asked(scorer, [choice.Question(item.prompt, item.choices, 0) for item in items])
    else:
        asked = _whole(scorer, items)
    nats = [question.nats for question in asked]
    if all(item.right == 1 for item in items):
        return {name: choice.credits(asked, name) for name in _CHOICE}, nats
    return {"mass": outcome.mass(items, nats)}, nats


def _whole(scorer: Scorer, items: Sequence[Item]) -> list[choice.Question]:
    """The likelihood of choices that are whole texts, with nothing before them."""
    rows = [{"kind": "document", "text": text} for item in items for text in item.choices]
    nats = iter((-score.text(scorer, rows).text_nll_N).tolist())
    return [choice.Question("", item.choices, 0, tuple(next(nats) for _ in item.choices)) for item in items]


def _write(suite: Suite, scorer: Scorer, items: Sequence[Item]) -> tuple[dict[str, Floats], list[Any]]:
    said = _answers(suite, scorer, items)
    right = [outcome.is_right(suite, item.answer, text) for item, text in zip(items, said, strict=True)]
    return {suite.compare: np.array(right, dtype=np.float64)}, said


def _last_word(suite: Suite, scorer: Scorer, items: Sequence[Item]) -> tuple[dict[str, Floats], list[Any]]:
    """Whether each token of the last word is the likeliest one, and the word's nats."""
    from wyrmling.model.generate import score as token_scores

    right, nats = [], []
    for item in items:
        before = scorer.tokenizer.prompt(item.prompt)
        word = scorer.tokenizer.encode(item.answer, opening=False)
        if len(before) + len(word) > scorer.context:
            before = before[len(before) + len(word) - scorer.context :]
        tokens = token_scores(scorer.model, [*before, *word], top_logprobs=1)[-len(word) :]
        right.append(all(token.top[0][0] == token.id for token in tokens))
        nats.append(-sum(token.logprob for token in tokens))
    return {"last_word": np.array(right, dtype=np.float64)}, nats


def _program(suite: Suite, scorer: Scorer, items: Sequence[Item]) -> tuple[dict[str, Floats], list[Any]]:
    said = _answers(suite, scorer, items)
    found = [code.run(f"{item.prompt}{text}\n\n{item.answer}\n") for item, text in zip(items, said, strict=True)]
    passed = np.array([one == "passed" for one in found], dtype=np.float64)
    return {"pass_at_1": passed}, [{"program": text, "outcome": one} for text, one in zip(said, found, strict=True)]


def _answers(suite: Suite, scorer: Scorer, items: Sequence[Item]) -> list[str]:
    longest = max(items, key=lambda item: len(item.prompt))
    room = scorer.context - len(scorer.tokenizer.prompt(longest.prompt))
    if room < 1:
        raise BadInput(
            f"the longest prompt leaves no room in the context of {scorer.context} tokens",
            where=longest.origin,
            fix="use fewer worked examples: --shots 0",
        )
    return continuations(
        scorer, [item.prompt for item in items], max_tokens=min(suite.max_tokens, room), stops=suite.stop
    )


_ASK = {"choice": _choose, "answer": _write, "last_word": _last_word, "code": _program}
