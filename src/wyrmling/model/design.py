"""What sets one kind of transformer apart from another: the switches of each family, without its sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FamilyName = Literal[
    "qwen3", "qwen3_moe", "llama", "mistral", "mixtral", "qwen2", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2",
    "smollm3", "falcon", "bloom", "gpt2", "gpt_neox", "bert", "roberta", "distilbert", "modernbert",
]  # fmt: skip
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class Design:
    """The switches of one architecture. The defaults are Llama's."""

    causal: bool = True
    """A token sees itself and what came before it; False: the whole document."""
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    norm_offset: bool = False
    """The stored weight counts from 1: x̂ (1 + w)."""
    norm_in_float32: bool = False
    """Weighted before it is rounded to the input's precision, not after."""
    block: Literal["pre", "sandwich", "output", "post", "parallel"] = "pre"
    """Where the norms stand: x + f(n(x)), x + n'(f(n(x))), x + n(f(x)), n(x + f(x)), or x + f(n(x)) + g(n'(x))."""
    shared_norm: bool = False
    """In a parallel block attention and feed-forward read the same normed copy."""
    first_norm: bool = True
    """The first block norms its input too."""
    final_norm: bool = True
    qk_norm: Literal["head", "whole"] | None = None
    """A norm over each query and key head, or over all heads as one vector, before the rotation."""
    positions: Literal["rope", "learned", "alibi", "alibi_rounded"] = "rope"
    """alibi_rounded is Falcon's: rounded to bfloat16, and scaled together with the scores."""
    embedding_norm: bool = False
    embedding_scale: bool = False
    """Embeddings times the square root of the width."""
    qkv_bias: bool = False
    out_bias: bool = False
    gated: bool = True
    """The activated half of a double-width layer times its other half; False: one activated layer."""
    activation: Activation = "silu"
    ffn_bias: bool = False
    expert_weights_normed: bool = True
    """The weights of the experts that a token takes add up to one."""


GEMMA = Design(norm_offset=True, norm_in_float32=True, embedding_scale=True, activation="gelu_tanh")
GPT = Design(norm="layer", norm_bias=True, gated=False, activation="gelu", qkv_bias=True, out_bias=True, ffn_bias=True)
BERT = replace(GPT, causal=False, block="post", positions="learned", embedding_norm=True, final_norm=False)

FAMILIES: dict[FamilyName, Design] = {
    "qwen3": Design(qk_norm="head"),
    "qwen3_moe": Design(qk_norm="head", expert_weights_normed=False),
    "llama": Design(),
    "mistral": Design(),
    "mixtral": Design(),
    "qwen2": Design(qkv_bias=True),
    "gemma": GEMMA,
    "gemma2": replace(GEMMA, block="sandwich"),
    "gemma3_text": replace(GEMMA, block="sandwich", qk_norm="head"),
    "phi3": Design(),
    "olmo2": Design(block="output", qk_norm="whole", norm_in_float32=True),
    "smollm3": Design(),
    "falcon": replace(GPT, block="parallel", shared_norm=True, qkv_bias=False, out_bias=False, ffn_bias=False),
    "bloom": replace(GPT, positions="alibi", embedding_norm=True, activation="gelu_tanh"),
    "gpt2": replace(GPT, positions="learned", activation="gelu_tanh"),
    "gpt_neox": replace(GPT, block="parallel"),
    "bert": BERT,
    "roberta": BERT,
    "distilbert": BERT,
    "modernbert": Design(causal=False, norm="layer", embedding_norm=True, first_norm=False, activation="gelu"),
}


def body_parameters(layers: int, width: int, heads: int, kv_heads: int, head_dim: int, ffn: int, *, gated: bool) -> int:
    """Weights of the matrices of all blocks, which is also how many multiplications they take for a token."""
    attention = width * head_dim * (2 * heads + 2 * kv_heads)
    return layers * (attention + (3 if gated else 2) * width * ffn)
