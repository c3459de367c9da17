"""Less memory for the backward pass: of each block only the outputs of matrix products and of attention are kept.

What is cheap (norms, rotations, activations, sums) is computed a second time when the backward pass gets there, by the
same operations on the same values: the gradients are the same, bit for bit.
Source   selective activation recomputation, Korthikanti et al. 2022 (arXiv 2205.05198)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts


def recomputed(block: torch.nn.Module, *inputs: Any) -> Tensor:
    """The block's output, (P, D), keeping little of how it came about."""
    # Random numbers are only drawn where values are dropped.
    drops = block.training and getattr(block, "dropout", 0) > 0
    out: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=drops, context_fn=_contexts)
    return out


def _contexts() -> tuple[Any, Any]:
    return create_selective_checkpoint_contexts(_kept())  # type: ignore[no-untyped-call,no-any-return]


def _kept() -> list[Any]:
    """Operations whose outputs are worth keeping; those of other devices are not there in every build of torch."""
    names = (
        "mm",
        "addmm",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    aten = torch.ops.aten
    kept = [getattr(aten, name).default for name in names if hasattr(aten, name)]
    # Registered when torch.nn.attention.varlen is imported.
    varlen = torch.ops.torch_attn
    return [*kept, varlen._varlen_attn.default] if hasattr(varlen, "_varlen_attn") else kept
