"""Which rows are learned in which step: a pure function of (data hash, seed, step), with no iterator state.

A row longer than the context is split into pieces and every piece is kept. An epoch is a permutation of the pieces,
cut into steps of nearly equal numbers of tokens, so each piece is learned once per epoch. A step is packed into
micro-batches by best fit, longest first. There is no padding anywhere.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

# Targets that are not learned; the value torch's own losses use.
IGNORED = -100

Array = np.ndarray[Any, np.dtype[Any]]


class Store(Protocol):
    """What batches need of a split of a token store (tokenizer.tokens.TokenStore has it)."""

    @property
    def rows(self) -> Mapping[str, Array]: ...

    def tokens(self, row: int) -> Array: ...

    def learn(self, row: int) -> Array: ...

    def tags(self, row: int) -> Array: ...


class Pieces(NamedTuple):
    """Stretches of rows, each at most one context long: three arrays of equal size."""

    row: Array
    start: Array
    length: Array


@dataclass(frozen=True)
class Batch:
    """Rows to learn from in one forward pass, flat.

    tokens   [N] int64, the model's input
    lengths  tokens of each segment; they sum to N
    targets  [N] int64 for token objectives, [segments] for classify; IGNORED where nothing is learned
    rows     [segments] index of each segment's row in the store
    """

    tokens: Tensor
    lengths: list[int]
    targets: Tensor
    rows: Array

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.tokens.to(device), self.lengths, self.targets.to(device), self.rows)


@dataclass(frozen=True)
class Noise:
    """How inputs are changed while training, decided by a hash of (seed, step, row, position).

    rate      share of ordinary tokens that the masked objective hides, or that other objectives blank out
    mask_id   the token that hides; ordinary ids are what a random replacement is drawn from
    """

    rate: float
    mask_id: int
    special_ids: tuple[int, ...]
    vocab_size: int

    @property
    def ordinary_ids(self) -> Array:
        return np.setdiff1d(np.arange(self.vocab_size), np.asarray(self.special_ids))


class Plan:
    """The order of learning: which pieces belong to which step."""

    def __init__(self, lengths: Array, *, data_hash: str, seed: int, batch_tokens: int) -> None:
        if len(lengths) == 0:
            raise ValueError("a plan needs at least one piece")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self._data_hash, self._seed = data_hash, seed
        total, longest = int(self.lengths.sum()), int(self.lengths.max())
        # No step is empty: a piece starts at least every `longest` tokens.
        self.steps_per_epoch = max(1, min(round(total / batch_tokens), total // longest))
        self._epoch = lru_cache(maxsize=2)(self._order)

    def pieces(self, step: int) -> Array:
        """Indices of the pieces learned in `step`, which counts from 1."""
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        order, bounds = self._epoch(epoch)
        chosen: Array = order[bounds[index] : bounds[index + 1]]
        return chosen

    def _order(self, epoch: int) -> tuple[Array, Array]:
        text = f"{self._data_hash}/{self._seed}/{epoch}"
        entropy = int.from_bytes(hashlib.sha256(text.encode()).digest(), "little")
        order = np.random.Generator(np.random.PCG64(entropy)).permutation(len(self.lengths))
        lengths = self.lengths[order]
        begins = np.cumsum(lengths) - lengths
        step_of_piece = begins * self.steps_per_epoch // int(lengths.sum())
        return order, np.searchsorted(step_of_piece, np.arange(self.steps_per_epoch + 1))


def split(lengths: Array, context: int) -> Pieces:
    """Every row in stretches of at most `context` tokens; nothing is left out but empty rows."""
    lengths = np.asarray(lengths, dtype=np.int64)
    counts = -(-lengths // context)
    row = np.repeat(np.arange(len(lengths)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.arange(len(row)) - first) * context
    return Pieces(row, start, np.minimum(lengths[row] - start, context))


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity`, by best fit, longest first.

    Something longer than the capacity gets a bin of its own. Inside a bin the lengths fall.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    bins: list[list[int]] = []
    # (room left, bin), kept sorted: the best fit is the first with enough room
    room: list[tuple[int, int]] = []
    for index in order:
        at = bisect.bisect_left(room, (lengths[index], -1))
        if at == len(room):
            bins.append([index])
            left, number = capacity - lengths[index], len(bins) - 1
        else:
            left, number = room.pop(at)
            bins[number].append(index)
            left -= lengths[index]
        bisect.insort(room, (left, number))
    return bins


def uniform(seed: int, step: int, rows: Array, positions: Array, *, stream: int) -> Array:
    """Numbers in [0, 1) that depend on nothing but the arguments (splitmix64, Steele et al. 2014).

    stream   tells apart several draws for the same token
    """
    with np.errstate(over="ignore"):
        state = _mix(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream))
        state = _mix(state + np.uint64(step))
        mixed = _mix(_mix(state + rows.astype(np.uint64)) + positions.astype(np.uint64))
    numbers: Array = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def _mix(value: Any) -> Any:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class Batches:
    """Steps of learning material for one objective over one split.

    objective   causal | masked | sft | classify | tag
    rows        indices of the store's rows to use
    context     longest segment
    noise       masks for the masked objective, blanked tokens for classify and tag; None: inputs stay as they are
    """

    def __init__(
        self,
        store: Store,
        objective: str,
        rows: Array,
        *,
        context: int,
        data_hash: str,
        seed: int,
        batch_tokens: int,
        micro_batch_tokens: int,
        noise: Noise | None = None,
    ) -> None:
        self.store, self.objective, self.noise = store, objective, noise
        self.seed, self.micro_batch_tokens = seed, micro_batch_tokens
        self.pieces = pieces_of(store, objective, rows, context)
        self.plan = Plan(self.pieces.length, data_hash=data_hash, seed=seed, batch_tokens=batch_tokens)
        self._ordinary = noise.ordinary_ids if noise is not None else np.empty(0, dtype=np.int64)

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch

    def over(self, store: Store) -> Batches:
        """The same pieces in the same order, with the tokens of another store and without noise."""
        other = copy(self)
        other.store, other.noise = store, None
        return other

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of `step` (from 1), the same whenever and wherever it is asked for."""
        return self._micro_batches(self.plan.pieces(step), step)

    def everything(self) -> list[Batch]:
        """Every piece once, in the order of the rows, for validation; masks are those of step 0."""
        begins = np.cumsum(self.pieces.length) - self.pieces.length
        bins = begins // self.micro_batch_tokens
        return [self._batch(part, 0) for part in np.split(np.arange(len(bins)), np.flatnonzero(np.diff(bins)) + 1)]

    def _micro_batches(self, indices: Array, step: int) -> list[Batch]:
        lengths = self.pieces.length[indices].tolist()
        return [self._batch(indices[chosen], step) for chosen in pack(lengths, self.micro_batch_tokens)]

    def _batch(self, indices: Array, step: int) -> Batch:
        rows, starts = self.pieces.row[indices], self.pieces.start[indices]
        lengths = self.pieces.length[indices]
        stretches = list(zip(rows.tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True))
        tokens = np.concatenate([self.store.tokens(row)[start:end] for row, start, end in stretches])
        draw = _Draw(self, step, np.repeat(rows, lengths), np.concatenate([np.arange(s, e) for _, s, e in stretches]))
        tokens, targets = self._targets(tokens, stretches, draw)
        return Batch(torch.from_numpy(tokens), lengths.tolist(), torch.from_numpy(targets), rows)

    def _targets(self, tokens: Array, stretches: list[tuple[int, int, int]], draw: _Draw) -> tuple[Array, Array]:
        if self.objective == "masked":
            return self._hide(tokens, draw)
        if self.objective in ("causal", "sft"):
            following = np.concatenate([self.store.tokens(row)[start + 1 : end + 1] for row, start, end in stretches])
            learned = np.concatenate([self.store.learn(row)[start + 1 : end + 1] for row, start, end in stretches])
            return tokens, np.where(learned, following, IGNORED)
        if self.noise is not None and self.noise.rate > 0 and draw.step > 0:
            blank = draw.chosen(tokens, self.noise)
            tokens = np.where(blank, self.noise.mask_id, tokens)
        if self.objective == "tag":
            return tokens, np.concatenate([self.store.tags(row)[start:end] for row, start, end in stretches])
        return tokens, self.store.rows["label"][[row for row, _, _ in stretches]].astype(np.int64)

    def _hide(self, tokens: Array, draw: _Draw) -> tuple[Array, Array]:
        """Of the chosen tokens 80 % become the mask, 10 % another token, 10 % stay (Devlin 2019, arXiv 1810.04805)."""
        if self.noise is None:
            raise ValueError("the masked objective needs noise")
        chosen = draw.chosen(tokens, self.noise)
        kind = draw.uniform(1)
        other = self._ordinary[(draw.uniform(2) * len(self._ordinary)).astype(np.int64)]
        hidden = np.where(kind < 0.8, self.noise.mask_id, np.where(kind < 0.9, other, tokens))
        return np.where(chosen, hidden, tokens), np.where(chosen, tokens, IGNORED)


@dataclass(frozen=True)
class _Draw:
    """The random numbers of the tokens of one micro-batch."""

    batches: Batches
    step: int
    rows: Array
    positions: Array

    def uniform(self, stream: int) -> Array:
        return uniform(self.batches.seed, self.step, self.rows, self.positions, stream=stream)

    def chosen(self, tokens: Array, noise: Noise) -> Array:
        return (self.uniform(0) < noise.rate) & ~np.isin(tokens, noise.special_ids)


def pieces_of(store: Store, objective: str, rows: Array, context: int) -> Pieces:
    """The stretches that hold something to learn.

    causal, sft   the last target is predicted from the token before it, so a row of n tokens has n - 1 inputs; what
                  follows the last target and stretches without any target are left out
    classify      the first `context` tokens of each row: it has one label
    masked, tag   all tokens
    """
    rows = np.asarray(rows, dtype=np.int64)
    lengths = store.rows["length"][rows].astype(np.int64)
    if objective == "classify":
        return Pieces(rows, np.zeros(len(rows), dtype=np.int64), np.minimum(lengths, context))
    if objective in ("masked", "tag"):
        pieces = split(lengths, context)
        return pieces._replace(row=rows[pieces.row])
    learned = [np.flatnonzero(store.learn(int(row))) for row in rows]
    inputs = np.array([int(targets[-1]) if len(targets) else 0 for targets in learned], dtype=np.int64)
    pieces = split(inputs, context)
    useful = np.array(
        [
            bool(np.any((learned[row] > start) & (learned[row] <= start + length)))
            for row, start, length in zip(pieces.row, pieces.start, pieces.length, strict=True)
        ],
        dtype=bool,
    )
    return Pieces(rows[pieces.row[useful]], pieces.start[useful], pieces.length[useful])
