"""Low-rank corrections of a frozen linear layer: LoRA, rank-stabilised LoRA and DoRA.

A layer of ours may hold several matrices above each other that are layers of their own in the model's file, such as
queries, keys and values; each of these has its own pair A, B. All pairs of a layer lie in one matrix A and one matrix
B, so that the input is read once. adapter.py puts these layers into a model.

Letters: N tokens, I input width, O output width, P parts, R rank.
Sources  Hu 2021, LoRA (arXiv 2106.09685); Kalajdzievski 2023, rsLoRA (2312.03732); Liu 2024, DoRA (2402.09353)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wyrmling.model.nf4 import NF4Linear, compute_dtype

Frozen = nn.Linear | NF4Linear


class Part(NamedTuple):
    """Rows of a layer's output that have a pair A, B of their own; `scale` multiplies B @ A."""

    rows: slice
    scale: float

    @property
    def size(self) -> int:
        return int(self.rows.stop - self.rows.start)


class Branch(nn.Module):
    """The corrections that one adapter makes to one layer.

    down       A of all parts: (P x R, I)
    up         B of all parts: (rows of all parts, R)
    magnitude  DoRA: the length that each row of the corrected matrix is given; None: LoRA
    """

    def __init__(self, base: Frozen, parts: Sequence[Part], rank: int, *, dropout: float, dora: bool) -> None:
        super().__init__()
        self.parts, self.rank, self.dropout = tuple(parts), rank, dropout
        device = base.codes.device if isinstance(base, NF4Linear) else base.weight.device
        height = sum(part.size for part in parts)
        self.down = nn.Parameter(torch.zeros(len(parts) * rank, base.in_features, device=device))
        self.up = nn.Parameter(torch.zeros(height, rank, device=device))
        self.covers_all = height == base.out_features
        self.rows: Tensor
        self.squares: Tensor
        self.magnitude: nn.Parameter | None = None
        if dora:
            rows = torch.cat([torch.arange(part.rows.start, part.rows.stop) for part in parts]).to(device)
            squares = matrix_of(base, torch.float32)[rows].square().sum(dim=1)
            self.register_buffer("rows", rows, persistent=False)
            self.register_buffer("squares", squares, persistent=False)
            self.magnitude = nn.Parameter(squares.sqrt())

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """A uniform as in `torch.nn.Linear`, B zero: the layer starts as it was."""
        bound = self.down.shape[1] ** -0.5
        self.down.copy_(torch.empty(self.down.shape).uniform_(-bound, bound, generator=generator))
        self.up.zero_()

    def forward(self, x_NI: Tensor, base: nn.Module) -> Tensor:
        if not isinstance(base, Frozen):
            return self._added(x_NI, base)
        dropped_NI = F.dropout(x_NI, self.dropout) if self.training and self.dropout else None
        out_NO: Tensor = _LowRank.apply(x_NI, dropped_NI, self.down, self.up, self, base)  # type: ignore[no-untyped-call]
        if self.magnitude is None:
            return out_NO
        out_NO = out_NO * self._gain_O(self.magnitude, base)
        return out_NO if base.bias is None else out_NO + base.bias

    def _added(self, x_NI: Tensor, base: nn.Module) -> Tensor:
        """The answer on a layer that was rounded for inference. Raises TypeError for DoRA, which needs its matrix."""
        if self.magnitude is not None:
            raise TypeError("DoRA corrects a matrix, but this layer's was rounded")
        out_NO: Tensor = base(x_NI)
        narrow_NPR = x_NI @ self.down.to(x_NI.dtype).T
        narrow_by_part = torch.split(narrow_NPR, self.rank, dim=1)
        for part, up, narrow in zip(self.parts, self.ups(self.up.to(x_NI.dtype)), narrow_by_part, strict=True):
            out_NO[:, part.rows].addmm_(narrow, up.T, alpha=part.scale)
        return out_NO

    def deltas(self) -> list[Tensor]:
        """scale x B @ A of each part, float32: (rows, I)."""
        pairs = zip(self.parts, self.ups(self.up), self.downs(self.down), strict=True)
        return [part.scale * (up.detach().float() @ down.detach().float()) for part, up, down in pairs]

    def ups(self, up: Tensor) -> tuple[Tensor, ...]:
        """B of each part."""
        return torch.split(up, [part.size for part in self.parts])

    def downs(self, down: Tensor) -> tuple[Tensor, ...]:
        """A of each part."""
        return torch.split(down, self.rank)

    def stacked_parts(self) -> dict[str, tuple[int, ...]]:
        """Rows of each A in `down` and of each B in `up`."""
        return {"down": (self.rank,) * len(self.parts), "up": tuple(part.size for part in self.parts)}

    @torch.no_grad()
    def corrected(self, weight_OI: Tensor) -> Tensor:
        """A float32 copy of the layer's matrix with this correction built in."""
        weight_OI = weight_OI.float().clone()
        magnitudes = (None,) * len(self.parts) if self.magnitude is None else self.ups(self.magnitude.detach())
        for part, delta, magnitude in zip(self.parts, self.deltas(), magnitudes, strict=True):
            rows = weight_OI[part.rows].add_(delta)
            if magnitude is not None:
                rows.mul_((magnitude / rows.norm(dim=1))[:, None])
        return weight_OI

    def _gain_O(self, magnitude: Tensor, base: Frozen) -> Tensor:
        """What each output is multiplied by, so that its row of the matrix has the learned length.

        The length of the row itself is taken as a constant in backward (section 4.3 of the paper).
        """
        gain = magnitude / self._lengths(base)
        return gain if self.covers_all else gain.new_ones(base.out_features).index_copy(0, self.rows, gain)

    @torch.no_grad()
    def _lengths(self, base: Frozen) -> Tensor:
        """Lengths of the rows of W + s B A, by the binomial formula: the sum itself is never made."""
        weight_OI = matrix_of(base, torch.float32)
        terms = []
        for part, up, down in zip(self.parts, self.ups(self.up), self.downs(self.down), strict=True):
            mixed = (weight_OI[part.rows] @ down.T * up).sum(dim=1)
            own = (up @ (down @ down.T) * up).sum(dim=1)
            terms.append(2 * part.scale * mixed + part.scale**2 * own)
        return (self.squares + torch.cat(terms)).clamp(min=0).sqrt()


class LoraLinear(nn.Module):
    """A frozen linear layer with the corrections of any number of adapters, of which at most one is applied.

    active   the adapter in use; None: the layer as it was
    """

    def __init__(self, base: Frozen) -> None:
        super().__init__()
        self.base = base
        self.branches = nn.ModuleDict()
        self.active: str | None = None

    def branch(self, name: str) -> Branch:
        found = self.branches[name]
        assert isinstance(found, Branch)
        return found

    def forward(self, x_NI: Tensor) -> Tensor:
        out_NO: Tensor = self.base(x_NI) if self.active is None else self.branch(self.active)(x_NI, self.base)
        return out_NO

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer with the active correction built in, computed in float32; takes over the frozen layer."""
        if not isinstance(self.base, nn.Linear):
            raise TypeError("a 4-bit matrix can't take up a correction; merge into the model it was made from")
        if self.active is not None:
            self.base.weight.copy_(self.branch(self.active).corrected(self.base.weight))
        return self.base


class _LowRank(torch.autograd.Function):
    """x W^T + bias + s (x A^T) B^T, and its gradients for x, A and B.

    The correction is added into the product in place, in both directions. What is kept for backward is x, once, and the
    narrow x A^T; a 4-bit W is dequantised again.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, dropped_NI: Tensor | None, down: Tensor, up: Tensor, branch: Branch, base: Frozen
    ) -> Tensor:
        ctx.branch, ctx.base, ctx.x_dtype, ctx.compute = branch, base, x_NI.dtype, compute_dtype(x_NI)
        x_NI = x_NI.to(ctx.compute)
        seen_NI = x_NI if dropped_NI is None else dropped_NI.to(ctx.compute)
        # DoRA adds the bias itself, after it has stretched the rows.
        bias = base.bias if branch.magnitude is None else None
        out_NO = F.linear(x_NI, matrix_of(base, ctx.compute), None if bias is None else bias.to(ctx.compute))
        narrow_NPR = seen_NI @ down.to(ctx.compute).T
        for part, up_i, narrow in zip(
            branch.parts, branch.ups(up.to(ctx.compute)), torch.split(narrow_NPR, branch.rank, dim=1), strict=True
        ):
            out_NO[:, part.rows].addmm_(narrow, up_i.T, alpha=part.scale)
        ctx.dropped = dropped_NI is not None
        ctx.save_for_backward(seen_NI, narrow_NPR, down, up)
        return out_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        seen_NI, narrow_NPR, down, up = ctx.saved_tensors
        branch, grad_NO = ctx.branch, grad_NO.to(ctx.compute)
        grad_narrow_NPR, grad_up = torch.empty_like(narrow_NPR), torch.empty_like(up)
        for part, up_i, grad_up_i, narrow, grad_narrow in zip(
            branch.parts,
            branch.ups(up.to(ctx.compute)),
            branch.ups(grad_up),
            torch.split(narrow_NPR, branch.rank, dim=1),
            torch.split(grad_narrow_NPR, branch.rank, dim=1),
            strict=True,
        ):
            grad_part = grad_NO[:, part.rows]
            grad_narrow.copy_(grad_part @ up_i).mul_(part.scale)
            grad_up_i.copy_(grad_part.T @ narrow).mul_(part.scale)
        grad_down = (grad_narrow_NPR.T @ seen_NI).to(down.dtype)
        grad_x = grad_dropped = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_NO @ matrix_of(ctx.base, ctx.compute)
            if ctx.dropped:
                grad_dropped = (grad_narrow_NPR @ down.to(ctx.compute)).to(ctx.x_dtype)
            else:
                grad_x.addmm_(grad_narrow_NPR, down.to(ctx.compute))
            grad_x = grad_x.to(ctx.x_dtype)
        return grad_x, grad_dropped, grad_down, grad_up, None, None


def matrix_of(base: Frozen, dtype: torch.dtype) -> Tensor:
    """The weights of a frozen layer in this type; no copy is made when they have it."""
    return base.matrix(dtype) if isinstance(base, NF4Linear) else base.weight.to(dtype)


def scale_of(rank: int, alpha: float, *, rslora: bool) -> float:
    """What B @ A is multiplied by: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank
