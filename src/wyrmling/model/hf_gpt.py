"""config.json of the GPT-like decoders: GPT-2, GPT-NeoX (Pythia), BLOOM, Falcon."""

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
    require,
    rope_settings,
    write_rope,
)  # fmt: skip
from wyrmling.model.transformer import ModelConfig

# ALiBi has no longest text; BLOOM was trained with this.
BLOOM_CONTEXT = 2048


def read(family: FamilyName, raw: Raw) -> ModelConfig:
    """Raises KeyError for a missing key, Unsupported for arithmetic that is not implemented."""
    return {"gpt2": _gpt2, "gpt_neox": _gpt_neox, "bloom": _bloom, "falcon": _falcon}[family](raw)


def _sizes(raw: Raw) -> dict[str, Any]:
    width, heads = first(raw, "hidden_size", "n_embd", "n_embed"), first(raw, "num_attention_heads", "n_head")
    return {
        "vocab_size": raw["vocab_size"],
        "width": width,
        "layers": first(raw, "num_hidden_layers", "n_layer"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": width // heads,
        "norm_eps": raw.get("layer_norm_epsilon", raw.get("layer_norm_eps", 1e-5)),
        "tied": raw.get("tie_word_embeddings", True),
    }


def _gpt2(raw: Raw) -> ModelConfig:
    require(raw, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    sizes = _sizes(raw)
    return ModelConfig(
        family="gpt2",
        **sizes,
        ffn=raw.get("n_inner") or 4 * sizes["width"],
        context=first(raw, "n_positions", "max_position_embeddings"),
        design=designed("gpt2", activation=activation(raw, "activation_function", "gelu_new")),
    )


def _gpt_neox(raw: Raw) -> ModelConfig:
    bias = raw.get("attention_bias", True)
    return ModelConfig(
        family="gpt_neox",
        **_sizes(raw) | {"tied": raw.get("tie_word_embeddings", False)},
        ffn=raw["intermediate_size"],
        design=designed(
            "gpt_neox",
            activation=activation(raw, "hidden_act", "gelu"),
            block="parallel" if raw.get("use_parallel_residual", True) else "pre",
            qkv_bias=bias,
            out_bias=bias,
        ),
        **rope_settings(raw, fraction=0.25),
    )


def _bloom(raw: Raw) -> ModelConfig:
    require(raw, apply_residual_connection_post_layernorm=False)
    sizes = _sizes(raw)
    return ModelConfig(family="bloom", **sizes, ffn=4 * sizes["width"], context=raw.get("seq_length") or BLOOM_CONTEXT)


def _falcon(raw: Raw) -> ModelConfig:
    require(raw, apply_residual_connection_post_layernorm=False)
    sizes = _sizes(raw)
    new, alibi, bias = (bool(raw.get(key, False)) for key in ("new_decoder_architecture", "alibi", "bias"))
    parallel = bool(raw.get("parallel_attn", True))
    if new and not parallel:
        raise Unsupported("parallel_attn", False)
    if new:
        sizes["kv_heads"] = first(raw, "num_kv_heads", "num_attention_heads", "n_head")
    elif raw.get("multi_query", True):
        sizes["kv_heads"] = 1
    norms = (raw.get("num_ln_in_parallel_attn") or 2) if new else 1
    return ModelConfig(
        family="falcon",
        **sizes,
        ffn=raw.get("ffn_hidden_size") or 4 * sizes["width"],
        design=designed(
            "falcon",
            activation=activation(raw, "activation", "gelu"),
            block="parallel" if parallel else "pre",
            shared_norm=parallel and norms == 1,
            positions="alibi_rounded" if alibi else "rope",
            qkv_bias=bias,
            out_bias=bias,
            ffn_bias=bias,
        ),
        **rope_settings({"max_position_embeddings": 2048} | dict(raw)),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    design, name = config.switches, activation_name(config)
    common = {
        "layer_norm_epsilon": config.norm_eps,
        "n_layer": config.layers,
        "n_head": config.heads,
        "use_cache": True,
        "hidden_dropout": 0.0,
    }
    if config.family == "gpt2":
        return common | {
            "n_embd": config.width,
            "n_positions": config.context,
            "n_inner": config.ffn,
            "activation_function": "gelu_new" if name == "gelu_pytorch_tanh" else name,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
    if config.family == "bloom":
        return common | {"n_embed": config.width, "seq_length": config.context}
    if config.family == "gpt_neox":
        rope = write_rope(config)
        return (
            common
            | rope
            | {
                "layer_norm_eps": config.norm_eps,
                "hidden_act": name,
                "use_parallel_residual": design.block == "parallel",
                "attention_bias": design.qkv_bias,
                "rotary_pct": config.rope_fraction,
                "rotary_emb_base": config.rope_theta,
                "classifier_dropout": 0.0,
            }
        )
    return common | write_rope(config) | _falcon_keys(config) | {"activation": name}


def _falcon_keys(config: ModelConfig) -> dict[str, Any]:
    design = config.switches
    parallel = design.block == "parallel"
    # The older layout has one key head or as many as query heads; anything else, and two norms, need the newer one.
    new = parallel and (not design.shared_norm or config.kv_heads not in (1, config.heads))
    return {
        "ffn_hidden_size": config.ffn,
        "num_kv_heads": config.kv_heads if new else config.heads,
        "new_decoder_architecture": new,
        "multi_query": config.kv_heads == 1,
        "parallel_attn": parallel,
        "num_ln_in_parallel_attn": (1 if design.shared_norm else 2) if new else None,
        "alibi": design.positions == "alibi_rounded",
        "bias": design.qkv_bias,
    }
