"""Keys and values: of the answers in the batch, and of beginnings of prompts that may come again.

Letters: B sequences, G key/value heads, T places, K head width, L layers.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import Tensor

from wyrmling.model.heads import Model

# Tokens that are kept or forgotten together.
BLOCK = 32


class Cache:
    """Keys and values of every layer; sequences lie in slots 0 … B-1 without gaps. It grows as needed."""

    def __init__(self, model: Model) -> None:
        config = model.config
        weight = model.body.embedding.weight
        self.context = config.context
        # (2: keys and values, layers, slots, G, T, K)
        self.kv = weight.new_zeros(2, config.layers, 1, config.kv_heads, min(64, config.context), config.head_dim)

    def room_for(self, tokens: int) -> Tensor:
        """An empty place for the keys and values of one prompt, (2, L, G, T, K)."""
        layers, _, groups, _, width = self.kv.shape[1:]
        return self.kv.new_empty(2, layers, groups, tokens, width)

    def reserve(self, slots: int, places: int) -> None:
        """Make room for this many sequences of this many tokens, doubling so that growth stays rare."""
        have_slots, have_places = self.kv.shape[2], self.kv.shape[4]
        if slots <= have_slots and places <= have_places:
            return
        shape = list(self.kv.shape)
        shape[2] = max(slots, 2 * have_slots) if slots > have_slots else have_slots
        shape[4] = min(max(places, 2 * have_places), self.context) if places > have_places else have_places
        grown = self.kv.new_zeros(shape)
        grown[:, :, :have_slots, :, :have_places] = self.kv
        self.kv = grown

    def begin(self, slot: int, kv_2LGTK: Tensor) -> None:
        """Give a prompt that was read a slot."""
        self.reserve(slot + 1, kv_2LGTK.shape[3])
        self.kv[:, :, slot, :, : kv_2LGTK.shape[3]] = kv_2LGTK

    def of(self, slot: int, tokens: int) -> Tensor:
        """The keys and values of the first tokens in a slot, (2, L, G, T, K); a view."""
        return self.kv[:, :, slot, :, :tokens]

    def move(self, source: int, target: int) -> None:
        """Give the sequence in slot `source` the slot `target`."""
        self.kv[:, :, target] = self.kv[:, :, source]


class Prefixes:
    """Keys and values of texts that were read, in blocks of tokens: what begins like one of them is not read again.

    A block is known by the hash of all tokens up to its end and of its owner, so that nobody learns from a fast answer
    what another has asked. What was not used longest is forgotten first.

    room_bytes   how much is kept; 0: nothing
    """

    def __init__(self, room_bytes: int) -> None:
        self._room, self._bytes = room_bytes, 0
        self._blocks: OrderedDict[bytes, Tensor] = OrderedDict()

    def find(self, owner: str, ids: Sequence[int]) -> list[Tensor]:
        """The blocks that a prompt begins with, (2, L, G, BLOCK, K) each.

        At least one token is left to be read: the answer begins after it.
        """
        found = []
        for name in self._names(owner, ids[:-1]):
            if name not in self._blocks:
                break
            self._blocks.move_to_end(name)
            found.append(self._blocks[name])
        return found

    def keep(self, owner: str, ids: Sequence[int], kv_2LGTK: Tensor) -> None:
        """Remember the whole blocks of a text that was read, as far as there are keys and values of it."""
        if not self._room:
            return
        for i, name in enumerate(self._names(owner, ids[: kv_2LGTK.shape[3]])):
            if name in self._blocks:
                self._blocks.move_to_end(name)
                continue
            block = kv_2LGTK[:, :, :, i * BLOCK : (i + 1) * BLOCK].clone()
            self._blocks[name] = block
            self._bytes += block.nbytes
        while self._bytes > self._room:
            self._bytes -= self._blocks.popitem(last=False)[1].nbytes

    @staticmethod
    def _names(owner: str, ids: Sequence[int]) -> Iterator[bytes]:
        name = hashlib.sha256(owner.encode()).digest()
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            name = hashlib.sha256(name + array("q", ids[start : start + BLOCK]).tobytes()).digest()
            yield name


def read_into(kv_2LGTK: Tensor, blocks: Sequence[Tensor]) -> int:
    """Put remembered blocks at the beginning; how many tokens that are."""
    for i, block in enumerate(blocks):
        kv_2LGTK[:, :, :, i * BLOCK : (i + 1) * BLOCK] = block
    return len(blocks) * BLOCK
