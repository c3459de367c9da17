"""The order of learning: which stretch of which row belongs to which step, a pure function of (data hash, seed, step).

An epoch is a permutation of the pieces, cut into steps of nearly equal numbers of tokens, so each piece is learned once
per epoch. No torch, no iterator state.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Pieces(NamedTuple):
    """Stretches of rows, each at most one context long: three arrays of equal size."""

    row: Array
    start: Array
    length: Array


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


class Mixture:
    """Several plans side by side: each step takes pieces of all of them. An epoch is one of the first.

    parts   the pieces of each plan (indices into all pieces), and the plan
    """

    def __init__(self, parts: Sequence[tuple[Array, Plan]]) -> None:
        self._parts = parts
        self.steps_per_epoch = parts[0][1].steps_per_epoch

    def pieces(self, step: int) -> Array:
        """Indices of the pieces learned in `step`, which counts from 1."""
        return np.concatenate([indices[plan.pieces(step)] for indices, plan in self._parts])


def plan_for(
    lengths: Array, source: Array, replay: Mapping[str, float], *, data_hash: str, seed: int, batch_tokens: int
) -> Plan | Mixture:
    """The plan of all pieces, or, with `replay`, one that fills a share of each step's tokens from some sources.

    lengths, source   of each piece: tokens, and the name of where it is from
    replay            share of each step's tokens by source. What a source has is gone through again as often as needed;
                      a source with less than its share of one step gives all it has to each
    """
    if not replay:
        return Plan(lengths, data_hash=data_hash, seed=seed, batch_tokens=batch_tokens)
    parts = [(~np.isin(source, list(replay)), "", 1 - sum(replay.values()))]
    parts += [(source == name, f"/{name}", share) for name, share in replay.items()]
    plans = []
    for chosen, suffix, share in parts:
        indices, tokens = np.flatnonzero(chosen), max(1, round(batch_tokens * share))
        plans.append((indices, Plan(lengths[indices], data_hash=data_hash + suffix, seed=seed, batch_tokens=tokens)))
    return Mixture(plans)


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


def deal(lengths: Sequence[int], capacity: int, ranks: int) -> list[list[int]]:
    """Indices of `lengths` in bins of about equal size, as many for each of the ranks: bin i is of rank i % ranks.

    A bin holds at most `capacity`, or something that is longer. Some may be empty. Inside a bin the lengths fall.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    most = max(capacity, max(lengths, default=0))
    count = ranks * max(1, -(-sum(lengths) // (capacity * ranks)))
    while True:
        bins: list[list[int]] = [[] for _ in range(count)]
        emptiest = [(0, number) for number in range(count)]
        for index in order:
            size, number = emptiest[0]
            heapq.heapreplace(emptiest, (size + lengths[index], number))
            bins[number].append(index)
        if max(emptiest)[0] <= most:
            return bins
        count += ranks


def uniform(seed: int, step: int, rows: Array, positions: Array, *, stream: int | Array) -> Array:
    """Numbers in [0, 1) that depend on nothing but the arguments (splitmix64, Steele et al. 2014).

    stream   tells apart several draws for the same token
    """
    with np.errstate(over="ignore"):
        state = _mix(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.asarray(stream, dtype=np.uint64))
        state = _mix(state + np.uint64(step))
        mixed = _mix(_mix(state + rows.astype(np.uint64)) + positions.astype(np.uint64))
    numbers: Array = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def _mix(value: Any) -> Any:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
