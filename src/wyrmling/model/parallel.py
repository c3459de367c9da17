"""One model on several devices: cut by rows (FSDP2), and its matrices shared out (tensor parallel).

layout.py says which rectangles of whole tensors a process then holds. This file costs a second to import, so only
processes that train together do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from wyrmling.core.errors import BadSetting
from wyrmling.model.feed_forward import FeedForward, GatedFeedForward, Stacked
from wyrmling.model.heads import HeadName, Model
from wyrmling.model.layout import Grid, Split
from wyrmling.model.transformer import Attention, ModelConfig, Norm

NAMES = ("replica", "shard", "tensor")
# The first and the last linear layer of what is shared: heads, or the width of a feed-forward layer, lie between them.
SHARED: tuple[tuple[type[nn.Module], tuple[str, str]], ...] = (
    (Attention, ("qkv", "out")),
    (GatedFeedForward, ("gate_up", "down")),
    (FeedForward, ("up", "down")),
)


def mesh_of(grid: Grid, device: Literal["cpu", "cuda"]) -> DeviceMesh:
    """The processes as torch knows them; every process has to ask."""
    return init_device_mesh(device, (grid.replicas, grid.shards, grid.tensor), mesh_dim_names=NAMES)


def share_matrices(model: Model, mesh: DeviceMesh) -> dict[str, Split]:
    """Give each rank of the mesh's `tensor` dimension its heads and its share of each feed-forward layer.

    Weights are left as allocated. The embedding, the norms and the output matrix stay whole.
    Gives    how each shared parameter is cut, by name
    Raises   BadSetting when heads or widths can't be shared evenly, or not by this kind of model
    """
    group, size = mesh.get_group("tensor"), mesh["tensor"].size()
    _check_shareable(model, size)
    splits: dict[str, Split] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, Attention):
            module.heads //= size
            module.kv_heads //= size
        found = next((names for kind, names in SHARED if isinstance(module, kind)), None)
        if found is None:
            continue
        into, out = found
        wide, narrow = (module.get_submodule(one) for one in found)
        assert isinstance(wide, nn.Linear) and isinstance(narrow, nn.Linear)
        parts = wide.parts if isinstance(wide, Stacked) else (wide.out_features,)
        setattr(module, into, _Columns(wide, parts, size, group))
        setattr(module, out, _Rows(narrow, size, group))
        splits[f"{name}.{into}.weight"] = splits[f"{name}.{into}.bias"] = Split("rows", parts)
        splits[f"{name}.{out}.weight"] = Split("columns")
    return splits


def _check_shareable(model: Model, size: int) -> None:
    config = model.config
    for what, count in (("heads", config.heads), ("kv_heads", config.kv_heads), ("ffn", config.ffn)):
        if count % size:
            raise BadSetting(
                f"model.{what} = {count} can't be shared by {size} processes",
                where="launch.tensor",
                fix="choose launch.tensor that divides the model's heads, kv_heads and ffn, or another launch.strategy",
            )
    if config.switches.qk_norm == "whole" or config.switches.positions.startswith("alibi") or config.experts:
        raise BadSetting(
            f"the matrices of a {config.family} model can't be shared by processes",
            where="launch.tensor",
            fix='leave launch.tensor out and use launch.strategy = "fsdp"',
        )


class _Columns(Stacked):
    """The outputs of a linear layer that are this rank's; its input gradient is summed over the ranks.

    parts   those of the whole layer
    """

    def __init__(self, whole: nn.Linear, parts: tuple[int, ...], size: int, group: Any) -> None:
        with whole.weight.device:
            super().__init__(whole.in_features, tuple(part // size for part in parts), bias=whole.bias is not None)
        _move_alike(self, whole)
        self.parts, self.group = parts, group

    def forward(self, x_ND: Tensor) -> Tensor:
        return F.linear(_Copied.apply(x_ND, self.group), self.weight, self.bias)  # type: ignore[no-untyped-call]


class _Rows(nn.Linear):
    """A linear layer on this rank's share of the inputs; the outputs are summed over the ranks, then get the bias."""

    def __init__(self, whole: nn.Linear, size: int, group: Any) -> None:
        with whole.weight.device:
            super().__init__(whole.in_features // size, whole.out_features, bias=whole.bias is not None)
        _move_alike(self, whole)
        self.group = group

    def forward(self, x_NF: Tensor) -> Tensor:
        out_ND: Tensor = _Summed.apply(F.linear(x_NF, self.weight), self.group)  # type: ignore[no-untyped-call]
        return out_ND if self.bias is None else out_ND + self.bias


def _move_alike(new: nn.Linear, old: nn.Linear) -> None:
    for mine, theirs in zip(new.parameters(), old.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def cut_by_rows(model: Model, mesh: DeviceMesh, *, dtype: torch.dtype | None) -> None:
    """FSDP2: each block is a unit, the rest another. Gradients are summed over the ranks, not averaged.

    mesh    the dimension of shards, or replicas x shards (HSDP)
    dtype   what weights are gathered and multiplied in; gradients are summed in float32. None: as they are
    """
    # The cosines and sines that a block is given stay float32.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in model.body.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    # Losses call these and then use the output matrix: gathered by the call, it stays until the backward pass is over.
    register_fsdp_forward_method(model, "features")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # A factor of 1 alone asks for a kind of sum that gloo does not have.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def partial_gradients(model: Model) -> Iterator[str]:
    """Parameters that every tensor-parallel rank has whole, but sees the gradient of its own heads only."""
    for name, module in model.named_modules():
        if isinstance(module, Norm) and name.endswith((".q_norm", ".k_norm")):
            yield from (f"{name}.{leaf}" for leaf, _ in module.named_parameters())


def twin(config: ModelConfig, head: HeadName, n_classes: int) -> Model:
    """A model without memory for its weights, to be filled by those of another process."""
    with torch.device("meta"):
        return Model(config, head, n_classes, seed=None)
