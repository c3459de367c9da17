"""Where each family's files keep each of our parameters: tensor names and storage order. It reads and writes nothing.

A table maps a module of ours to the file's modules; several mean that ours stacks them by rows. The last word of a name
(weight, bias) is the same on both sides. A full name with it goes before its module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from wyrmling.model.design import FamilyName
from wyrmling.model.heads import HeadName
from wyrmling.model.transformer import ModelConfig

Names = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Layout:
    """The names of one family.

    prefix      stands before the body's names unless the file is a body without a head
    layer       stands before a block's names, with {} for its number
    transposed  matrices of the blocks are stored as [in, out]
    fused       queries, keys and values are one tensor, in groups of heads that share a key head
    """

    prefix: str
    layer: str
    body: Names
    block: Names
    heads: Mapping[HeadName, Names] = field(default_factory=dict)
    transposed: bool = False
    fused: bool = False


LLAMA = Layout(
    prefix="model.",
    layer="layers.{}.",
    body={"embedding": ("embed_tokens",), "final_norm": ("norm",)},
    block={
        "attention_norm": ("input_layernorm",),
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.q_norm": ("self_attn.q_norm",),
        "attention.k_norm": ("self_attn.k_norm",),
        "attention.out": ("self_attn.o_proj",),
        "ffn_norm": ("post_attention_layernorm",),
        "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "ffn.down": ("mlp.down_proj",),
    },
    heads={"next": {"head": ("lm_head",)}, "classes": {"head": ("score",)}, "tags": {"head": ("score",)}},
)
OUTPUT_NORMS = replace(
    LLAMA,
    block={
        **LLAMA.block,
        "attention_out_norm": ("post_attention_layernorm",),
        "ffn_norm": ("pre_feedforward_layernorm",),
        "ffn_out_norm": ("post_feedforward_layernorm",),
    },
)
PHI3 = replace(
    LLAMA,
    block={**LLAMA.block, "attention.qkv": ("self_attn.qkv_proj",), "ffn.gate_up": ("mlp.gate_up_proj",)},
)
MIXTRAL = replace(
    LLAMA,
    block={
        **LLAMA.block,
        "ffn.router": ("block_sparse_moe.gate",),
        "ffn.experts.{}.gate_up": ("block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w3"),
        "ffn.experts.{}.down": ("block_sparse_moe.experts.{}.w2",),
    },
)
QWEN3_MOE = replace(
    LLAMA,
    block={
        **LLAMA.block,
        "ffn.router": ("mlp.gate",),
        "ffn.experts.{}.gate_up": ("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj"),
        "ffn.experts.{}.down": ("mlp.experts.{}.down_proj",),
    },
)

CLASSIFIER: Mapping[HeadName, Names] = {
    "next": {"head": ("lm_head",)},
    "classes": {"head": ("score",)},
    "tags": {"head": ("classifier",)},
}
BLOOM = Layout(
    prefix="transformer.",
    layer="h.{}.",
    body={
        "embedding": ("word_embeddings",),
        "embedding_norm": ("word_embeddings_layernorm",),
        "final_norm": ("ln_f",),
    },
    block={
        "attention_norm": ("input_layernorm",),
        "attention.qkv": ("self_attention.query_key_value",),
        "attention.out": ("self_attention.dense",),
        "ffn_norm": ("post_attention_layernorm",),
        "ffn.up": ("mlp.dense_h_to_4h",),
        "ffn.down": ("mlp.dense_4h_to_h",),
    },
    heads=CLASSIFIER,
    fused=True,
)
FALCON_TWO_NORMS = replace(BLOOM, block={**BLOOM.block, "attention_norm": ("ln_attn",), "ffn_norm": ("ln_mlp",)})
GPT_NEOX = Layout(
    prefix="gpt_neox.",
    layer="layers.{}.",
    body={"embedding": ("embed_in",), "final_norm": ("final_layer_norm",)},
    block={**BLOOM.block, "attention.qkv": ("attention.query_key_value",), "attention.out": ("attention.dense",)},
    heads={**CLASSIFIER, "next": {"head": ("embed_out",)}},
    fused=True,
)
GPT2 = Layout(
    prefix="transformer.",
    layer="h.{}.",
    body={"embedding": ("wte",), "positions": ("wpe",), "final_norm": ("ln_f",)},
    block={
        "attention_norm": ("ln_1",),
        "attention.qkv": ("attn.c_attn",),
        "attention.out": ("attn.c_proj",),
        "ffn_norm": ("ln_2",),
        "ffn.up": ("mlp.c_fc",),
        "ffn.down": ("mlp.c_proj",),
    },
    heads=CLASSIFIER,
    transposed=True,
)

BERT = Layout(
    prefix="bert.",
    layer="encoder.layer.{}.",
    body={
        "embedding": ("embeddings.word_embeddings",),
        "positions": ("embeddings.position_embeddings",),
        "token_types": ("embeddings.token_type_embeddings",),
        "embedding_norm": ("embeddings.LayerNorm",),
    },
    block={
        "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.out": ("attention.output.dense",),
        "attention_norm": ("attention.output.LayerNorm",),
        "ffn.up": ("intermediate.dense",),
        "ffn.down": ("output.dense",),
        "ffn_norm": ("output.LayerNorm",),
    },
    heads={
        "masked": {
            "head.dense": ("cls.predictions.transform.dense",),
            "head.norm": ("cls.predictions.transform.LayerNorm",),
            "head.weight": ("cls.predictions.decoder.weight",),
            "head.bias": ("cls.predictions.bias",),
        },
        "classes": {"head.dense": ("bert.pooler.dense",), "head": ("classifier",)},
        "tags": {"head": ("classifier",)},
        "embed": {"head.dense": ("pooler.dense",)},
    },
)
ROBERTA = replace(
    BERT,
    prefix="roberta.",
    heads={
        **BERT.heads,
        "masked": {
            "head.dense": ("lm_head.dense",),
            "head.norm": ("lm_head.layer_norm",),
            "head.weight": ("lm_head.decoder.weight",),
            "head.bias": ("lm_head.bias",),
        },
        "classes": {"head.dense": ("classifier.dense",), "head": ("classifier.out_proj",)},
    },
)
DISTILBERT = replace(
    BERT,
    prefix="distilbert.",
    layer="transformer.layer.{}.",
    block={
        "attention.qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out": ("attention.out_lin",),
        "attention_norm": ("sa_layer_norm",),
        "ffn.up": ("ffn.lin1",),
        "ffn.down": ("ffn.lin2",),
        "ffn_norm": ("output_layer_norm",),
    },
    heads={
        "masked": {
            "head.dense": ("vocab_transform",),
            "head.norm": ("vocab_layer_norm",),
            "head": ("vocab_projector",),
        },
        "classes": {"head.dense": ("pre_classifier",), "head": ("classifier",)},
        "tags": {"head": ("classifier",)},
    },
)
MODERN_HEAD: Names = {"head.dense": ("head.dense",), "head.norm": ("head.norm",)}
MODERNBERT = Layout(
    prefix="model.",
    layer="layers.{}.",
    body={
        "embedding": ("embeddings.tok_embeddings",),
        "embedding_norm": ("embeddings.norm",),
        "final_norm": ("final_norm",),
    },
    block={
        "attention_norm": ("attn_norm",),
        "attention.qkv": ("attn.Wqkv",),
        "attention.out": ("attn.Wo",),
        "ffn_norm": ("mlp_norm",),
        "ffn.gate_up": ("mlp.Wi",),
        "ffn.down": ("mlp.Wo",),
    },
    heads={
        "masked": {**MODERN_HEAD, "head": ("decoder",)},
        "classes": {**MODERN_HEAD, "head": ("classifier",)},
        "tags": {**MODERN_HEAD, "head": ("classifier",)},
    },
)

LAYOUTS: dict[FamilyName, Layout] = {
    "gemma2": OUTPUT_NORMS,
    "gemma3_text": OUTPUT_NORMS,
    "olmo2": OUTPUT_NORMS,
    "phi3": PHI3,
    "mixtral": MIXTRAL,
    "qwen3_moe": QWEN3_MOE,
    "falcon": BLOOM,
    "bloom": BLOOM,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "modernbert": MODERNBERT,
}

# What the head on disk is called where a model has it twice or by an older name.
ALIASES = {
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.decoder.bias": "lm_head.bias",
}
# Constants that old checkpoints store beside the weights.
CONSTANTS = (
    "rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
    "embeddings.position_ids",
)  # fmt: skip
# Parts of a pretrained encoder that another task needed.
OTHER_TASKS = ("pooler.dense.", "cls.seq_relationship.")


def layout_of(config: ModelConfig) -> Layout:
    """The names of a model's family, in the variant its design needs."""
    design = config.switches
    if config.family == "falcon" and design.block == "parallel" and not design.shared_norm:
        return FALCON_TWO_NORMS
    return LAYOUTS.get(config.family, LLAMA)


def names_of(parameter: str, config: ModelConfig, head: HeadName) -> tuple[str, ...]:
    """The tensors of a file that hold a parameter of ours, in row order."""
    layout = layout_of(config)
    module, _, kind = parameter.rpartition(".")
    if module == "head" or module.startswith("head."):
        table = layout.heads[head]
        return table[parameter] if parameter in table else tuple(f"{name}.{kind}" for name in table[module])
    prefix = "" if head == "embed" else layout.prefix
    if module.startswith("body.blocks."):
        _, _, layer, inner = module.split(".", 3)
        expert = inner.split(".")[2] if inner.startswith("ffn.experts.") else ""
        theirs = layout.block[inner.replace(f".{expert}.", ".{}.") if expert else inner]
        return tuple(f"{prefix}{layout.layer.format(layer)}{name.format(expert)}.{kind}" for name in theirs)
    return tuple(f"{prefix}{name}.{kind}" for name in layout.body[module.removeprefix("body.")])
