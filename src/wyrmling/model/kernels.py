"""RMSNorm with its gradient by hand, and sizes that matrix kernels are kept for.

torch has fused kernels for LayerNorm on a CPU but not for RMSNorm, which it takes apart into single operations. With
the gradient written out a norm takes half the time: 1.6 against 3.4 ms for 4,096 rows of 128, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def even_size(rows: int, sizes: int = 8) -> int:
    """The next of so many sizes per power of two: of eight, at most an eighth more rows.

    On a CPU, products of bfloat16 matrices run in kernels that oneDNN makes anew for each size and keeps (0.7 MB for
    those of one batch of a 15M model). With a new number of tokens in every batch, that took 40 % of a step of 290
    tokens, and memory grew by 10 MB a step.
    """
    step = max(8, (1 << rows.bit_length()) // (2 * sizes))
    return -(-rows // step) * step


def even_rows(x_RI: Tensor) -> Tensor:
    """With rows of zeros up to such a size, where a product would else have a size that seldom comes again."""
    if x_RI.device.type != "cpu" or not (x_RI.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")):
        return x_RI
    return F.pad(x_RI, (0, 0, 0, even_size(len(x_RI)) - len(x_RI)))


def on_even_rows(layer: Callable[[Tensor], Tensor], x_RI: Tensor) -> Tensor:
    """layer(x_RI), under autocast by a product of such a size."""
    if x_RI.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        # Nothing here may ask for the number of rows: an exported model would then be for that number alone.
        return layer(x_RI)
    return layer(even_rows(x_RI))[: len(x_RI)]


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_exact(x))
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        # As Llama and Qwen3 define it: normalised in float32, rounded to the input's dtype, then weighted.
        out: Tensor = (x * inverse).to(x.dtype).mul_(weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        # y = r x w with r = (mean(x²) + eps)^-½, so
        #   dx = r g w - x (r³ / D) sum(g w x)      and      dw = sum over rows of r g x
        x, weight, inverse = ctx.saved_tensors
        exact = inverse.dtype
        gx = (gradient * x).to(exact)
        if weight.ndim == 1:
            to_weight = inverse.flatten() @ gx.flatten(0, -2)
            sums = (gx @ weight.to(exact)).unsqueeze(-1)
        else:
            to_weight = torch.einsum("nh,nhk->hk", inverse.squeeze(-1), gx)
            sums = torch.einsum("nhk,hk->nh", gx, weight.to(exact)).unsqueeze(-1)
        pull = sums * inverse.pow(3) / -x.shape[-1]
        to_x = (gradient * inverse).mul_(weight).addcmul_(x, pull)
        return to_x.to(x.dtype), to_weight.to(weight.dtype), None


def _exact(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight, over the last dimension, in the dtype of x.

    weight   (K) for x of (..., K), or (H, K) for (N, H, K): each head its own
    Source   Zhang and Sennrich 2019, Root mean square layer normalization (arXiv 1910.07467)
    """
    if not torch.is_grad_enabled() and x.dtype == torch.float32:
        # The same sums without a detour through Python: 14 instead of 37 microseconds for one row of 576.
        if weight.ndim > 1:
            return F.rms_norm(x, x.shape[-1:], None, eps) * weight
        return F.rms_norm(x, weight.shape, weight, eps)
    if torch.compiler.is_compiling():
        # The compiler fuses the plain form, and derives the gradient itself.
        wide = x.to(_exact(x))
        return (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype) * weight.to(x.dtype)
    out: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out
