"""Prompts read in pieces, so that answers in the making go on while a long one comes in.

Letters: N tokens, H heads, G key/value heads, K head width, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from wyrmling.model.attention import Masks, Rule, attention
from wyrmling.model.heads import Model


@dataclass(eq=False)
class Intake:
    """A prompt while it is read.

    ids      its tokens
    kv       keys and values so far, (2, L, G, T, K)
    done     how many tokens they are of
    """

    ids: Sequence[int]
    kv: Tensor
    done: int = 0

    @property
    def whole(self) -> bool:
        return self.done == len(self.ids)


@dataclass(frozen=True)
class Piece:
    """Tokens `start` to `end` of a prompt, which see all before them."""

    intake: Intake
    start: int
    end: int
    masks: Masks = field(init=False)

    def __post_init__(self) -> None:
        device = self.intake.kv.device
        asks_1N = torch.arange(self.start, self.end, device=device)[None]
        object.__setattr__(self, "masks", Masks(asks_1N, torch.arange(self.end, device=device)))

    @property
    def ids(self) -> Sequence[int]:
        return self.intake.ids[self.start : self.end]

    @property
    def is_last(self) -> bool:
        """Whether the prompt ends in it."""
        return self.end == len(self.intake.ids)

    def attend(self, layer: int, rule: Rule, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor) -> Tensor:
        """Attention of the piece's tokens, (N, H, K); their keys and values join those of the prompt."""
        keys_GTK, values_GTK = self.intake.kv[:, layer]
        keys_GTK[:, self.start : self.end] = k_NGK.transpose(0, 1)
        values_GTK[:, self.start : self.end] = v_NGK.transpose(0, 1)
        q, k, v = q_NHK.transpose(0, 1)[None], keys_GTK[None, :, : self.end], values_GTK[None, :, : self.end]
        plain = rule.alibi is None and rule.cap is None and (rule.reach is None or rule.reach >= self.end - 1)
        if plain and self.start == 0:
            out_1HNK = attention(rule, q, k, v, None, causal=True)
        else:
            out_1HNK = attention(rule, q, k, v, self.masks.of(rule, q.shape[1], q.dtype))
        return out_1HNK[0].transpose(0, 1)


def read(model: Model, pieces: Sequence[Piece]) -> Tensor:
    """Read pieces of different prompts in one pass. The hidden states (M, D) after the M prompts that end in them."""
    device = pieces[0].intake.kv.device
    tokens_N = torch.tensor([id for piece in pieces for id in piece.ids], device=device)
    positions_N = torch.cat([torch.arange(piece.start, piece.end, device=device) for piece in pieces])
    sizes = [piece.end - piece.start for piece in pieces]

    def attend(layer: int, rule: Rule, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor) -> Tensor:
        parts = zip(pieces, *(torch.split(x, sizes) for x in (q_NHK, k_NGK, v_NGK)), strict=True)
        return torch.cat([piece.attend(layer, rule, *qkv) for piece, *qkv in parts])

    ends = [end - 1 for end in accumulate(sizes)]
    wanted = [end for piece, end in zip(pieces, ends, strict=True) if piece.is_last]
    # Where no prompt ends, one row is computed for nothing: not every kernel takes none.
    x_RD = model.body.layers(tokens_N, positions_N, attend, torch.tensor(wanted or [0], device=device))
    for piece in pieces:
        piece.intake.done = piece.end
    hidden_MD: Tensor = model.body.final_norm(x_RD[: len(wanted)])
    return hidden_MD
