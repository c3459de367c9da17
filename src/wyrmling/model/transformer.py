"""The transformer: one stack that is any of the known decoders and encoders, by its family's switches.

It takes the tokens of many documents laid end to end, `tokens_N`, and `Segments` that say where each document ends.
Nothing is padded at this interface; a document never sees another. The switches are in design.py, rotary positions in
positions.py, who sees whom in attention.py, feed-forward layers in feed_forward.py, heads in heads.py, and the names in
files in families.py.

Letters after a name are its shape: N tokens, P places, D width, H heads, G key/value heads, K head width,
F feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.model.attention import Attend, Rule, Segments, in_16_bits_on_a_cpu, needs_32_bits
from wyrmling.model.design import FAMILIES, Design, FamilyName, body_parameters
from wyrmling.model.feed_forward import Stacked, feed_forward
from wyrmling.model.kernels import even_size, rms_norm
from wyrmling.model.positions import Rope, Scaling, rotate
from wyrmling.model.recompute import recomputed

# Above this share of wanted rows the last block computes all: a choice costs passes of its own.
FEW_ROWS = 0.8
# Families whose files can't say how many key heads there are or how wide a head is.
PLAIN_HEADS = ("bloom", "gpt2", "gpt_neox", "bert", "roberta", "distilbert", "modernbert")


@dataclass(frozen=True)
class Local:
    """Layers that see only their neighbourhood.

    reach    how many tokens away they see
    layers   which they are, one truth value per layer
    theta    their own base of the rotary angles, without scaling. None: that of the other layers
    """

    reach: int
    layers: tuple[bool, ...]
    theta: float | None = None


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
    """Width of the feed-forward layer, or of each expert."""
    context: int
    """The longest document, in tokens."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied: bool = False
    """The embedding is also the output matrix."""
    design: Design | None = None
    """The switches, where a model has others than its family usually. None: the family's."""
    rope_fraction: float = 1.0
    """Share of each head's dimensions that turn."""
    rope_scaling: Scaling | None = None
    no_rope_layers: tuple[int, ...] = ()
    """Layers without positions (SmolLM3)."""
    local: Local | None = None
    """Layers with a sliding window. None: every layer sees the whole document."""
    position_offset: int = 0
    """Rows of the position table before the first position (RoBERTa)."""
    token_types: int = 0
    """Rows of BERT's table of token types; every token has the first."""
    attention_scale: float | None = None
    """Factor of the attention scores. None: one over the square root of the head width."""
    attention_cap: float | None = None
    """Attention scores are bent to stay below this (Gemma 2)."""
    logit_cap: float | None = None
    """Next-token logits are bent to stay below this (Gemma 2)."""
    experts: int = 0
    """Feed-forward layers per block, of which a router chooses for each token. 0: one, without a router."""
    experts_per_token: int = 0
    pooling: Literal["first", "mean", "last"] | None = None
    """What stands for a document when it is classified. None: as the family does."""
    pooler: bool = False
    """A dense layer on the first token travels with a bare encoder (BERT)."""
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
        if self.switches.positions == "rope" and self.rope_width % 2:
            raise BadSetting(
                f"head width {self.rope_width} is odd; rotary positions need pairs",
                fix="choose model.width and model.heads so that width / heads is even",
            )
        if self.family in PLAIN_HEADS and (self.kv_heads != self.heads or self.heads * self.head_dim != self.width):
            raise BadSetting(
                f"a {self.family} model needs kv_heads = heads and heads x head width = width, not {self.heads} heads, "
                f"{self.kv_heads} kv_heads, head width {self.head_dim}, width {self.width}",
                fix="leave model.kv_heads out and choose model.heads that divides model.width",
            )
        if self.family == "bloom" and self.ffn != 4 * self.width:
            raise BadSetting(f"a bloom model needs a feed-forward width of {4 * self.width}, not {self.ffn}")

    @property
    def switches(self) -> Design:
        return self.design or FAMILIES[self.family]

    @property
    def body_parameters(self) -> int:
        """Weights of the blocks' matrices; of experts those of one."""
        sizes = (self.layers, self.width, self.heads, self.kv_heads, self.head_dim, self.ffn)
        return body_parameters(*sizes, gated=self.switches.gated)

    @property
    def causal(self) -> bool:
        return self.switches.causal

    @property
    def rope_width(self) -> int:
        """Dimensions of each head that turn."""
        return int(self.head_dim * self.rope_fraction)

    def is_local(self, layer: int) -> bool:
        return self.local is not None and self.local.layers[layer]

    def rule(self, layer: int) -> Rule:
        """Who sees whom in a layer."""
        positions = self.switches.positions
        # Falcon's slopes are scaled together with the scores, so the factor is spelled out.
        scale = self.head_dim**-0.5 if positions == "alibi_rounded" else self.attention_scale
        return Rule(
            causal=self.causal,
            reach=self.local.reach if self.local is not None and self.local.layers[layer] else None,
            scale=scale,
            cap=self.attention_cap,
            alibi={"alibi": "exact", "alibi_rounded": "rounded"}.get(positions),  # type: ignore[arg-type]
        )

    def rope(self, layer: int) -> Rope | None:
        """The rotary positions of a layer; None where it has none."""
        if self.switches.positions != "rope" or layer in self.no_rope_layers:
            return None
        if self.local is not None and self.local.layers[layer] and self.local.theta is not None:
            return Rope(self.local.theta, self.rope_width)
        return Rope(self.rope_theta, self.rope_width, self.rope_scaling)


def padded_vocab(tokens: int) -> int:
    """Embedding rows for a vocabulary: rounded up to a multiple of 8, which matrix kernels prefer."""
    return -(-tokens // 8) * 8


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        design = config.switches
        self.rms, self.offset, self.wide = design.norm == "rms", design.norm_offset, design.norm_in_float32
        self.weight = nn.Parameter(torch.zeros(width) if self.offset else torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if design.norm_bias else None
        self.eps = config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        if not self.rms:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return self.scaled(x, self.weight)

    def scaled(self, x: Tensor, weight: Tensor) -> Tensor:
        """The RMSNorm with a weight other than its own."""
        weight = 1.0 + weight.float() if self.offset else weight
        if self.wide:
            exact = torch.promote_types(x.dtype, torch.float32)
            return rms_norm(x.to(exact), weight.to(exact), self.eps).to(x.dtype)
        return rms_norm(x, weight, self.eps)


class HeadsNorm(Norm):
    """A norm over all heads of a token as one vector, (N, H, K) in and out."""

    def forward(self, x_NHK: Tensor) -> Tensor:
        return super().forward(x_NHK.flatten(1)).view_as(x_NHK)


# Cosines and sines of a layer's angles; None: the layer has no rotary positions.
Rotation = tuple[Tensor, Tensor] | None


class Attention(nn.Module):
    """Grouped-query self-attention; which tokens see each other is the business of `attend`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        design = config.switches
        self.layer, self.rule = layer, config.rule(layer)
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.qkv = Stacked(config.width, (q, kv, kv), bias=design.qkv_bias)
        self.out = nn.Linear(q, config.width, bias=design.out_bias)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if design.qk_norm == "head":
            self.q_norm, self.k_norm = Norm(config.head_dim, config), Norm(config.head_dim, config)
        elif design.qk_norm == "whole":
            self.q_norm, self.k_norm = HeadsNorm(q, config), HeadsNorm(kv, config)

    def forward(self, x_ND: Tensor, rotation: Rotation, attend: Attend, rows_R: Tensor | None = None) -> Tensor:
        heads_NQ = attend(self.layer, self.rule, *self.project(x_ND, rotation)).flatten(1)
        out_RD: Tensor = self.out(chosen(heads_NQ, rows_R))
        return out_RD

    def project(self, x_ND: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, normed and turned."""
        heads_NHK = self.qkv(x_ND).view(x_ND.shape[0], -1, self.head_dim)
        if needs_32_bits(heads_NHK):
            # Here once, not in norm, rotation and attention.
            heads_NHK = heads_NHK.float()
        # Queries and keys lie side by side and are worked on together: half the operations, each of which is small.
        both_NHK, v_NGK = torch.split(heads_NHK, [self.heads + self.kv_heads, self.kv_heads], dim=1)
        both_NHK = self.normed(both_NHK)
        if rotation is not None:
            both_NHK = rotate(both_NHK, *rotation)
        q_NHK, k_NGK = torch.split(both_NHK, [self.heads, self.kv_heads], dim=1)
        return q_NHK, k_NGK, v_NGK

    def normed(self, both_NHK: Tensor) -> Tensor:
        """Queries and keys, normed as the family does."""
        q_norm, k_norm, counts = self.q_norm, self.k_norm, (self.heads, self.kv_heads)
        if isinstance(q_norm, HeadsNorm):
            q_NHK, k_NGK = torch.split(both_NHK, list(counts), dim=1)
            return torch.cat((q_norm(q_NHK), k_norm(k_NGK)), dim=1)
        if isinstance(q_norm, Norm) and isinstance(k_norm, Norm):
            weights = [norm.weight.expand(count, -1) for norm, count in zip((q_norm, k_norm), counts, strict=True)]
            return q_norm.scaled(both_NHK, torch.cat(weights))
        return both_NHK


def chosen(x_ND: Tensor, rows_R: Tensor | None) -> Tensor:
    """The wanted rows, (R, D); all when none are named."""
    return x_ND if rows_R is None else x_ND.index_select(0, rows_R)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to the stream.

    The norms stand before (pre), after (output) or on both sides (sandwich) of what is added.

    `rows_R` are the rows of which the output is wanted, in this order; None: all. The others serve as keys and values
    only.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        design = config.switches
        before = design.block != "output"
        after = design.block in ("output", "sandwich")
        self.attention_norm = self._norm(config, before and (design.first_norm or layer > 0))
        self.attention = Attention(config, layer)
        self.attention_out_norm = self._norm(config, after)
        self.ffn_norm = self._norm(config, before and not design.shared_norm)
        self.ffn = feed_forward(config)
        self.ffn_out_norm = self._norm(config, after)
        self.dropout = config.dropout

    @staticmethod
    def _norm(config: ModelConfig, present: bool) -> nn.Module:
        return Norm(config.width, config) if present else nn.Identity()

    def forward(self, x_ND: Tensor, rotation: Rotation, attend: Attend, rows_R: Tensor | None = None) -> Tensor:
        attended_RD = self.attention(self.attention_norm(x_ND), rotation, attend, rows_R)
        x_RD = chosen(x_ND, rows_R) + self.drop(self.attention_out_norm(attended_RD))
        return x_RD + self.drop(self.feed(x_RD))

    def feed(self, x_ND: Tensor) -> Tensor:
        """What the feed-forward half adds."""
        out_ND: Tensor = self.ffn_out_norm(self.ffn(self.ffn_norm(x_ND)))
        return out_ND

    def drop(self, x_ND: Tensor) -> Tensor:
        return F.dropout(x_ND, self.dropout) if self.training and self.dropout else x_ND


class ParallelBlock(Block):
    """Attention and feed-forward read the same stream; both are added at once (GPT-J, PaLM, Falcon, Pythia)."""

    def forward(self, x_ND: Tensor, rotation: Rotation, attend: Attend, rows_R: Tensor | None = None) -> Tensor:
        normed_ND, x_RD = self.attention_norm(x_ND), chosen(x_ND, rows_R)
        for_ffn_RD = chosen(normed_ND, rows_R) if isinstance(self.ffn_norm, nn.Identity) else x_RD
        return x_RD + self.drop(self.attention(normed_ND, rotation, attend, rows_R)) + self.drop(self.feed(for_ffn_RD))


class PostNormBlock(Block):
    """Each norm is over the stream after the sum, as in the first transformers (BERT)."""

    def forward(self, x_ND: Tensor, rotation: Rotation, attend: Attend, rows_R: Tensor | None = None) -> Tensor:
        attended_RD = self.attention(x_ND, rotation, attend, rows_R)
        x_RD = self.attention_norm(chosen(x_ND, rows_R) + self.drop(attended_RD))
        out_RD: Tensor = self.ffn_norm(x_RD + self.drop(self.feed(x_RD)))
        return out_RD

    def feed(self, x_ND: Tensor) -> Tensor:
        fed_ND: Tensor = self.ffn(x_ND)
        return fed_ND


BLOCKS = {"pre": Block, "sandwich": Block, "output": Block, "post": PostNormBlock, "parallel": ParallelBlock}


def _table(rows: int, width: int) -> nn.Embedding:
    # heads.py starts the weights. nn.Embedding's own start, on the meta device, imports torch's compiler (seconds).
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class Transformer(nn.Module):
    """The body: tokens to hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        design, width = config.switches, config.width
        self.embedding = _table(config.vocab_size, width)
        learned = design.positions == "learned"
        self.positions = _table(config.context + config.position_offset, width) if learned else None
        self.token_types = _table(config.token_types, width) if config.token_types else None
        self.embedding_norm = Norm(width, config) if design.embedding_norm else nn.Identity()
        block = BLOCKS[design.block]
        self.blocks = nn.ModuleList(block(config, layer) for layer in range(config.layers))
        self.final_norm = Norm(width, config) if design.final_norm else nn.Identity()
        self.ropes = [config.rope(layer) for layer in range(config.layers)]
        self.recompute = False
        """Keep little of each block for the backward pass and compute the rest again."""

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
        plan = segments.plan(tokens_N.device, self.config.width)
        places_R = plan.where_N if rows_R is None else plan.where_N[rows_R]
        stream = partial(self.layers, tokens_N[plan.order_P], plan.positions_P, plan.attend)
        if len(places_R) > FEW_ROWS * len(plan.order_P):
            x_RD = stream().index_select(0, places_R)
        else:
            # With a number of rows that other batches have too; of few, so that there are few kernels beside those of
            # all places.
            more = even_size(len(places_R), 2) - len(places_R) if in_16_bits_on_a_cpu(tokens_N.device) else 0
            x_RD = stream(F.pad(places_R, (0, more)))[: len(places_R)]
        hidden: Tensor = self.final_norm(x_RD)
        return hidden

    def layers(self, tokens_P: Tensor, positions_P: Tensor, attend: Attend, places_R: Tensor | None = None) -> Tensor:
        """The stream after the last block, before the final norm: (P, D) for any layout `attend` understands.

        places_R   of which places it is wanted, (R, D) then; the last block computes no more than these take
        """
        rotations = {rope: rope.rotation(positions_P) for rope in self.ropes if rope is not None}
        x_PD = self.embed(tokens_P, positions_P)
        again = self.recompute and torch.is_grad_enabled()
        for block, rope in zip(self.blocks, self.ropes, strict=True):
            wanted = places_R if block is self.blocks[-1] else None
            inputs = (x_PD, None if rope is None else rotations[rope], attend, wanted)
            x_PD = recomputed(block, *inputs) if again else block(*inputs)
        return x_PD

    def embed(self, tokens_P: Tensor, positions_P: Tensor) -> Tensor:
        """The stream before the first block: each token's row, with what the family adds to it."""
        x_PD: Tensor = self.embedding(tokens_P)
        if self.config.switches.embedding_scale:
            # Rounded to the precision of the weights first, as Gemma was trained.
            x_PD = x_PD * torch.tensor(self.config.width**0.5, dtype=x_PD.dtype, device=x_PD.device)
        if self.token_types is not None:
            x_PD = x_PD + self.token_types.weight[0]
        if self.positions is not None:
            x_PD = x_PD + self.positions(positions_P + self.config.position_offset)
        normed: Tensor = self.embedding_norm(x_PD)
        return normed
