"""Which tokens see each other, and the fastest exact way to compute it on this device.

Documents are packed end to end. Small matrices are slow one at a time, so on a CPU documents of about equal length are
laid side by side in one rectangle; a rectangle's few filler places are never seen by a real token. The layout is
planned once per batch and the whole stack runs in it, so that a layer only takes views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

# (layer, q_PHK, k_PGK, v_PGK) -> (P, H, K)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

# What one more rectangle costs, in tokens of filler that would cost the same. Measured on 2 CPU cores at width 128:
# about 0.3 ms per rectangle and layer (forward and backward) against 11 microseconds per token and layer.
RECTANGLE_COST_TOKENS = 27


@dataclass(frozen=True)
class Rectangle:
    """`count` documents side by side, each in `length` places."""

    count: int
    length: int
    attend_B11T: Tensor | None
    """True where a place holds a token; None when all do."""


@dataclass(frozen=True)
class Plan:
    """The layout the stack runs in: P places, of which N hold a token.

    order_P      which token each place holds; filler repeats a token of the same document
    positions_P  its position within the document
    where_N      the place of each token
    attend       attention over this layout
    """

    order_P: Tensor
    positions_P: Tensor
    where_N: Tensor
    attend: Attend


class Segments:
    """The documents of a batch: their lengths, in the order in which their tokens are laid end to end.

    Raises   ValueError for an empty batch or an empty document
    """

    def __init__(self, lengths: Sequence[int] | Tensor) -> None:
        self.lengths: tuple[int, ...] = tuple(int(n) for n in lengths)
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"segments need at least one document of at least one token, not lengths {self.lengths}")
        self.n_tokens = sum(self.lengths)
        self._plans: dict[tuple[torch.device, bool], Plan] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def segment_N(self, device: torch.device | None = None) -> Tensor:
        """The number of the document each token belongs to, int64."""
        lengths_S = torch.tensor(self.lengths, device=device)
        return torch.arange(len(self.lengths), device=device).repeat_interleave(lengths_S, output_size=self.n_tokens)

    def starts_S(self, device: torch.device | None = None) -> Tensor:
        """The index of each document's first token, int64."""
        lengths_S = torch.tensor(self.lengths, device=device)
        return lengths_S.cumsum(0) - lengths_S

    def plan(self, device: torch.device, *, causal: bool) -> Plan:
        """The layout for this device, made at the first call and kept."""
        key = (device, causal)
        if key not in self._plans:
            # Outside inference mode, whose tensors could not take part in training later.
            with torch.inference_mode(False):
                self._plans[key] = _plan(self, device, causal)
        return self._plans[key]


def _plan(segments: Segments, device: torch.device, causal: bool) -> Plan:
    lengths_S = torch.tensor(segments.lengths)
    by_length_S = lengths_S.argsort(stable=True)
    sorted_lengths = lengths_S[by_length_S].tolist()
    starts_S = segments.starts_S()[by_length_S]
    rectangles, orders, positions, keeps = [], [], [], []
    for first, last in pairwise(rectangle_cuts(sorted_lengths)):
        longest = sorted_lengths[last - 1]
        place_T = torch.arange(longest)
        keep_BT = place_T < lengths_S[by_length_S[first:last], None]
        offset_BT = place_T.where(keep_BT, 0)
        orders.append((starts_S[first:last, None] + offset_BT).flatten())
        positions.append(offset_BT.flatten())
        keeps.append(keep_BT.flatten())
        mask = None if causal or bool(keep_BT.all()) else keep_BT[:, None, None, :].to(device)
        rectangles.append(Rectangle(last - first, longest, mask))
    order_P, keep_P = torch.cat(orders), torch.cat(keeps)
    where_N = torch.empty(segments.n_tokens, dtype=torch.int64)
    where_N[order_P[keep_P]] = keep_P.nonzero().squeeze(1)
    attend = partial(_attend_rectangles, tuple(rectangles), causal)
    return Plan(order_P.to(device), torch.cat(positions).to(device), where_N.to(device), attend)


def rectangle_cuts(lengths: list[int]) -> list[int]:
    """Where to cut an ascending list of lengths into rectangles so that filler plus rectangles cost least.

    Exact, by dynamic programming over the distinct lengths: a rectangle is as long as its longest document.
    """
    ends = [i + 1 for i, length in enumerate(lengths) if i + 1 == len(lengths) or lengths[i + 1] != length]
    best: list[tuple[int, list[int]]] = [(0, [0])]
    tokens_before = [0]
    for end in ends:
        start = best[-1][1][-1]
        tokens_before.append(tokens_before[-1] + sum(lengths[start:end]))
        best.append((0, [0, end]))
    starts = [0, *ends]
    best = [(0, [0])]
    for j, end in enumerate(ends, start=1):
        options = []
        for i in range(j):
            places = (end - starts[i]) * lengths[end - 1]
            filler = places - (tokens_before[j] - tokens_before[i])
            options.append((best[i][0] + filler + RECTANGLE_COST_TOKENS, i))
        cost, i = min(options)
        best.append((cost, [*best[i][1], end]))
    return best[-1][1]


def _attend_rectangles(
    rectangles: tuple[Rectangle, ...], causal: bool, _layer: int, q_PHK: Tensor, k_PGK: Tensor, v_PGK: Tensor
) -> Tensor:
    sizes = [r.count * r.length for r in rectangles]
    outs = []
    for rectangle, *qkv in zip(rectangles, *(torch.split(x, sizes) for x in (q_PHK, k_PGK, v_PGK)), strict=True):
        q, k, v = (x.unflatten(0, (rectangle.count, rectangle.length)).transpose(1, 2) for x in qkv)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=rectangle.attend_B11T, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
        )
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs) if len(outs) > 1 else outs[0]
