"""Entities of BIO tags, and how those of two taggings agree: by conlleval, strictly, or in part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from wyrmling.evaluate.metrics import CORRECT, GOLD, PREDICTED
from wyrmling.evaluate.statistics import Floats


class Entity(NamedTuple):
    type: str
    start: int
    end: int
    """Index of the last word, inclusive."""


def entities(tags: Sequence[str]) -> list[Entity]:
    """Entities of one sentence by the rules of conlleval, which forgive an I without its B.

    An entity starts at B or S, and at I or E after O or another type. It ends before B, S, O or another type, and
    after E or S.
    Source   conlleval.pl (CoNLL-2000); the default mode of seqeval
    """
    found: list[Entity] = []
    kind: str | None = None
    start = 0
    for i, tag in enumerate(tags):
        prefix, _, name = tag.partition("-")
        begins = prefix in ("B", "S") or (prefix in ("I", "E") and name != kind)
        if kind is not None and (begins or prefix == "O"):
            found.append(Entity(kind, start, i - 1))
            kind = None
        if begins:
            kind, start = name, i
        if kind is not None and prefix in ("E", "S"):
            found.append(Entity(kind, start, i))
            kind = None
    if kind is not None:
        found.append(Entity(kind, start, len(tags) - 1))
    return found


def strict_entities(tags: Sequence[str]) -> list[Entity]:
    """Entities of one sentence in IOB2 as it is defined: an I without its B is no entity.

    Source   the mode "strict" with the scheme IOB2 of seqeval
    """
    found: list[Entity] = []
    kind: str | None = None
    start = 0
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind is not None and not (prefix == "I" and name == kind):
            found.append(Entity(kind, start, i - 1))
            kind = None
        if prefix == "B":
            kind, start = name, i
    return found


Decode = Callable[[Sequence[str]], list[Entity]]


def entity_counts(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    types: Sequence[str],
    decode: Decode = entities,
) -> Floats:
    """Correct, gold and predicted entities of each sentence and type, (N, 3, T).

    Raises   ValueError when a sentence has another number of predicted tags than gold ones
    """
    index = {name: i for i, name in enumerate(types)}
    counts = np.zeros((len(gold), 3, len(types)))
    for row, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(gold_tags) != len(predicted_tags):
            raise ValueError(f"sentence {row}: {len(predicted_tags)} predicted tags for {len(gold_tags)} words")
        true, guessed = set(decode(gold_tags)), set(decode(predicted_tags))
        for which, group in ((CORRECT, true & guessed), (GOLD, true), (PREDICTED, guessed)):
            for entity in group:
                counts[row, which, index[entity.type]] += 1
    return counts


def partial_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Floats:
    """Correct, gold and predicted entities of each sentence, types left aside and overlaps counted half, (N, 3, 1).

    Each predicted entity is matched with at most one gold entity: with one of the same span, else with the first free
    one that it overlaps.
    Source   MUC-5 "partial"; SemEval 2013, task 9.1; the "partial" scores of nervaluate (benchmarks/oracles.py)
    """
    counts = np.zeros((len(gold), 3, 1))
    for row, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        true, guessed = entities(gold_tags), entities(predicted_tags)
        spans = {(entity.start, entity.end) for entity in true} & {(entity.start, entity.end) for entity in guessed}
        free = [entity for entity in true if (entity.start, entity.end) not in spans]
        credit = float(len(spans))
        for entity in guessed:
            if (entity.start, entity.end) in spans:
                continue
            match = next((other for other in free if other.start <= entity.end and entity.start <= other.end), None)
            if match is not None:
                free.remove(match)
                credit += 0.5
        counts[row, :, 0] = credit, len(true), len(guessed)
    return counts


def entity_types(*tag_lists: Sequence[Sequence[str]]) -> list[str]:
    """Sorted entity types named by any tag."""
    return sorted({tag.partition("-")[2] for tags in tag_lists for row in tags for tag in row if tag != "O"})
