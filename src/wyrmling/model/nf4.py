"""Frozen weights in 4 bits: NF4 with double quantisation, 0.516 bytes per weight, on any device torch runs on.

Each block of 64 weights shares one scale; the scales themselves are 8-bit numbers in groups of 256. A product
dequantises its matrix, uses it and drops it again, forward and backward.
Source   Dettmers 2023, QLoRA (arXiv 2305.14314), sections 3 and appendix E
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BLOCK, GROUP = 64, 256
# The 16 values: quantiles of a standard normal scaled to [-1, 1], with an exact zero.
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class NF4Linear(nn.Module):
    """A linear layer whose frozen matrix is kept in 4 bits. The bias stays as it is.

    codes    [weights / 2] uint8: two weights each, the first in the upper half
    scales   [blocks] int8: scale of each block, relative to its group
    groups   [groups] float32: what one unit of `scales` is worth
    mean     [] float32: mean scale, added to all
    """

    codes: Tensor
    scales: Tensor
    groups: Tensor
    mean: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        codes, scales, groups, mean = quantise(linear.weight.detach())
        for name, tensor in (("codes", codes), ("scales", scales), ("groups", groups), ("mean", mean)):
            self.register_buffer(name, tensor)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The weights, dequantised: (out, in)."""
        values = dequantise(self.codes, self.scales, self.groups, self.mean, dtype)
        return values[: self.out_features * self.in_features].view(self.out_features, self.in_features)

    def forward(self, x_ND: Tensor) -> Tensor:
        out_NO: Tensor = _FrozenProduct.apply(x_ND, self)  # type: ignore[no-untyped-call]
        return out_NO if self.bias is None else out_NO + self.bias


class _FrozenProduct(torch.autograd.Function):
    """x @ W.T that keeps nothing for backward: W is dequantised again."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer, ctx.x_dtype = layer, x_ND.dtype
        ctx.compute = compute_dtype(x_ND)
        return x_ND.to(ctx.compute) @ layer.matrix(ctx.compute).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, None]:
        return (grad_NO.to(ctx.compute) @ ctx.layer.matrix(ctx.compute)).to(ctx.x_dtype), None


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that a matrix product of `x` is computed in: autocast's, else its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def quantise(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(codes, scales, groups, mean) of a matrix, in the order of its memory; the last block is filled with zeros."""
    flat = weight.float().flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    largest = blocks.abs().amax(dim=1)
    scales, groups, mean = _quantise_scales(largest)
    # Codes are chosen for the scales as they will come back.
    restored = _dequantise_scales(scales, groups, mean)
    levels = torch.tensor(LEVELS, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / restored.clamp(min=1e-30)[:, None], between, out_int32=True).to(torch.uint8)
    first, second = codes.view(-1, 2).unbind(dim=1)
    return (first << 4) | second, scales, groups, mean


def dequantise(codes: Tensor, scales: Tensor, groups: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights in the order of their memory, with the filling at their end: [blocks x 64].

    The table has an entry for each pair of weights, and a pair moves as one number of twice the size: on a CPU that is
    ten times faster than looking up single weights.
    """
    wide = torch.float32 if dtype in (torch.float32, torch.float64) else dtype
    whole = torch.float64 if wide is torch.float32 else torch.float32
    levels = torch.tensor(LEVELS, device=codes.device).to(wide)
    table = torch.cartesian_prod(levels, levels).contiguous().view(whole).view(256)
    values = table.index_select(0, codes.int()).view(wide).view(-1, BLOCK)
    return values.mul_(_dequantise_scales(scales, groups, mean)[:, None].to(wide)).view(-1).to(dtype)


def _quantise_scales(largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales minus their mean as 8-bit numbers, each group of 256 in units of its own."""
    mean = largest.mean()
    grouped = nn.functional.pad(largest - mean, (0, -len(largest) % GROUP)).view(-1, GROUP)
    groups = grouped.abs().amax(dim=1) / 127
    scales = (grouped / groups.clamp(min=1e-30)[:, None]).round().to(torch.int8)
    return scales.view(-1)[: len(largest)].contiguous(), groups, mean


def _dequantise_scales(scales: Tensor, groups: Tensor, mean: Tensor) -> Tensor:
    return scales * groups.repeat_interleave(GROUP)[: len(scales)] + mean


def to_nf4(model: nn.Module, paths: Iterable[str]) -> None:
    """Replace the named linear layers by their 4-bit form; one at a time, so that little more memory is needed."""
    for path in paths:
        parent, _, name = path.rpartition(".")
        linear = model.get_submodule(path)
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"{path} is a {type(linear).__name__}, not a linear layer")
        setattr(model.get_submodule(parent), name, NF4Linear(linear))
