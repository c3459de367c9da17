"""Probing: the body runs once over all rows, and the head learns from what it said.

Stored are the hidden states that the head is applied to: one per document for classes, one per token for tags. The
material of a step then holds places in that store instead of tokens; the loop and the losses do not notice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wyrmling.config import TrainStep
from wyrmling.core.progress import bar
from wyrmling.model.attention import Segments
from wyrmling.model.foreign import Foreign
from wyrmling.model.heads import Model
from wyrmling.train.batches import Batches, Store
from wyrmling.train.methods import STORED
from wyrmling.train.order import Array

Autocast = Callable[[], AbstractContextManager[Any]]


class Probe(Model):
    """The head of a model on stored hidden states; its parameters are the model's own.

    hidden_PD   hidden states by place, float32 on the CPU
    """

    def __init__(self, model: Model, hidden_PD: Tensor) -> None:
        nn.Module.__init__(self)
        self.config, self.head, self.packed_output = model.config, model.head, None
        self.hidden_PD = hidden_PD

    def hidden(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """The stored hidden states; `tokens_N` are places."""
        places = _places(tokens_N, segments, pooled=self.head_name == "classes")
        wanted = places if rows_R is None else places[rows_R]
        return self.hidden_PD[wanted.cpu()].to(tokens_N.device)


@dataclass(frozen=True)
class Places:
    """A split whose tokens are places in the store of hidden states, from `first` on."""

    split: Store
    pooled: bool
    first: int

    @property
    def rows(self) -> Mapping[str, Array]:
        return self.split.rows

    def tokens(self, row: int, start: int = 0, end: int | None = None) -> Array:
        length = int(self.rows["length"][row])
        if self.pooled:
            return np.full(length, self.first + row)[start:end]
        first = self.first + int(self.rows["start"][row])
        return np.arange(first, first + length)[start:end]

    def learn(self, row: int, start: int = 0, end: int | None = None) -> Array:
        return self.split.learn(row, start, end)

    def tags(self, row: int) -> Array:
        return self.split.tags(row)

    @property
    def count(self) -> int:
        """Places that the split takes."""
        rows = self.rows
        if self.pooled or len(rows["length"]) == 0:
            return len(rows["length"])
        return int((rows["start"] + rows["length"]).max())


def can_store(model: Model, step: TrainStep) -> bool:
    """Whether the step learns from stored states; a model that transformers computes keeps its head to itself."""
    return step.method == "probe" and step.objective in STORED and not isinstance(model, Foreign)


def store(
    model: Model, batches: Batches, looks: Batches | None, file: Path, autocast: Autocast
) -> tuple[Probe, Batches, Batches | None]:
    """Run the body once over all rows: the head alone, and the material that goes with it.

    looks   the validation rows; None when there are none
    file    where the hidden states are kept while training; it can be larger than the memory
    """
    pooled = model.head_name == "classes"
    splits, placed, first = [batches] if looks is None else [batches, looks], [], 0
    for split in splits:
        places = Places(split.store, pooled, first)
        placed.append(split.over(places))
        first += places.count
    kept = np.memmap(file, dtype=np.float32, mode="w+", shape=(first, model.config.width))
    hidden_PD = torch.from_numpy(kept)
    for real, where in zip(splits, placed, strict=True):
        _fill(hidden_PD, model, real, where, autocast)
    return Probe(model, hidden_PD), placed[0], None if looks is None else placed[1]


def _fill(hidden_PD: Tensor, model: Model, real: Batches, placed: Batches, autocast: Autocast) -> None:
    device = next(model.parameters()).device
    pooled = model.head_name == "classes"
    model.eval()
    with bar("features", total=len(real.pieces.row)) as shown, torch.no_grad(), autocast():
        for batch, where in zip(real.everything(), placed.everything(), strict=True):
            segments = Segments(batch.lengths)
            hidden = model.hidden(batch.tokens.to(device), segments)
            hidden_PD[_places(where.tokens, segments, pooled=pooled)] = hidden.float().cpu()
            shown.advance(len(batch.lengths))


def _places(tokens_N: Tensor, segments: Segments, *, pooled: bool) -> Tensor:
    """The places of what the head is applied to: of documents that of their first token, else of each token."""
    return tokens_N[segments.starts_S(tokens_N.device)] if pooled else tokens_N
