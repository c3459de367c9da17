"""Which rows are learned in which step: a pure function of (data hash, seed, step), with no iterator state.

A row longer than the context is split into pieces and every piece is kept; order.py says which belong to which step.
A step is packed into micro-batches by best fit, longest first. There is no padding anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wyrmling.train.infill import Infill
from wyrmling.train.order import Array, Mixture, Pieces, Plan, deal, pack, plan_for, split, uniform

# Targets that are not learned; the value torch's own losses use.
IGNORED = -100

# A row and the first and last + 1 of its tokens.
Stretch = tuple[int, int, int]


class Store(Protocol):
    """What batches need of a split of a token store (tokenizer.tokens.TokenStore has it)."""

    @property
    def rows(self) -> Mapping[str, Array]: ...

    def tokens(self, row: int, start: int = 0, end: int | None = None) -> Array: ...

    def learn(self, row: int, start: int = 0, end: int | None = None) -> Array: ...

    def tags(self, row: int) -> Array: ...


@dataclass(frozen=True)
class Choices:
    """Which answers the segments of a batch are, when they are preferred or rated; see choices.py.

    item_S        the item of each segment
    side_S        0 = the chosen or rated answer, 1 = the one it is compared with
    good_S        whether the item's answer was called good
    group_S       the group of the item
    reference_S   log-probability by the model that training started from; None where the loss needs none
    """

    item_S: Array
    side_S: Tensor
    good_S: Tensor
    group_S: Tensor
    reference_S: Tensor | None

    def to(self, device: torch.device | str) -> Choices:
        reference_S = None if self.reference_S is None else self.reference_S.to(device)
        return Choices(
            self.item_S, self.side_S.to(device), self.good_S.to(device), self.group_S.to(device), reference_S
        )


@dataclass(frozen=True)
class Batch:
    """Rows to learn from in one forward pass, flat.

    tokens   [N] int64, the model's input
    lengths  tokens of each segment; they sum to N
    targets  [N] int64 for token objectives, [segments] for classify; IGNORED where nothing is learned. Where rows may
             have several labels [segments, labels], 1 = has it
    rows     [segments] index of each segment's row in the store; empty in a filler, which nothing is learned from
    choices  which answers the segments are, for the objective preference
    """

    tokens: Tensor
    lengths: list[int]
    targets: Tensor
    rows: Array
    choices: Choices | None = None

    def to(self, device: torch.device | str) -> Batch:
        choices = None if self.choices is None else self.choices.to(device)
        return Batch(self.tokens.to(device), self.lengths, self.targets.to(device), self.rows, choices)

    @property
    def n_tokens(self) -> int:
        """Tokens that are learned from."""
        return len(self.tokens) if len(self.rows) else 0

    def filler(self) -> Batch:
        """The first token alone, without a target: for a process that has no batch while others have one."""
        return Batch(self.tokens[:1], [1], torch.full_like(self.targets[:1], IGNORED), self.rows[:0])

    def with_a_target(self) -> Batch:
        """The same with something to learn, which must not count."""
        targets = self.targets.clone()
        targets[0] = 0
        return Batch(self.tokens, self.lengths, targets, self.rows)


@dataclass(frozen=True)
class Noise:
    """How inputs are changed while training, decided by a hash of (seed, step, row, position).

    rate      share of ordinary tokens that the masked objective hides, or that other objectives blank out
    mask_id   the token that hides; ordinary ids are what a random replacement is drawn from
    joints    for each token whether it begins, and whether it ends, in the middle of a word, two truth values;
              the tokens of a word are then hidden together. None: each for itself
    """

    rate: float
    mask_id: int
    special_ids: tuple[int, ...]
    vocab_size: int
    joints: Array | None = None

    @property
    def ordinary_ids(self) -> Array:
        return np.setdiff1d(np.arange(self.vocab_size), np.asarray(self.special_ids))


class Batches:
    """Steps of learning material for one objective over one split.

    objective   causal | masked | sft | classify | tag
    rows        indices of the store's rows to use
    context     longest segment
    noise       masks for the masked objective, blanked tokens for classify and tag; None: inputs stay as they are
    infill      causal rows that learn to fill in the middle; None: none do
    isolate     False: in training, pieces are laid end to end in segments of up to one context and see each other
    replay      share of each step's tokens that comes from some sources
    several     classify: labels that a row may have any number of; 0: every row has one
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
        infill: Infill | None = None,
        isolate: bool = True,
        replay: Mapping[str, float] | None = None,
        several: int = 0,
    ) -> None:
        self.several = several
        self.store, self.objective, self.noise, self.infill = store, objective, noise, infill
        self.seed, self.micro_batch_tokens = seed, micro_batch_tokens
        # Which of several processes this is, that share the micro-batches of a step.
        self.rank, self.ranks = 0, 1
        self.joined = None if isolate else context
        self.pieces = self._pieces(np.asarray(rows, dtype=np.int64), context)
        self.plan: Plan | Mixture = plan_for(
            self.pieces.length,
            store.rows["source"][self.pieces.row] if replay else self.pieces.row,
            replay or {},
            data_hash=data_hash,
            seed=seed,
            batch_tokens=batch_tokens,
        )
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
        indices = self.plan.pieces(step)
        return [
            self._batch(units, step) if units else self._batch([indices[:1]], step).filler()
            for units in self._micro_batches(indices)
        ]

    def everything(self) -> list[Batch]:
        """Every piece once, in the order of the rows, for validation; masks are those of step 0."""
        units = self._alone(np.arange(len(self.pieces.row)))
        sizes = np.array([self.pieces.length[unit].sum() for unit in units])
        bins = (np.cumsum(sizes) - sizes) // self.micro_batch_tokens
        parts = np.split(np.arange(len(bins)), np.flatnonzero(np.diff(bins)) + 1)
        return [self._batch([units[number] for number in part], 0) for part in parts]

    def _pieces(self, rows: Array, context: int) -> Pieces:
        return pieces_of(self.store, self.objective, rows, context - (0 if self.infill is None else self.infill.ADDED))

    def _alone(self, indices: Array) -> list[Array]:
        """The pieces that have to stay together in one micro-batch: each for itself."""
        return list(indices[:, None])

    def _micro_batches(self, indices: Array) -> list[list[Array]]:
        """Pieces in units of one segment, and units in micro-batches; of several processes, those of this one."""
        lengths = self.pieces.length[indices]
        # Units are made of the whole step, so that the size of a micro-batch does not change who sees whom.
        units = self._alone(indices)
        if self.joined is not None:
            units = [indices[chosen] for chosen in pack(lengths.tolist(), self.joined)]
        sizes = [int(self.pieces.length[unit].sum()) for unit in units]
        bins = (
            pack(sizes, self.micro_batch_tokens)
            if self.ranks == 1
            else deal(sizes, self.micro_batch_tokens, self.ranks)[self.rank :: self.ranks]
        )
        return [[units[number] for number in chosen] for chosen in bins]

    def _batch(self, units: list[Array], step: int) -> Batch:
        indices = np.concatenate(units)
        rows, starts = self.pieces.row[indices], self.pieces.start[indices]
        stretches = list(
            zip(rows.tolist(), starts.tolist(), (starts + self.pieces.length[indices]).tolist(), strict=True)
        )
        inputs, targets = self._learned(stretches, step)
        bounds = np.cumsum([0, *(len(unit) for unit in units)])
        lengths = np.add.reduceat([len(tokens) for tokens in inputs], bounds[:-1]).tolist()
        flat = torch.from_numpy(np.concatenate(inputs)), torch.from_numpy(targets)
        return Batch(flat[0], lengths, flat[1], rows[bounds[:-1]])

    def _learned(self, stretches: list[Stretch], step: int) -> tuple[list[Array], Array]:
        """The input tokens of each stretch, and the targets of all."""
        if self.objective in ("causal", "sft"):
            pairs = [self._following(stretch, step) for stretch in stretches]
            return [inputs for inputs, _ in pairs], np.concatenate([targets for _, targets in pairs])
        pieces = [self.store.tokens(*stretch) for stretch in stretches]
        lengths = [len(piece) for piece in pieces]
        places = np.concatenate([np.arange(start, end) for _, start, end in stretches])
        draw = _Draw(self, step, np.repeat([row for row, _, _ in stretches], lengths), places)
        tokens, targets = self._targets(np.concatenate(pieces), stretches, draw)
        return np.split(tokens, np.cumsum(lengths)[:-1]), targets

    def _following(self, stretch: Stretch, step: int) -> tuple[Array, Array]:
        """Each token of a stretch with the one after it as its target, if that is learned."""
        row, start, end = stretch
        tokens, learn = self.store.tokens(row, start, end + 1), self.store.learn(row, start, end + 1)
        # A conversation without its order would be none.
        if self.infill is not None and step > 0 and self.store.rows["kind"][row] != "conversation":
            draws = uniform(self.seed, step, np.full(4, row), np.full(4, start), stream=np.arange(3, 7))
            opened, ended = start == 0 and not learn[0], end + 1 == int(self.store.rows["length"][row])
            tokens, learn = self.infill.apply(tokens, learn, draws, opened=opened, ended=ended)
        return tokens[:-1], np.where(learn[1:], tokens[1:], IGNORED)

    def _targets(self, tokens: Array, stretches: list[Stretch], draw: _Draw) -> tuple[Array, Array]:
        if self.objective == "masked":
            return self._hide(tokens, draw)
        if self.noise is not None and self.noise.rate > 0 and draw.step > 0:
            blank = draw.chosen(tokens, self.noise)
            tokens = np.where(blank, self.noise.mask_id, tokens)
        if self.objective == "tag":
            return tokens, np.concatenate([self.store.tags(row)[start:end] for row, start, end in stretches])
        return tokens, self._labels([row for row, _, _ in stretches])

    def _labels(self, rows: list[int]) -> Array:
        """The label of each row; where there may be several a row of yes and no, 1 and 0, for every label."""
        if not self.several:
            found: Array = self.store.rows["label"][rows].astype(np.int64)
            return found
        targets = np.zeros((len(rows), self.several), dtype=np.int64)
        for place, row in enumerate(rows):
            targets[place, self.store.rows["labels"][row]] = 1
        return targets

    def _hide(self, tokens: Array, draw: _Draw) -> tuple[Array, Array]:
        """Of the chosen tokens 80 % become the mask, 10 % another token, 10 % stay (Devlin 2019, arXiv 1810.04805)."""
        if self.noise is None:
            raise ValueError("the masked objective needs noise")
        chosen = draw.chosen(tokens, self.noise, self.noise.joints)
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

    def chosen(self, tokens: Array, noise: Noise, joints: Array | None = None) -> Array:
        """Which tokens are hidden. With `joints`, the draw for the first token of a word decides about all of it."""
        draws = self.uniform(0)
        if joints is not None:
            follows = np.append(
                False, (self.rows[1:] == self.rows[:-1]) & (self.positions[1:] == self.positions[:-1] + 1)
            )
            inner = follows & joints[tokens, 0] & np.append(False, joints[tokens[:-1], 1])
            draws = draws[np.maximum.accumulate(np.where(inner, 0, np.arange(len(tokens))))]
        return (draws < noise.rate) & ~np.isin(tokens, noise.special_ids)


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
            np.searchsorted(learned[row], start, "right") < np.searchsorted(learned[row], start + length, "right")
            for row, start, length in zip(pieces.row, pieces.start, pieces.length, strict=True)
        ],
        dtype=bool,
    )
    return Pieces(rows[pieces.row[useful]], pieces.start[useful], pieces.length[useful])
