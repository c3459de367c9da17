"""The sequences of a step that learns from preferred or rated answers.

An item is what the loss is a sum over: a pair of answers (dpo, orpo) or one answer called good or bad (kto; a pair is
one of each). An item is learned as two sequences: the chosen and the rejected answer; or, for kto, the rated answer and
the answer of another item to the same prompt, from which the loss learns how far the model has moved on the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from wyrmling.config import PreferenceLoss
from wyrmling.train.batches import IGNORED, Batch, Batches, Choices, Store
from wyrmling.train.order import Array, Pieces, uniform

# Rated answers whose movement is averaged; they stay in one micro-batch.
GROUP = 4


class Items(NamedTuple):
    """row, side: the answer that is meant; good: how it was called; other: the item whose answer is compared (kto)."""

    row: Array
    side: Array
    good: Array
    other: Array


class PreferenceBatches(Batches):
    """Steps of preferred or rated answers. `reference` is filled in before the first step where the loss needs it.

    loss        dpo | orpo | kto
    reference   log-probability of each sequence by the model that training starts from, (items, 2) float32
    """

    def __init__(
        self,
        store: Store,
        loss: PreferenceLoss,
        rows: Array,
        *,
        context: int,
        data_hash: str,
        seed: int,
        batch_tokens: int,
        micro_batch_tokens: int,
    ) -> None:
        self.loss, self.context = loss, context
        self.reference: Array | None = None
        super().__init__(
            store,
            "preference",
            rows,
            context=context,
            data_hash=data_hash,
            seed=seed,
            batch_tokens=batch_tokens,
            micro_batch_tokens=micro_batch_tokens,
        )

    def _pieces(self, rows: Array, context: int) -> Pieces:
        self.spans = {int(row): spans(self.store, int(row)) for row in rows}
        self.items = items(self.store, rows, self.loss, self.seed)
        lengths = [sum(len(tokens) - 1 for tokens, _ in self._sequences(item)) for item in range(len(self.items.row))]
        return Pieces(self.items.row, np.zeros_like(self.items.row), np.array(lengths, dtype=np.int64))

    def _alone(self, indices: Array) -> list[Array]:
        if self.loss != "kto":
            return list(indices[:, None])
        return np.array_split(indices, max(1, len(indices) // GROUP))

    def _batch(self, units: list[Array], step: int) -> Batch:
        indices = np.concatenate(units)
        pairs = [pair for item in indices.tolist() for pair in self._sequences(item)]
        tokens = np.concatenate([sequence[:-1] for sequence, _ in pairs])
        targets = np.concatenate([np.where(learn[1:], sequence[1:], IGNORED) for sequence, learn in pairs])
        item, side = np.repeat(indices, 2), np.tile([0, 1], len(indices))
        group = np.repeat(np.repeat(np.arange(len(units)), [len(unit) for unit in units]), 2)
        choices = Choices(
            item,
            torch.from_numpy(side),
            torch.from_numpy(self.items.good[item]),
            torch.from_numpy(group),
            None if self.reference is None else torch.from_numpy(self.reference[item, side]),
        )
        lengths = [len(sequence) - 1 for sequence, _ in pairs]
        return Batch(torch.from_numpy(tokens), lengths, torch.from_numpy(targets), self.items.row[item], choices)

    def _sequences(self, item: int) -> list[tuple[Array, Array]]:
        """Tokens of the item's two sequences, up to the last that is learned, and which of them are learned."""
        row, side = int(self.items.row[item]), int(self.items.side[item])
        if self.loss != "kto":
            return [self._own(row, 0), self._own(row, 1)]
        other = int(self.items.other[item])
        start, first, _ = self.spans[row][side]
        _, from_, to = self.spans[int(self.items.row[other])][int(self.items.side[other])]
        prompt, answer = self.store.tokens(row, start, first), self.store.tokens(int(self.items.row[other]), from_, to)
        mixed = np.concatenate([prompt, answer])[: self.context + 1]
        return [self._own(row, side), (mixed, np.arange(len(mixed)) >= len(prompt))]

    def _own(self, row: int, side: int) -> tuple[Array, Array]:
        start, _, end = self.spans[row][side]
        return self.store.tokens(row, start, end), self.store.learn(row, start, end)


def spans(store: Store, row: int) -> list[tuple[int, int, int]]:
    """Of each conversation of a row: its first token, the first that is learned, and the last of them + 1.

    A conversation without anything to learn ends where it begins.
    """
    length, second = int(store.rows["length"][row]), int(store.rows["second"][row])
    bounds = [(0, second), (second, length)] if second else [(0, length)]
    learned = np.flatnonzero(store.learn(row))
    found = []
    for start, end in bounds:
        mine = learned[(learned >= start) & (learned < end)]
        found.append((start, int(mine[0]), int(mine[-1]) + 1) if len(mine) else (start, start, start))
    return found


def items(store: Store, rows: Array, loss: PreferenceLoss, seed: int) -> Items:
    """What the loss is a sum over. Each item's other answer is one of another row, the same at every step."""
    if loss != "kto":
        nothing = np.zeros(len(rows), dtype=np.int64)
        return Items(rows, nothing, nothing == 0, nothing)
    found = [(row, side, good) for row in rows.tolist() for side, good in enumerate(_verdicts(store.rows, row))]
    row, side, good = (np.array(column, dtype=np.int64) for column in zip(*found, strict=True))
    names = np.unique(row)
    order = names[np.argsort(uniform(seed, 0, names, np.zeros_like(names), stream=7), kind="stable")]
    following = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    first = {name: int(np.flatnonzero(row == name)[0]) for name in names.tolist()}
    last = {name: int(np.flatnonzero(row == name)[-1]) for name in names.tolist()}
    partner = [following[name] for name in row.tolist()]
    other = [min(first[name] + int(at), last[name]) for name, at in zip(partner, side, strict=True)]
    return Items(row, side, good == 1, np.array(other, dtype=np.int64))


def _verdicts(rows: Mapping[str, Array], row: int) -> list[int]:
    """How each answer of a row was called: 1 = good."""
    return [1, 0] if rows["kind"][row] == "pair" else [int(rows["label"][row])]
