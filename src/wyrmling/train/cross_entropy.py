"""Cross-entropy over a large vocabulary without ever holding all logits.

Legend: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wyrmling.model.kernels import even_rows

# Rows whose logits exist at one time: 512 x 32,768 float32 logits are 64 MiB.
CHUNK_ROWS = 512


def cross_entropy_sum(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    cap: float | None = None,
    smoothing: float = 0.0,
    ignored: int = -100,
) -> tuple[Tensor, int]:
    """(sum of the loss over the learned targets in nats, float32 or wider; how many there are).

    hidden_ND   any float type; rows whose target is `ignored` are dropped before the head
    weight_VD   the output matrix; a frozen one gets no gradient
    targets_N   int64
    cap         logits z become cap x tanh(z / cap), as in Gemma 2; None: they stay
    smoothing   share of the target probability spread over the whole vocabulary (Szegedy 2016, arXiv 1512.00567)
    """
    keep_N = targets_N != ignored
    count = int(keep_N.sum())
    if count < len(targets_N):
        hidden_ND, targets_N = hidden_ND[keep_N], targets_N[keep_N]
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, targets_N, bias_V, cap, smoothing)  # type: ignore[no-untyped-call]
    return loss, count


def token_nats(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bias_V: Tensor | None = None, *, cap: float | None = None
) -> Tensor:
    """The loss of each target in nats, (N), float32 or wider; for losses that are no plain sum.

    All as in `cross_entropy_sum`, but no target is ignored. The logits are computed again in the backward pass.
    """
    nats_N: Tensor = _ChunkedNats.apply(hidden_ND, weight_VD, targets_N, bias_V, cap)  # type: ignore[no-untyped-call]
    return nats_N


class _ChunkedNats(torch.autograd.Function):
    """Logits exist chunk by chunk, in forward and again in backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bias_V: Tensor | None, cap: float | None
    ) -> Tensor:
        compute = _compute_dtype(hidden_ND)
        weight = weight_VD.to(compute)
        nats_N = hidden_ND.new_empty(len(targets_N), dtype=torch.promote_types(hidden_ND.dtype, torch.float32))
        for start in range(0, len(targets_N), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            hidden = even_rows(hidden_ND[rows].to(compute))
            logits, _ = _logits(hidden, weight, bias_V, cap, len(targets_N[rows]))
            nats_N[rows] = logits.logsumexp(dim=-1) - logits.gather(1, targets_N[rows, None])[:, 0]
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, bias_V)
        ctx.cap, ctx.compute = cap, compute
        return nats_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N, bias_V = ctx.saved_tensors
        weight = weight_VD.to(ctx.compute)
        grad_hidden = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias_V, dtype=grad_N.dtype) if ctx.needs_input_grad[3] else None
        for start in range(0, len(targets_N), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            hidden, targets = even_rows(hidden_ND[rows].to(ctx.compute)), targets_N[rows]
            logits, slope = _logits(hidden, weight, bias_V, ctx.cap, len(targets))
            logits = logits.softmax(dim=-1)
            logits[torch.arange(len(targets), device=targets.device), targets] -= 1
            if slope is not None:
                logits.mul_(slope)
            logits.mul_(grad_N[rows, None])
            grad_logits = even_rows(logits.to(ctx.compute))
            if grad_hidden is not None:
                grad_hidden[rows] = (grad_logits @ weight)[: len(targets)]
            if ctx.needs_input_grad[1]:
                grad_weight = _added(grad_weight, grad_logits.T @ hidden, grad_N.dtype)
            if grad_bias is not None:
                grad_bias += logits.sum(dim=0)
        if grad_weight is None and ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight_VD, dtype=grad_N.dtype)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VD.dtype),
            None,
            None if grad_bias is None else grad_bias.to(bias_V.dtype),
            None,
        )


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients are made in forward, chunk by chunk, and only scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        bias_V: Tensor | None,
        cap: float | None,
        smoothing: float,
    ) -> Tensor:
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        loss = hidden_ND.new_zeros((), dtype=wide)
        grad_hidden = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias_V, dtype=wide) if bias_V is not None and ctx.needs_input_grad[3] else None
        compute = _compute_dtype(hidden_ND)
        weight = weight_VD.to(compute)
        for start in range(0, len(targets_N), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            targets = targets_N[rows]
            hidden = even_rows(hidden_ND[rows].to(compute))
            logits, slope = _logits(hidden, weight, bias_V, cap, len(targets))
            logsumexp = logits.logsumexp(dim=-1)
            loss += (logsumexp - (1 - smoothing) * logits.gather(1, targets[:, None])[:, 0]).sum()
            if smoothing:
                loss -= smoothing * logits.mean(dim=-1).sum()
            if not any(ctx.needs_input_grad):
                continue
            # From here `logits` holds d loss / d logits = softmax - one-hot, the latter smoothed.
            logits.sub_(logsumexp[:, None]).exp_()
            logits[torch.arange(len(targets), device=targets.device), targets] -= 1 - smoothing
            if smoothing:
                logits -= smoothing / logits.shape[-1]
            if slope is not None:
                logits.mul_(slope)
            grad_logits = even_rows(logits.to(compute))
            if grad_hidden is not None:
                grad_hidden[rows] = (grad_logits @ weight)[: len(targets)]
            if ctx.needs_input_grad[1]:
                grad_weight = _added(grad_weight, grad_logits.T @ hidden, wide)
            if grad_bias is not None:
                grad_bias += logits.sum(dim=0)
        if grad_weight is None and ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight_VD, dtype=wide)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight_VD.dtype, None if bias_V is None else bias_V.dtype)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else _times(grad_hidden, grad.to(grad_hidden.dtype)),
            None if grad_weight is None else _times(grad_weight, grad).to(weight_dtype),
            None,
            None if grad_bias is None else _times(grad_bias, grad).to(bias_dtype),
            None,
            None,
        )


def _added(total: Tensor | None, part: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum so far with one more part, in this dtype. The first starts it: seldom are there several."""
    return part.to(dtype) if total is None else total.add_(part)


def _times(gradient: Tensor, factor: Tensor) -> Tensor:
    """Their product, without a pass over the matrix where that would change nothing, as for a loss that is a sum."""
    # A GPU would have to be waited for.
    return gradient if factor.device.type == "cpu" and factor == 1 else gradient * factor


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """bfloat16 under autocast, else the dtype of the hidden states."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _logits(
    hidden: Tensor, weight: Tensor, bias_V: Tensor | None, cap: float | None, count: int
) -> tuple[Tensor, Tensor | None]:
    """Logits of the first `count` rows in float32 or wider, and the slope of their cap; None without one."""
    logits = (hidden @ weight.T)[:count].to(torch.promote_types(hidden.dtype, torch.float32))
    if bias_V is not None:
        logits += bias_V
    if cap is None:
        return logits, None
    bent = logits.div_(cap).tanh_()
    slope = 1 - bent.square()
    return bent.mul_(cap), slope
