"""Hugging Face names, both ways: config.json and tensor names of each family, to and from this package's.

A config key that would change the arithmetic and is not implemented here is refused by name; so is every tensor that is
missing, left over, or of another shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wyrmling.core.errors import BadInput
from wyrmling.core.log import warn
from wyrmling.model.design import FamilyName
from wyrmling.model.heads import HeadName, Model, stacked_parts
from wyrmling.model.transformer import ModelConfig

ARCHITECTURES: dict[str, tuple[FamilyName, HeadName]] = {
    "Qwen3ForCausalLM": ("qwen3", "next"),
    "LlamaForCausalLM": ("llama", "next"),
    "ModernBertForMaskedLM": ("modernbert", "masked"),
    "ModernBertForSequenceClassification": ("modernbert", "classes"),
    "ModernBertForTokenClassification": ("modernbert", "tags"),
}

# Keys that must have this value when present: the arithmetic behind any other value is not implemented.
REQUIRED: dict[FamilyName, dict[str, Any]] = {
    "qwen3": {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    "modernbert": {
        "hidden_activation": "gelu",
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "decoder_bias": True,
        "classifier_bias": False,
        "classifier_activation": "gelu",
    },
}

# Our parameter -> the file's tensors; several are stacked by rows.
Names = dict[str, tuple[str, ...]]

DECODER_NAMES: Names = {
    "embedding.weight": ("model.embed_tokens.weight",),
    "final_norm.weight": ("model.norm.weight",),
}
DECODER_BLOCK_NAMES: Names = {
    "attention_norm.weight": ("input_layernorm.weight",),
    "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attention.q_norm.weight": ("self_attn.q_norm.weight",),
    "attention.k_norm.weight": ("self_attn.k_norm.weight",),
    "attention.out.weight": ("self_attn.o_proj.weight",),
    "ffn_norm.weight": ("post_attention_layernorm.weight",),
    "ffn.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "ffn.down.weight": ("mlp.down_proj.weight",),
}
ENCODER_NAMES: Names = {
    "embedding.weight": ("model.embeddings.tok_embeddings.weight",),
    "embedding_norm.weight": ("model.embeddings.norm.weight",),
    "final_norm.weight": ("model.final_norm.weight",),
}
ENCODER_BLOCK_NAMES: Names = {
    "attention_norm.weight": ("attn_norm.weight",),
    "attention.qkv.weight": ("attn.Wqkv.weight",),
    "attention.out.weight": ("attn.Wo.weight",),
    "ffn_norm.weight": ("mlp_norm.weight",),
    "ffn.gate_up.weight": ("mlp.Wi.weight",),
    "ffn.down.weight": ("mlp.Wo.weight",),
}
HEAD_NAMES: dict[HeadName, Names] = {
    "next": {"weight": ("lm_head.weight",)},
    "masked": {
        "dense.weight": ("head.dense.weight",),
        "norm.weight": ("head.norm.weight",),
        "weight": ("decoder.weight",),
        "bias": ("decoder.bias",),
    },
    "classes": {
        "dense.weight": ("head.dense.weight",),
        "norm.weight": ("head.norm.weight",),
        "weight": ("classifier.weight",),
        "bias": ("classifier.bias",),
    },
}
HEAD_NAMES["tags"] = HEAD_NAMES["classes"]

# Constants that old checkpoints store beside the weights.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)


class Described(NamedTuple):
    """What a config.json says: the sizes, the head, and how many classes it has (0 for token heads)."""

    config: ModelConfig
    head: HeadName
    n_classes: int


def read_config(raw: Mapping[str, Any], *, where: object) -> Described:
    """The model a Hugging Face config.json describes.

    where    the file, for error messages
    Raises   BadInput naming the unknown architecture, the missing key, or the setting that is not implemented
    """
    if "auto_map" in raw:
        raise BadInput(
            "config.json has auto_map: the model needs its own Python code, which is never run",
            where=where,
            fix=f"use a model of one of these kinds: {', '.join(sorted(ARCHITECTURES))}",
        )
    architectures = raw.get("architectures") or [None]
    if architectures[0] not in ARCHITECTURES:
        raise BadInput(
            f"model_type {raw.get('model_type')!r} with architectures {architectures} is not supported",
            where=where,
            fix=f"use a model of one of these kinds: {', '.join(sorted(ARCHITECTURES))}",
        )
    family, head = ARCHITECTURES[architectures[0]]
    try:
        _refuse_unimplemented(family, head, raw, where)
        config = _encoder_config(raw) if family == "modernbert" else _decoder_config(family, raw)
    except KeyError as error:
        raise BadInput(
            f"config.json lacks the key {error.args[0]!r}",
            where=where,
            fix="get the model folder again from its origin",
        ) from error
    labels = raw.get("id2label") or {}
    n_classes = (len(labels) or int(raw.get("num_labels", 2))) if head in ("classes", "tags") else 0
    return Described(config, head, n_classes)


def _refuse_unimplemented(family: FamilyName, head: HeadName, raw: Mapping[str, Any], where: object) -> None:
    wrong = {key: raw[key] for key, value in REQUIRED[family].items() if key in raw and raw[key] != value}
    for rope in _ropes(raw):
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            wrong["rope_type"] = rope
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            wrong["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if "sliding_attention" in (raw.get("layer_types") or ()):
        wrong["layer_types"] = "sliding_attention"
    if family == "modernbert" and not raw.get("layer_types") and raw.get("global_attn_every_n_layers", 3) != 1:
        wrong["global_attn_every_n_layers"] = raw.get("global_attn_every_n_layers", 3)
    if head == "classes" and raw.get("classifier_pooling", "cls") != "mean":
        wrong["classifier_pooling"] = raw.get("classifier_pooling", "cls")
    if wrong:
        raise BadInput(
            f"config.json asks for what wyrmling can't compute yet: {wrong}",
            where=where,
            fix='use a model without these settings, or train one with base = "scratch"',
        )


def _ropes(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Where rope settings stand: in new files under one key, or per layer type under it; in old ones at two places."""
    found = [raw, raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}]
    return found + [value for value in found[1].values() if isinstance(value, dict)]


def _decoder_config(family: FamilyName, raw: Mapping[str, Any]) -> ModelConfig:
    heads, width = raw["num_attention_heads"], raw["hidden_size"]
    rope = raw.get("rope_parameters") or {}
    default_head_dim = 128 if family == "qwen3" else width // heads
    return ModelConfig(
        family=family,
        vocab_size=raw["vocab_size"],
        width=width,
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or default_head_dim,
        ffn=raw["intermediate_size"],
        context=raw["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        tied=raw.get("tie_word_embeddings", False),
    )


def _encoder_config(raw: Mapping[str, Any]) -> ModelConfig:
    heads, width = raw["num_attention_heads"], raw["hidden_size"]
    rope = (raw.get("rope_parameters") or {}).get("full_attention") or {}
    return ModelConfig(
        family="modernbert",
        vocab_size=raw["vocab_size"],
        width=width,
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        ffn=raw["intermediate_size"],
        context=raw["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta") or raw.get("global_rope_theta") or 160_000.0),
        norm_eps=raw.get("norm_eps", 1e-5),
        tied=raw.get("tie_word_embeddings", True),
    )


def write_config(
    model: Model, *, labels: list[str] | None = None, special_ids: Mapping[str, int | None] | None = None
) -> dict[str, Any]:
    """The config.json of a model, with the names that new and old readers know.

    labels       the names of classes or tags, by index
    special_ids  bos_token_id, eos_token_id, pad_token_id, … of the tokenizer
    """
    config, head = model.config, model.head_name
    architecture = next(name for name, kind in ARCHITECTURES.items() if kind == (config.family, head))
    raw: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "layer_types": ["full_attention"] * config.layers,
        "dtype": str(model.body.embedding.weight.dtype).removeprefix("torch."),
        "torch_dtype": str(model.body.embedding.weight.dtype).removeprefix("torch."),
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    raw |= _encoder_keys(config) if config.family == "modernbert" else _decoder_keys(config)
    raw |= special_ids or {}
    if head in ("classes", "tags"):
        names = labels or [f"LABEL_{i}" for i in range(model.n_out)]
        raw["id2label"] = {str(i): name for i, name in enumerate(names)}
        raw["label2id"] = {name: i for i, name in enumerate(names)}
    if head == "classes":
        raw["problem_type"] = "single_label_classification"
    return raw


def _decoder_keys(config: ModelConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "hidden_act": "silu",
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "use_cache": True,
    }
    if config.family == "llama":
        del keys["rope_scaling"]
        return keys | {"mlp_bias": False, "pretraining_tp": 1}
    return keys | {"use_sliding_window": False, "sliding_window": None, "max_window_layers": config.layers}


def _encoder_keys(config: ModelConfig) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    return {
        "hidden_activation": "gelu",
        "norm_eps": config.norm_eps,
        "norm_bias": False,
        "mlp_bias": False,
        "decoder_bias": True,
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "classifier_pooling": "mean",
        "classifier_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "global_attn_every_n_layers": 1,
        "local_attention": 2 * config.context,
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": config.rope_theta,
        "rope_parameters": {"full_attention": rope, "sliding_attention": dict(rope)},
        "sparse_prediction": False,
        "cls_token_id": None,
        "sep_token_id": None,
    }


def _names(model: Model) -> Names:
    """The file's tensors for each parameter of this model."""
    encoder = model.config.family == "modernbert"
    body, block = (ENCODER_NAMES, ENCODER_BLOCK_NAMES) if encoder else (DECODER_NAMES, DECODER_BLOCK_NAMES)
    names = {f"body.{ours}": theirs for ours, theirs in body.items()}
    for layer in range(model.config.layers):
        for ours, theirs in block.items():
            names[f"body.blocks.{layer}.{ours}"] = tuple(f"model.layers.{layer}.{name}" for name in theirs)
    names |= {f"head.{ours}": theirs for ours, theirs in HEAD_NAMES[model.head_name].items()}
    return {name: names[name] for name, _ in model.named_parameters()}


class HfPart(NamedTuple):
    """Rows of one of our parameters and the Hugging Face tensor that holds them.

    name        the tensor in the file; without its last word it is the module in transformers
    rows        rows of our parameter
    transposed  the file holds the matrix as [in, out]
    groups      1: rows in our order. More: a fused matrix of queries, keys and values, in which each of so many equal
                groups of heads has its queries, then its keys, then its values
    """

    name: str
    rows: slice
    transposed: bool = False
    groups: int = 1


def hf_parts(model: Model) -> dict[str, list[HfPart]]:
    """For each parameter of the model, by name: the Hugging Face tensors its rows are written to, in row order."""
    stacked = stacked_parts(model)
    parts: dict[str, list[HfPart]] = {}
    for (ours, parameter), theirs in zip(model.named_parameters(), _names(model).values(), strict=True):
        sizes = stacked[ours] if len(theirs) > 1 else (len(parameter),)
        ends = list(accumulate(sizes))
        parts[ours] = [
            HfPart(name, slice(end - size, end)) for name, size, end in zip(theirs, sizes, ends, strict=True)
        ]
    return parts


def write_weights(model: Model) -> dict[str, Tensor]:
    """The model's tensors under their Hugging Face names, on the CPU; a tied matrix is written once."""
    parameters = dict(model.named_parameters())
    return {
        part.name: parameters[ours].detach().cpu()[part.rows].contiguous()
        for ours, parts in hf_parts(model).items()
        for part in parts
    }


def read_weights(described: Described, tensors: Mapping[str, Tensor], *, where: object) -> Model:
    """The described model with the tensors of a file.

    A tied model whose file holds a different output matrix is read as untied: the file's values win.
    Raises   BadInput naming tensors that are missing, left over, or of another shape
    """
    tensors = _with_prefix(tensors)
    config, head, n_classes = described
    output, embedding = HEAD_NAMES[head]["weight"][0], _embedding_name(config)
    if config.tied and head in ("next", "masked") and output in tensors:
        if embedding in tensors and torch.equal(tensors[output], tensors[embedding]):
            tensors = {name: tensor for name, tensor in tensors.items() if name != output}
        else:
            warn(f"{where}: the config ties {output} to the embedding, but the file's differ; they stay separate")
            config = replace(config, tied=False)
    with torch.device("meta"):
        model = Model(config, head, n_classes, seed=None)
    names = _names(model)
    _check_names(names, tensors, where)
    state = {}
    for ours, parameter in model.named_parameters():
        pieces = [tensors[name] for name in names[ours]]
        value = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if value.shape != parameter.shape:
            raise BadInput(
                f"{' + '.join(names[ours])} has shape {list(value.shape)}, config.json wants {list(parameter.shape)}",
                where=where,
                fix="the weights and config.json are of different models; get the model folder again from its origin",
            )
        state[ours] = value
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


def _embedding_name(config: ModelConfig) -> str:
    return (ENCODER_NAMES if config.family == "modernbert" else DECODER_NAMES)["embedding.weight"][0]


def _with_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file saved from the bare body lacks the prefix `model.`; stored constants are left out."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(IGNORED_SUFFIXES)}
    if any(name.startswith("model.") for name in kept):
        return kept
    body = ("embed_tokens.", "embeddings.", "layers.", "norm.", "final_norm.")
    return {f"model.{name}" if name.startswith(body) else name: tensor for name, tensor in kept.items()}


def _check_names(names: Mapping[str, tuple[str, ...]], tensors: Mapping[str, Tensor], where: object) -> None:
    expected = {name for group in names.values() for name in group}
    problems = [
        f"{what}: {', '.join(sorted(found)[:5])}" + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        for what, found in (
            ("tensors missing from the file", expected - tensors.keys()),
            ("tensors in the file that the model does not have", tensors.keys() - expected),
        )
        if found
    ]
    if problems:
        raise BadInput(
            "; ".join(problems),
            where=where,
            fix="the weights and config.json are of different models; get the model folder again from its origin",
        )
