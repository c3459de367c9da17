"""Which tokens see each other, and the fastest exact way to compute it on this device.

Documents are packed end to end. Small matrices are slow one at a time, so on a CPU documents of about equal length are
laid side by side in one rectangle; a rectangle's filler places are never seen by a real token, and are there in
attention only: the rest of a layer works on the tokens. The layout is planned once per batch. A GPU that computes in
16 bits takes the documents as they lie instead: flat_attention.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from wyrmling.model.kernels import even_size
from wyrmling.model.positions import alibi_slopes


@dataclass(frozen=True)
class Rule:
    """Who sees whom in a layer, and how a score is made.

    causal      a token sees itself and what came before it; False: the whole document
    reach       how many tokens away it still sees. None: any
    scale       factor of the product of query and key. None: K^-½
    cap         scores are bent to cap * tanh(score / cap). None: not
    alibi       scores fall with the distance, by each head's slope; "rounded" as Falcon does
    """

    causal: bool = True
    reach: int | None = None
    scale: float | None = None
    cap: float | None = None
    alibi: Literal["exact", "rounded"] | None = None


# (layer, its rule, q_PHK, k_PGK, v_PGK) -> (P, H, K)
Attend = Callable[[int, Rule, Tensor, Tensor, Tensor], Tensor]


class Masks:
    """What each query of a layout sees among its keys, made once for each rule.

    asks_BT   position of each query in its document
    keys_T    position of each key
    keep_BT   True where a key holds a token. None: all do
    """

    def __init__(self, asks_BT: Tensor, keys_T: Tensor, keep_BT: Tensor | None = None) -> None:
        self.asks_BT, self.keys_T, self.keep_BT = asks_BT, keys_T, keep_BT
        self._made: dict[tuple[Rule, int, torch.dtype], Tensor] = {}

    def of(self, rule: Rule, heads: int, dtype: torch.dtype) -> Tensor:
        """(B, 1, T, T) bool, True = sees; with ALiBi (B, H, T, T) float to add to the scores."""
        key = (rule, heads, dtype)
        if key not in self._made:
            # Outside inference mode, whose tensors could not take part in training later.
            with torch.inference_mode(False):
                self._made[key] = self._make(rule, heads, dtype)
        return self._made[key]

    def _make(self, rule: Rule, heads: int, dtype: torch.dtype) -> Tensor:
        distance_BTT = self.asks_BT[:, :, None] - self.keys_T
        sees_BTT = distance_BTT >= 0 if rule.causal else torch.ones_like(distance_BTT, dtype=torch.bool)
        if rule.reach is not None:
            sees_BTT = sees_BTT & (distance_BTT.abs() <= rule.reach)
        if self.keep_BT is not None:
            # A filler place sees itself: a softmax over nothing is not a number.
            sees_BTT = sees_BTT & self.keep_BT[:, None, :] | (distance_BTT == 0)
        sees_B1TT = sees_BTT.unsqueeze(1)
        if rule.alibi is None:
            return sees_B1TT
        asks_BHT, keys_1HT = (falls(rule, heads, positions) for positions in (self.asks_BT, self.keys_T[None]))
        bias_BHTT = keys_1HT[:, :, None, :] - asks_BHT[..., None]
        return bias_BHTT.masked_fill(~sees_B1TT, -torch.inf).to(dtype)


def falls(rule: Rule, heads: int, positions_BT: Tensor) -> Tensor:
    """ALiBi's slope times position, (B, H, T) float32: their difference is what a score loses."""
    slopes_H1 = alibi_slopes(heads).to(positions_BT.device)[:, None]
    if rule.alibi == "exact":
        return slopes_H1 * positions_BT[:, None, :]
    return (slopes_H1.bfloat16() * positions_BT[:, None, :]).float() * (rule.scale or 1.0)


def attention(
    rule: Rule, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, mask: Tensor | None, *, causal: bool = False
) -> Tensor:
    """Softmax attention, (B, H, T, K).

    mask    bool, True = sees, or float added to the scores. None: all is seen, or what came before with `causal`
    """
    groups = q_BHTK.shape[1] // k_BGTK.shape[1]
    if rule.cap is None:
        with _wide(q_BHTK) as wide:
            q, k, v = (x.float() if wide else x for x in (q_BHTK, k_BGTK, v_BGTK))
            mask = mask.float() if wide and mask is not None and mask.is_floating_point() else mask
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, scale=rule.scale, enable_gqa=groups > 1
            )
    scale = q_BHTK.shape[-1] ** -0.5 if rule.scale is None else rule.scale
    k_BHTK, v_BHTK = k_BGTK.repeat_interleave(groups, dim=1), v_BGTK.repeat_interleave(groups, dim=1)
    scores_BHTT = rule.cap * torch.tanh((q_BHTK @ k_BHTK.mT) * (scale / rule.cap))
    if mask is not None:
        scores_BHTT = scores_BHTT.masked_fill(~mask, -torch.inf)
    weights_BHTT = scores_BHTT.softmax(-1, dtype=torch.promote_types(scores_BHTT.dtype, torch.float32))
    return weights_BHTT.to(v_BHTK.dtype) @ v_BHTK


def in_16_bits_on_a_cpu(device: torch.device) -> bool:
    return device.type == "cpu" and torch.is_autocast_enabled("cpu")


@contextmanager
def _wide(q: Tensor) -> Iterator[bool]:
    """Compute in float32 for the length of the block where `needs_32_bits` says so."""
    if not needs_32_bits(q):
        yield False
        return
    with torch.autocast("cpu", enabled=False):
        yield True


def needs_32_bits(q: Tensor) -> bool:
    """Whether a backward pass will follow that is slow in 16 bits: on a CPU.

    Measured with torch 2.13 on one core with AVX512_BF16, forward and backward of 6 heads of width 64: 8 documents of
    36 tokens take 10.4 ms in bfloat16 and 1.5 ms in float32, 3 of 100 9.9 and 2.8, 2 of 256 19.6 and 17.8.
    """
    return q.requires_grad and in_16_bits_on_a_cpu(q.device)


# What one more rectangle costs, in filler places that would cost the same at this width, and the length of a document
# at which a place costs twice what it does in a short one.
RECTANGLE_COST, MEASURED_WIDTH, DOUBLING_LENGTH = 40, 384, 64


@dataclass(frozen=True)
class Rectangle:
    """`count` documents side by side, each in `length` places."""

    count: int
    length: int
    masks: Masks

    def attend(self, rule: Rule, q_PHK: Tensor, k_PGK: Tensor, v_PGK: Tensor) -> Tensor:
        """Attention of the rectangle's own places, (P, H, K)."""
        q, k, v = (x.view(self.count, self.length, *x.shape[1:]).transpose(1, 2) for x in (q_PHK, k_PGK, v_PGK))
        if self._all_seen(rule):
            out = attention(rule, q, k, v, None, causal=rule.causal)
        else:
            out = attention(rule, q, k, v, self.masks.of(rule, q.shape[1], q.dtype))
        return out.transpose(1, 2).flatten(0, 1)

    def _all_seen(self, rule: Rule) -> bool:
        """No mask is needed beyond causality: filler comes last, so nothing real looks at it when causal."""
        if rule.alibi is not None or (rule.reach is not None and rule.reach < self.length - 1):
            return False
        return rule.cap is None if rule.causal else self.masks.keep_BT is None


@dataclass(frozen=True)
class Plan:
    """The layout the stack runs in: P places, of which N hold a token.

    order_P      which token each place holds; filler repeats a token
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
        self._plans: dict[tuple[torch.device, bool, bool, int], Plan] = {}

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

    def plan(self, device: torch.device, width: int = MEASURED_WIDTH) -> Plan:
        """The layout for this device, arithmetic and width of the model, made at the first call and kept."""
        from wyrmling.model import flat_attention

        flat = flat_attention.serves(device)
        even = in_16_bits_on_a_cpu(device)
        key = (device, flat, even, width)
        if key not in self._plans:
            # Outside inference mode, whose tensors could not take part in training later.
            with torch.inference_mode(False):
                made = flat_attention.plan(self, device) if flat else _plan(self, device, even=even, width=width)
                self._plans[key] = made
        return self._plans[key]


def _plan(segments: Segments, device: torch.device, *, even: bool, width: int) -> Plan:
    """even: with filler up to a number of places that other batches have too."""
    lengths_S = torch.tensor(segments.lengths)
    by_length_S = lengths_S.argsort(stable=True)
    sorted_S = lengths_S[by_length_S]
    sorted_lengths = sorted_S.tolist()
    # The places of tokens: documents one after the other, the shortest first.
    starts_S = sorted_S.cumsum(0) - sorted_S
    positions_N = torch.arange(segments.n_tokens) - starts_S.repeat_interleave(sorted_S)
    order_N = segments.starts_S()[by_length_S].repeat_interleave(sorted_S) + positions_N
    rectangles, places, keeps = [], [], []
    for first, last in pairwise(rectangle_cuts(sorted_lengths, width)):
        longest = sorted_lengths[last - 1]
        place_T = torch.arange(longest)
        keep_BT = place_T < sorted_S[first:last, None]
        places.append((starts_S[first:last, None] + place_T.where(keep_BT, 0)).flatten())
        keeps.append(keep_BT.flatten())
        place_T = place_T.to(device)
        masks = Masks(place_T[None], place_T, None if bool(keep_BT.all()) else keep_BT.to(device))
        rectangles.append(Rectangle(last - first, longest, masks))
    left = even_size(segments.n_tokens) - segments.n_tokens if even else 0
    filler = torch.zeros(left, dtype=torch.int64)
    spread = None
    if not bool(torch.cat(keeps).all()):
        keep_R = torch.cat(keeps)
        token_R, place_P = torch.cat(places), torch.cat([keep_R.nonzero().squeeze(1), filler])
        empty = (~keep_R).nonzero().squeeze(1)
        spread = Spread(token_R.to(device), place_P.to(device), segments.n_tokens, empty.to(device))
    order_P, positions_P = torch.cat([order_N, filler]), torch.cat([positions_N, filler])
    where_N = order_N.argsort()
    attend = partial(_attend_rectangles, tuple(rectangles), left, spread)
    return Plan(order_P.to(device), positions_P.to(device), where_N.to(device), attend)


def rectangle_cuts(lengths: list[int], width: int = MEASURED_WIDTH) -> list[int]:
    """Where to cut an ascending list of lengths into rectangles so that filler plus rectangles cost least.

    Exact, by dynamic programming over the distinct lengths: a rectangle is as long as its longest document. A filler
    place costs with the width of the model and with what it attends to, a rectangle the same whatever they are.
    """
    rectangle_cost = RECTANGLE_COST * MEASURED_WIDTH / width
    ends = [i + 1 for i, length in enumerate(lengths) if i + 1 == len(lengths) or lengths[i + 1] != length]
    tokens_before = [0]
    for start, end in pairwise([0, *ends]):
        tokens_before.append(tokens_before[-1] + sum(lengths[start:end]))
    starts = [0, *ends]
    best: list[tuple[float, list[int]]] = [(0, [0])]
    for j, end in enumerate(ends, start=1):
        longest = lengths[end - 1]
        options = []
        for i in range(j):
            filler = (end - starts[i]) * longest - (tokens_before[j] - tokens_before[i])
            options.append((best[i][0] + filler * (1 + longest / DOUBLING_LENGTH) + rectangle_cost, i))
        cost, i = min(options)
        best.append((cost, [*best[i][1], end]))
    return best[-1][1]


@dataclass(frozen=True)
class Spread:
    """How the places of the stack go into rectangles with filler, R places in all, and back.

    token_R    the place of the stack whose values a place of the rectangles gets
    place_P    the place of the rectangles where each place of the stack is found
    n_tokens   the places of the stack after them hold no token
    filler     the places of the rectangles that hold no token
    """

    token_R: Tensor
    place_P: Tensor
    n_tokens: int
    filler: Tensor


class _IntoRectangles(torch.autograd.Function):
    """Values for the places of the rectangles. Filler gets some too, which nobody looks at.

    The gradients of this and of the way back are choices of places as well, where torch would add up.
    """

    @staticmethod
    def forward(ctx: Any, x_PHK: Tensor, spread: Spread) -> Tensor:
        ctx.spread = spread
        return x_PHK.index_select(0, spread.token_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_RHK: Tensor) -> tuple[Tensor, None]:
        gradient_PHK = gradient_RHK.index_select(0, ctx.spread.place_P)
        gradient_PHK[ctx.spread.n_tokens :].zero_()
        return gradient_PHK, None


class _OutOfRectangles(torch.autograd.Function):
    """The values of the stack's places, taken out of the rectangles again."""

    @staticmethod
    def forward(ctx: Any, x_RHK: Tensor, spread: Spread) -> Tensor:
        ctx.spread = spread
        return x_RHK.index_select(0, spread.place_P)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PHK: Tensor) -> tuple[Tensor, None]:
        gradient_RHK = gradient_PHK.index_select(0, ctx.spread.token_R)
        return gradient_RHK.index_fill_(0, ctx.spread.filler, 0), None


def _attend_rectangles(
    rectangles: tuple[Rectangle, ...],
    left: int,
    spread: Spread | None,
    _layer: int,
    rule: Rule,
    q_PHK: Tensor,
    k_PGK: Tensor,
    v_PGK: Tensor,
) -> Tensor:
    """left: places after the tokens, whose values nobody reads."""
    qkv = (q_PHK, k_PGK, v_PGK)
    sizes = [r.count * r.length for r in rectangles]
    if spread is not None:
        qkv = tuple(_IntoRectangles.apply(x, spread) for x in qkv)  # type: ignore[no-untyped-call]
    elif left:
        sizes.append(left)
    parts = list(zip(*(torch.split(x, sizes) for x in qkv), strict=True))
    outs = [rectangle.attend(rule, *one) for rectangle, one in zip(rectangles, parts, strict=False)]
    if spread is None and left:
        outs.append(parts[-1][0].to(outs[0].dtype))
    out = torch.cat(outs) if len(outs) > 1 else outs[0]
    if spread is not None:
        out = _OutOfRectangles.apply(out, spread)  # type: ignore[no-untyped-call]
    return out
