"""Attention over documents end to end, with no filler and no rectangles: for a GPU computing in 16 bits.

Flash attention takes the bounds of the documents as they are; scores that are bent or fall with the distance need
FlexAttention, which is compiled. Neither has a backward pass on a CPU. Source: the documentation of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from wyrmling.model.attention import Plan, Rule, Segments, falls

Kernel = Literal["varlen", "flex"]


def serves(device: torch.device) -> bool:
    """Whether documents on this device are attended to flat: CUDA, with products in 16 bits under autocast."""
    halves = (torch.bfloat16, torch.float16)
    return device.type == "cuda" and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") in halves


def kernel_for(rule: Rule) -> Kernel:
    """Flash attention where it can; it knows windows, but neither caps nor ALiBi."""
    return "varlen" if rule.cap is None and rule.alibi is None else "flex"


def plan(segments: Segments, device: torch.device) -> Plan:
    """The layout in which every token keeps its place."""
    place_N = torch.arange(segments.n_tokens, device=device)
    document_N = segments.segment_N(device)
    positions_N = place_N - segments.starts_S(device)[document_N]
    bounds = torch.nn.functional.pad(torch.tensor(segments.lengths, device=device).cumsum(0), (1, 0)).int()
    attend = partial(_attend, document_N, positions_N, bounds, max(segments.lengths), {})
    return Plan(place_N, positions_N, place_N, attend)


def _attend(
    document_N: Tensor,
    positions_N: Tensor,
    bounds: Tensor,
    longest: int,
    made: dict[Rule, Any],
    _layer: int,
    rule: Rule,
    q_NHK: Tensor,
    k_NGK: Tensor,
    v_NGK: Tensor,
) -> Tensor:
    # Neither kernel is known to autocast.
    kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else v_NGK.dtype
    q_NHK, k_NGK, v_NGK = q_NHK.to(kind), k_NGK.to(kind), v_NGK.to(kind)
    if kernel_for(rule) == "varlen":
        return _varlen(rule, bounds, longest, q_NHK, k_NGK, v_NGK)
    if rule not in made:
        made[rule] = _flex_parts(rule, document_N, positions_N, q_NHK.shape[1])
    return _flex(rule, made[rule], q_NHK, k_NGK, v_NGK)


def window(rule: Rule) -> tuple[int, int]:
    """How many tokens to the left and to the right are seen; -1: all."""
    reach = -1 if rule.reach is None else rule.reach
    return (reach, 0) if rule.causal else (reach, reach)


def _varlen(rule: Rule, bounds: Tensor, longest: int, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    grouped = q_NHK.shape[1] > k_NGK.shape[1]
    out: Any = varlen_attn(
        q_NHK, k_NGK, v_NGK, bounds, bounds, longest, longest,
        scale=rule.scale, window_size=window(rule), enable_gqa=grouped,
    )  # fmt: skip
    attended: Tensor = out
    return attended


def mask_of(rule: Rule, document_N: Tensor, positions_N: Tensor) -> Callable[..., Tensor]:
    """(batch, head, query, key) -> whether the query sees the key; FlexAttention's form."""

    def sees(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = positions_N[query] - positions_N[key]
        seen = document_N[query] == document_N[key]
        if rule.causal:
            seen = seen & (distance >= 0)
        return seen if rule.reach is None else seen & (distance.abs() <= rule.reach)

    return sees


def score_of(rule: Rule, positions_N: Tensor, heads: int) -> Callable[..., Tensor]:
    """(score, batch, head, query, key) -> the score with its cap and its fall; FlexAttention's form."""
    falls_HN = None if rule.alibi is None else falls(rule, heads, positions_N[None])[0]

    def bent(score: Tensor, _b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if rule.cap is not None:
            score = rule.cap * torch.tanh(score / rule.cap)
        return score if falls_HN is None else score + (falls_HN[head, key] - falls_HN[head, query])

    return bent


def _flex_parts(rule: Rule, document_N: Tensor, positions_N: Tensor, heads: int) -> tuple[Any, Any]:
    from torch.nn.attention.flex_attention import create_block_mask

    n = len(document_N)
    seen = create_block_mask(mask_of(rule, document_N, positions_N), None, None, n, n, device=document_N.device)
    return score_of(rule, positions_N, heads), seen


def _flex(rule: Rule, parts: tuple[Any, Any], q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor) -> Tensor:
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q_NHK, k_NGK, v_NGK))
    score, seen = parts
    out: Tensor = _compiled_flex()(
        q, k, v, score_mod=score, block_mask=seen, scale=rule.scale, enable_gqa=q.shape[1] > k.shape[1]
    )
    return out[0].transpose(0, 1)


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
