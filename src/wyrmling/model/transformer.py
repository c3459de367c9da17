"""The transformer: one pre-norm stack that is a decoder or an encoder by its family's switches.

It takes the tokens of many documents laid end to end, `tokens_N`, and `Segments` that say where each document ends.
Nothing is padded at this interface; a document never sees another. Heads are in heads.py, file names in families.py.

Letters after a name are its shape: N tokens, D width, H heads, G key/value heads, K head width, F feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.model.attention import Attend, Segments
from wyrmling.model.kernels import rms_norm

FamilyName = Literal["qwen3", "llama", "modernbert"]


@dataclass(frozen=True)
class Family:
    """What sets one kind of transformer apart from another."""

    causal: bool
    """A token sees itself and what came before it; False: the whole document."""
    norm: Literal["rms", "layer"]
    """RMSNorm, or LayerNorm without bias."""
    qk_norm: bool
    """RMSNorm over each query and key head, before the rotation."""
    embedding_norm: bool
    """A norm right after the embedding; the first block then has none before its attention."""
    gate: Literal["silu", "gelu"]
    """Activation of the gated feed-forward layer: SwiGLU or (erf) GeGLU."""


FAMILIES: dict[FamilyName, Family] = {
    "qwen3": Family(causal=True, norm="rms", qk_norm=True, embedding_norm=False, gate="silu"),
    "llama": Family(causal=True, norm="rms", qk_norm=False, embedding_norm=False, gate="silu"),
    "modernbert": Family(causal=False, norm="layer", qk_norm=False, embedding_norm=True, gate="gelu"),
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one transformer. Raises BadSetting when they can't work together."""

    family: FamilyName
    vocab_size: int
    """Rows of the embedding: the tokenizer's vocabulary, best rounded up by `padded_vocab`."""
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context: int
    """The longest document, in tokens."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied: bool = False
    """The embedding is also the output matrix."""
    dropout: float = 0.0
    """Share of hidden values dropped while training; not part of a saved model."""
    tokens: int | None = None
    """Ids the tokenizer knows; rows above are padding and never generated. None: all of `vocab_size`."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise BadSetting(f"model.family = {self.family!r} is not one of {', '.join(FAMILIES)}")
        if self.heads % self.kv_heads:
            raise BadSetting(
                f"model.heads = {self.heads} is not a multiple of model.kv_heads = {self.kv_heads}",
                fix="choose kv_heads that divides heads",
            )
        if self.head_dim % 2:
            raise BadSetting(
                f"head width {self.head_dim} is odd; rotary positions need pairs",
                fix="choose model.width and model.heads so that width / heads is even",
            )
        if self.family == "modernbert" and (self.kv_heads != self.heads or self.heads * self.head_dim != self.width):
            raise BadSetting(
                f"a modernbert encoder needs kv_heads = heads and heads x head width = width, not {self.heads} heads, "
                f"{self.kv_heads} kv_heads, head width {self.head_dim}, width {self.width}",
                fix="leave model.kv_heads out and choose model.heads that divides model.width",
            )

    @property
    def switches(self) -> Family:
        return FAMILIES[self.family]

    @property
    def causal(self) -> bool:
        return self.switches.causal


def padded_vocab(tokens: int) -> int:
    """Embedding rows for a vocabulary: rounded up to a multiple of 8, which matrix kernels prefer."""
    return -(-tokens // 8) * 8


class Norm(nn.Module):
    """RMSNorm or LayerNorm without bias over the last dimension."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.rms = config.switches.norm == "rms"
        self.eps = config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        if self.rms:
            return rms_norm(x, self.weight, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, None, self.eps)


class Stacked(nn.Linear):
    """Several bias-free linear layers of one input as one matrix; `parts` are the output sizes, in row order."""

    def __init__(self, width: int, parts: tuple[int, ...]) -> None:
        super().__init__(width, sum(parts), bias=False)
        self.parts = parts


def rotate(x_NHK: Tensor, cos_N1k: Tensor, sin_N1k: Tensor) -> Tensor:
    """Rotary positions in the halves layout: dimension i turns together with dimension i + K/2 (k = K/2).

    Source   Su et al. 2021, RoFormer (arXiv 2104.09864); halves as in GPT-NeoX and Llama checkpoints
    """
    first, second = x_NHK.chunk(2, dim=-1)
    return torch.cat((first * cos_N1k - second * sin_N1k, second * cos_N1k + first * sin_N1k), dim=-1)


class Attention(nn.Module):
    """Grouped-query self-attention; which tokens see each other is the business of `attend`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        kv = config.kv_heads * config.head_dim
        self.qkv = Stacked(config.width, (config.heads * config.head_dim, kv, kv))
        self.out = nn.Linear(config.heads * config.head_dim, config.width, bias=False)
        qk_norm = config.switches.qk_norm
        self.q_norm = Norm(config.head_dim, config) if qk_norm else nn.Identity()
        self.k_norm = Norm(config.head_dim, config) if qk_norm else nn.Identity()

    def forward(self, x_ND: Tensor, rope: tuple[Tensor, Tensor], layer: int, attend: Attend) -> Tensor:
        heads_NHK = self.qkv(x_ND).view(len(x_ND), -1, self.head_dim)
        q_NHK, k_NGK, v_NGK = torch.split(heads_NHK, [self.heads, self.kv_heads, self.kv_heads], dim=1)
        q_NHK, k_NGK = rotate(self.q_norm(q_NHK), *rope), rotate(self.k_norm(k_NGK), *rope)
        out_ND: Tensor = self.out(attend(layer, q_NHK, k_NGK, v_NGK).flatten(1))
        return out_ND


class FeedForward(nn.Module):
    """Gated feed-forward layer: the activated half of the first matrix times its other half, then back to the width."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Stacked(config.width, (config.ffn, config.ffn))
        self.down = nn.Linear(config.ffn, config.width, bias=False)
        self.activation = F.silu if config.switches.gate == "silu" else F.gelu

    def forward(self, x_ND: Tensor) -> Tensor:
        gate_NF, up_NF = self.gate_up(x_ND).chunk(2, dim=-1)
        out_ND: Tensor = self.down(self.activation(gate_NF) * up_NF)
        return out_ND


class Block(nn.Module):
    """One layer: attention and feed-forward, each on a normed copy of the stream and added to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        normed_already = config.switches.embedding_norm and layer == 0
        self.attention_norm = nn.Identity() if normed_already else Norm(config.width, config)
        self.attention = Attention(config)
        self.ffn_norm = Norm(config.width, config)
        self.ffn = FeedForward(config)
        self.dropout = config.dropout

    def forward(self, x_ND: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x_ND = x_ND + self._drop(self.attention(self.attention_norm(x_ND), rope, self.layer, attend))
        return x_ND + self._drop(self.ffn(self.ffn_norm(x_ND)))

    def _drop(self, x_ND: Tensor) -> Tensor:
        return F.dropout(x_ND, self.dropout) if self.training and self.dropout else x_ND


class Transformer(nn.Module):
    """The body: tokens to hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # heads.py starts the weights. nn.Embedding's own start, on the meta device, imports torch's compiler (seconds).
        self.embedding = nn.Embedding(
            config.vocab_size, config.width, _weight=torch.empty(config.vocab_size, config.width)
        )
        self.embedding_norm = Norm(config.width, config) if config.switches.embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.final_norm = Norm(config.width, config)
        self.rope_table: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm, (N, D), in the order of the tokens; (R, D) when `rows_R` is given.

        tokens_N   int64 ids of all documents, end to end
        segments   their lengths; the sum is N
        rows_R     int64 indices of the tokens whose hidden states are wanted. None: all
        Raises     BadInput when a document is longer than the context
        """
        if max(segments.lengths) > self.config.context:
            raise BadInput(
                f"a document of {max(segments.lengths)} tokens is longer than the model's context of "
                f"{self.config.context}",
                fix="shorten or split the document",
            )
        plan = segments.plan(tokens_N.device, causal=self.config.causal)
        x_PD = self.layers(tokens_N[plan.order_P], plan.positions_P, plan.attend)
        wanted = plan.where_N if rows_R is None else plan.where_N[rows_R]
        hidden: Tensor = self.final_norm(x_PD.index_select(0, wanted))
        return hidden

    def layers(self, tokens_P: Tensor, positions_P: Tensor, attend: Attend) -> Tensor:
        """The stream after the last block, before the final norm: (P, D) for any layout `attend` understands."""
        rope = self.rope(positions_P)
        x_PD: Tensor = self.embedding_norm(self.embedding(tokens_P))
        for block in self.blocks:
            x_PD = block(x_PD, rope, attend)
        return x_PD

    def rope(self, positions_P: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotation at each position, both (P, 1, K/2) float32."""
        if self.rope_table is None or self.rope_table[0].device != positions_P.device:
            # Outside inference mode, whose tensors could not take part in training later.
            with torch.inference_mode(False):
                exponents_k = -torch.arange(0, self.config.head_dim, 2).float() / self.config.head_dim
                angles_Tk = torch.arange(self.config.context).float()[:, None] * self.config.rope_theta**exponents_k
                self.rope_table = (angles_Tk.cos().to(positions_P.device), angles_Tk.sin().to(positions_P.device))
        cos_Tk, sin_Tk = self.rope_table
        return cos_Tk[positions_P].unsqueeze(1), sin_Tk[positions_P].unsqueeze(1)
