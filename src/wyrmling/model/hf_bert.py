"""config.json of the encoders: BERT (and MiniLM), RoBERTa, DistilBERT, ModernBERT."""

from __future__ import annotations

from typing import Any

from wyrmling.model.design import FamilyName
from wyrmling.model.hf_config import (
    Raw,
    Unsupported,
    activation,
    activation_name,
    designed,
    first,
    layer_types,
    require,
    sliding,
)  # fmt: skip
from wyrmling.model.transformer import Local, ModelConfig


def read(family: FamilyName, raw: Raw) -> ModelConfig:
    """Raises KeyError for a missing key, Unsupported for arithmetic that is not implemented."""
    require(raw, is_decoder=False, add_cross_attention=False, position_embedding_type="absolute")
    return _modernbert(raw) if family == "modernbert" else _bert(family, raw)


def _bert(family: FamilyName, raw: Raw) -> ModelConfig:
    width, heads = first(raw, "hidden_size", "dim"), first(raw, "num_attention_heads", "n_heads")
    pad = raw.get("pad_token_id", 1)
    # RoBERTa's first position stands right after the row of the padding token.
    offset = (1 if pad is None else pad) + 1 if family == "roberta" else 0
    return ModelConfig(
        family=family,
        vocab_size=raw["vocab_size"],
        width=width,
        layers=first(raw, "num_hidden_layers", "n_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        ffn=first(raw, "intermediate_size", "hidden_dim"),
        context=raw["max_position_embeddings"] - offset,
        norm_eps=1e-12 if family == "distilbert" else raw.get("layer_norm_eps", 1e-12),
        tied=raw.get("tie_word_embeddings", True),
        design=designed(family, activation=activation(raw, "activation" if "dim" in raw else "hidden_act", "gelu")),
        position_offset=offset,
        token_types=0 if family == "distilbert" else raw.get("type_vocab_size", 2),
    )


def _modernbert(raw: Raw) -> ModelConfig:
    require(raw, decoder_bias=True, classifier_bias=False, classifier_activation="gelu")
    heads, width, layers = raw["num_attention_heads"], raw["hidden_size"], raw["num_hidden_layers"]
    ropes = raw.get("rope_parameters") or {}
    for rope in (raw.get("rope_scaling") or {}, *(r for r in ropes.values() if isinstance(r, dict))):
        if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
            raise Unsupported("rope_type", kind)
    full, near = ropes.get("full_attention") or {}, ropes.get("sliding_attention") or {}
    every = raw.get("global_attn_every_n_layers") or 3
    slides = sliding(raw, [i % every != 0 for i in range(layers)])
    theta = float(near.get("rope_theta") or raw.get("local_rope_theta") or 10_000.0)
    attention_bias = bool(raw.get("attention_bias"))
    return ModelConfig(
        family="modernbert",
        vocab_size=raw["vocab_size"],
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        ffn=raw["intermediate_size"],
        context=raw["max_position_embeddings"],
        rope_theta=float(full.get("rope_theta") or raw.get("global_rope_theta") or 160_000.0),
        norm_eps=raw.get("norm_eps", 1e-5),
        tied=raw.get("tie_word_embeddings", True),
        design=designed(
            "modernbert",
            activation=activation(raw, "hidden_activation", "gelu"),
            norm_bias=bool(raw.get("norm_bias")),
            qkv_bias=attention_bias,
            out_bias=attention_bias,
            ffn_bias=bool(raw.get("mlp_bias")),
        ),
        local=Local(raw.get("local_attention", 128) // 2, slides, theta) if any(slides) else None,
        pooling={"cls": "first", "mean": "mean"}[raw.get("classifier_pooling", "cls")],  # type: ignore[arg-type]
    )


def write(config: ModelConfig) -> dict[str, Any]:
    if config.family == "modernbert":
        return _write_modernbert(config)
    name = activation_name(config)
    if config.family == "distilbert":
        return {
            "dim": config.width,
            "hidden_dim": config.ffn,
            "n_layers": config.layers,
            "n_heads": config.heads,
            "activation": name,
            "dropout": 0.0,
            "seq_classif_dropout": 0.0,
            "sinusoidal_pos_embds": False,
        }
    keys: dict[str, Any] = {
        "hidden_act": name,
        "layer_norm_eps": config.norm_eps,
        "type_vocab_size": config.token_types,
        "max_position_embeddings": config.context + config.position_offset,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout": 0.0,
        "position_embedding_type": "absolute",
    }
    return keys


def _write_modernbert(config: ModelConfig) -> dict[str, Any]:
    design = config.switches
    full = {"rope_type": "default", "rope_theta": config.rope_theta}
    near = config.rope_theta if config.local is None or config.local.theta is None else config.local.theta
    kinds = layer_types(config)
    periods = [n for n in range(1, config.layers + 1) if kinds == _every(n, config.layers)]
    return {
        "hidden_activation": activation_name(config),
        "norm_eps": config.norm_eps,
        "norm_bias": design.norm_bias,
        "attention_bias": design.qkv_bias,
        "mlp_bias": design.ffn_bias,
        "decoder_bias": True,
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "classifier_pooling": "cls" if config.pooling == "first" else "mean",
        "classifier_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "layer_types": kinds,
        "global_attn_every_n_layers": periods[0] if periods else 1,
        "local_attention": 2 * (config.context if config.local is None else config.local.reach),
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": near,
        "rope_parameters": {"full_attention": full, "sliding_attention": full | {"rope_theta": near}},
        "sparse_prediction": False,
        "cls_token_id": None,
        "sep_token_id": None,
    }


def _every(n: int, layers: int) -> list[str]:
    return ["sliding_attention" if i % n else "full_attention" for i in range(layers)]
