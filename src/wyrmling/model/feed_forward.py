"""The feed-forward half of a block: gated, plain, or a choice of experts.

Letters: N tokens, D width, F feed-forward width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyrmling.model.design import Activation, Design

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class Sizes(Protocol):
    """The part of a model's configuration that this half needs."""

    @property
    def width(self) -> int: ...
    @property
    def ffn(self) -> int: ...
    @property
    def experts(self) -> int: ...
    @property
    def experts_per_token(self) -> int: ...
    @property
    def switches(self) -> Design: ...


class Stacked(nn.Linear):
    """Several linear layers of one input as one matrix; `parts` are the output sizes, in row order."""

    def __init__(self, width: int, parts: tuple[int, ...], *, bias: bool = False) -> None:
        super().__init__(width, sum(parts), bias=bias)
        self.parts = parts


class GatedFeedForward(nn.Module):
    """The activated half of the first matrix times its other half, then back to the width."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        bias = sizes.switches.ffn_bias
        self.gate_up = Stacked(sizes.width, (sizes.ffn, sizes.ffn), bias=bias)
        self.down = nn.Linear(sizes.ffn, sizes.width, bias=bias)
        self.activation = ACTIVATIONS[sizes.switches.activation]

    def forward(self, x_ND: Tensor) -> Tensor:
        gate_NF, up_NF = self.gate_up(x_ND).chunk(2, dim=-1)
        out_ND: Tensor = self.down(self.activation(gate_NF) * up_NF)
        return out_ND


class FeedForward(nn.Module):
    """One activated layer, then back to the width."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        bias = sizes.switches.ffn_bias
        self.up = nn.Linear(sizes.width, sizes.ffn, bias=bias)
        self.down = nn.Linear(sizes.ffn, sizes.width, bias=bias)
        self.activation = ACTIVATIONS[sizes.switches.activation]

    def forward(self, x_ND: Tensor) -> Tensor:
        out_ND: Tensor = self.down(self.activation(self.up(x_ND)))
        return out_ND


class Experts(nn.Module):
    """Many gated feed-forward layers, of which each token takes the few that a router prefers, by their weights.

    Training adds nothing that keeps the experts equally busy: made for models that were trained with such a loss.
    Source   Jiang et al. 2024, Mixtral of experts (arXiv 2401.04088)
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.router = nn.Linear(sizes.width, sizes.experts, bias=False)
        self.experts = nn.ModuleList(GatedFeedForward(sizes) for _ in range(sizes.experts))
        self.per_token, self.normed = sizes.experts_per_token, sizes.switches.expert_weights_normed

    def forward(self, x_ND: Tensor) -> Tensor:
        weights_NE = self.router(x_ND).softmax(-1, dtype=torch.promote_types(x_ND.dtype, torch.float32))
        weights, chosen = weights_NE.topk(self.per_token, dim=-1)
        if self.normed:
            weights = weights / weights.sum(-1, keepdim=True)
        weights = weights.to(x_ND.dtype)
        out_ND = torch.zeros_like(x_ND)
        for number, expert in enumerate(self.experts):
            # An expert that nobody chose runs on no rows, so that its gradient is zero and not missing.
            tokens, place = (chosen == number).nonzero(as_tuple=True)
            out = expert(x_ND[tokens]) * weights[tokens, place, None]
            out_ND = out_ND.index_add(0, tokens, out.to(out_ND.dtype))
        return out_ND


def feed_forward(sizes: Sizes) -> nn.Module:
    """The kind that the sizes and the design ask for."""
    if sizes.experts:
        return Experts(sizes)
    return GatedFeedForward(sizes) if sizes.switches.gated else FeedForward(sizes)
