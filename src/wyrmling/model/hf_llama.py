"""config.json of the Llama-like decoders: Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3, Phi-3, OLMo 2, SmolLM3."""

from __future__ import annotations

from typing import Any

from wyrmling.model.design import Design, FamilyName
from wyrmling.model.hf_config import (
    Raw,
    Unsupported,
    activation,
    activation_name,
    designed,
    first,
    layer_types,
    local,
    read_scaling,
    require,
    rope_settings,
    sliding,
    write_rope,
)
from wyrmling.model.transformer import Local, ModelConfig

GEMMAS = ("gemma", "gemma2", "gemma3_text")
# Head width where a file does not say it: width / heads, but these.
HEAD_DIM = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3_text": 256}
EXPERTS = ("mixtral", "qwen3_moe")
TIED = ("gemma", "gemma2", "gemma3_text", "smollm3")


def read(family: FamilyName, raw: Raw) -> ModelConfig:
    """Raises KeyError for a missing key, Unsupported for arithmetic that is not implemented."""
    if raw.get("use_bidirectional_attention"):
        raise Unsupported("use_bidirectional_attention", True)
    if unknown := set(raw.get("layer_types") or ()) - {"sliding_attention", "full_attention"}:
        raise Unsupported("layer_types", min(unknown))
    heads, width, layers = raw["num_attention_heads"], raw["hidden_size"], raw["num_hidden_layers"]
    return ModelConfig(
        family=family,
        vocab_size=raw["vocab_size"],
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or HEAD_DIM.get(family, width // heads),
        ffn=raw["moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size"],
        experts=_experts(family, raw),
        experts_per_token=raw.get("num_experts_per_tok", 8 if family == "qwen3_moe" else 2) if family in EXPERTS else 0,
        norm_eps=raw.get("rms_norm_eps", 1e-5 if family in ("phi3", "olmo2") else 1e-6),
        tied=raw.get("tie_word_embeddings", family in TIED),
        design=_design(family, raw),
        local=_local(family, raw, layers),
        no_rope_layers=_no_rope(raw, layers) if family == "smollm3" else (),
        attention_scale=raw.get("query_pre_attn_scalar", 256) ** -0.5 if family in GEMMAS[1:] else None,
        attention_cap=raw.get("attn_logit_softcapping", 50.0 if family == "gemma2" else None),
        logit_cap=raw.get("final_logit_softcapping", 30.0 if family == "gemma2" else None),
        **_rope(family, raw),
    )


def _experts(family: FamilyName, raw: Raw) -> int:
    if family not in EXPERTS:
        return 0
    require(raw, decoder_sparse_step=1)
    if raw.get("mlp_only_layers"):
        raise Unsupported("mlp_only_layers", raw["mlp_only_layers"])
    return int(first(raw, "num_local_experts", "num_experts"))


def _design(family: FamilyName, raw: Raw) -> Design | None:
    key = "hidden_activation" if family in GEMMAS[1:] else "hidden_act"
    found = activation(raw, key, "gelu_pytorch_tanh" if family in GEMMAS else "silu")
    # Gemma's first files say gelu and mean its tanh form.
    switches: dict[str, Any] = {"activation": "gelu_tanh" if family in GEMMAS and found == "gelu" else found}
    if family not in ("mistral", "mixtral", "qwen2", "phi3"):
        bias = bool(raw.get("attention_bias"))
        switches |= {"qkv_bias": bias, "out_bias": bias}
    if family in ("llama", "smollm3"):
        switches["ffn_bias"] = bool(raw.get("mlp_bias"))
    if family == "qwen3_moe":
        switches["expert_weights_normed"] = bool(raw.get("norm_topk_prob"))
    return designed(family, **switches)


def _rope(family: FamilyName, raw: Raw) -> dict[str, Any]:
    if family != "gemma3_text":
        return rope_settings(raw, theta=2_000_000.0 if family == "smollm3" else 10_000.0)
    full = dict((raw.get("rope_parameters") or {}).get("full_attention") or raw.get("rope_scaling") or {})
    context = int(raw["max_position_embeddings"])
    theta = full.get("rope_theta") or raw.get("rope_theta") or 1_000_000.0
    return {"context": context, "rope_theta": float(theta), "rope_scaling": read_scaling(full, raw, context)}


def _local(family: FamilyName, raw: Raw, layers: int) -> Local | None:
    window = raw.get("sliding_window", None if family in ("phi3", "smollm3", "mixtral") else 4096)
    if family in ("mistral", "mixtral", "phi3"):
        return local(window, (True,) * layers)
    if family in ("qwen2", "qwen3"):
        first = raw.get("max_window_layers", 28)
        return (
            local(window, sliding(raw, [i >= first for i in range(layers)])) if raw.get("use_sliding_window") else None
        )
    if family == "smollm3":
        without = _no_rope(raw, layers)
        found = sliding(raw, [i in without for i in range(layers)])
        return local(window, found) if raw.get("use_sliding_window") else None
    if family == "gemma2":
        return local(window, sliding(raw, [i % 2 == 0 for i in range(layers)]))
    if family == "gemma3_text":
        every = raw.get("sliding_window_pattern") or 6
        near = (raw.get("rope_parameters") or {}).get("sliding_attention") or {}
        require(near, rope_type="default")
        theta = near.get("rope_theta") or raw.get("rope_local_base_freq") or 10_000.0
        return local(window, sliding(raw, [(i + 1) % every != 0 for i in range(layers)]), float(theta))
    return None


def _no_rope(raw: Raw, layers: int) -> tuple[int, ...]:
    every = raw.get("no_rope_layer_interval", 4)
    turning = raw.get("no_rope_layers") or [(i + 1) % every != 0 for i in range(layers)]
    return tuple(i for i in range(layers) if not turning[i])


def write(config: ModelConfig) -> dict[str, Any]:
    family, design = config.family, config.switches
    keys: dict[str, Any] = {
        "hidden_act": activation_name(config),
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "attention_bias": design.out_bias,
        "use_cache": True,
    } | write_rope(config)
    if family == "llama":
        keys |= {"mlp_bias": design.ffn_bias, "pretraining_tp": 1}
    if config.local is not None or family in ("mistral", "mixtral", "phi3"):
        keys["sliding_window"] = None if config.local is None else config.local.reach + 1
    if family in ("qwen2", "qwen3", "smollm3"):
        keys |= {"use_sliding_window": config.local is not None, "layer_types": layer_types(config)}
        keys["sliding_window"] = None if config.local is None else config.local.reach + 1
    if family in ("qwen2", "qwen3"):
        windowed = [i for i in range(config.layers) if config.is_local(i)]
        keys["max_window_layers"] = windowed[0] if windowed else config.layers
    if family in EXPERTS:
        keys |= {"num_experts_per_tok": config.experts_per_token, "num_local_experts": config.experts}
    if family == "qwen3_moe":
        keys |= {"num_experts": config.experts, "moe_intermediate_size": config.ffn, "decoder_sparse_step": 1}
        keys |= {"norm_topk_prob": design.expert_weights_normed, "mlp_only_layers": []}
        keys |= {"use_sliding_window": config.local is not None}
    if family == "smollm3":
        keys |= {"mlp_bias": design.ffn_bias}
        keys["no_rope_layers"] = [int(i not in config.no_rope_layers) for i in range(config.layers)]
    if family in GEMMAS:
        keys["hidden_activation"] = keys["hidden_act"]
    if family in GEMMAS[1:]:
        scale = config.attention_scale or config.head_dim**-0.5
        keys |= {
            "layer_types": layer_types(config),
            "query_pre_attn_scalar": round(scale**-2),
            "attn_logit_softcapping": config.attention_cap,
            "final_logit_softcapping": config.logit_cap,
        }
    if family == "gemma3_text":
        near = config.local.theta if config.local is not None else None
        theta = near or config.rope_theta
        keys["rope_parameters"] = {
            "full_attention": keys["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        }
        keys["rope_local_base_freq"] = theta
    if family == "phi3" and config.rope_scaling is not None:
        keys["original_max_position_embeddings"] = config.rope_scaling.original_max_position_embeddings
    return keys
