"""The config.json of published models describes as many weights here as they have."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wyrmling.model.families import read_config
from wyrmling.model.heads import Model

# The keys that shape the model, as the files on the Hugging Face hub have them, and the weights that are counted there
# (a tied matrix once; without what another task needed).
LLAMA = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3.2-1B": (
        LLAMA
        | {
            "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 131072,
            "tie_word_embeddings": True, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
        },
        1_235_814_400,
    ),
    "Mistral-7B-v0.1": (
        {
            "architectures": ["MistralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
            "max_position_embeddings": 32768, "sliding_window": 4096, "tie_word_embeddings": False,
        },
        7_241_732_096,
    ),
    "Mixtral-8x7B-v0.1": (
        {
            "architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
            "max_position_embeddings": 32768, "sliding_window": None, "num_experts_per_tok": 2, "num_local_experts": 8,
            "rope_theta": 1000000.0, "tie_word_embeddings": False,
        },
        46_702_792_704,
    ),
    "Qwen2.5-0.5B": (
        {
            "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864,
            "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
            "max_position_embeddings": 32768, "max_window_layers": 24, "sliding_window": 32768,
            "use_sliding_window": False, "tie_word_embeddings": True, "rope_theta": 1000000.0,
        },
        494_032_768,
    ),
    "Qwen3-0.6B": (
        {
            "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "intermediate_size": 3072,
            "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936, "max_position_embeddings": 40960, "sliding_window": None,
            "use_sliding_window": False, "max_window_layers": 28, "tie_word_embeddings": True,
            "rope_scaling": None, "rope_theta": 1000000, "attention_bias": False,
        },
        596_049_920,
    ),
    "gemma-2-2b": (
        {
            "architectures": ["Gemma2ForCausalLM"], "hidden_size": 2304, "intermediate_size": 9216,
            "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "vocab_size": 256000, "max_position_embeddings": 8192, "sliding_window": 4096,
            "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
            "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        },
        2_614_341_888,
    ),
    "gemma-3-1b": (
        {
            "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 1152,
            "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1,
            "head_dim": 256, "vocab_size": 262144, "max_position_embeddings": 32768, "sliding_window": 512,
            "sliding_window_pattern": 6, "query_pre_attn_scalar": 256, "rope_theta": 1000000,
            "rope_local_base_freq": 10000, "rope_scaling": None, "attn_logit_softcapping": None,
            "final_logit_softcapping": None, "hidden_activation": "gelu_pytorch_tanh",
        },
        999_885_952,
    ),
    "Phi-3-mini-128k": (
        {
            "architectures": ["Phi3ForCausalLM"], "hidden_size": 3072, "intermediate_size": 8192,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
            "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "sliding_window": 262144,
            "tie_word_embeddings": False, "rope_theta": 10000.0,
            "rope_scaling": {"type": "longrope", "short_factor": [1.05] * 48, "long_factor": [4.0] * 48},
        },
        3_821_079_552,
    ),
    "OLMo-2-1124-7B": (
        {
            "architectures": ["Olmo2ForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 100352,
            "max_position_embeddings": 4096, "rope_theta": 500000, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
        },
        7_298_617_344,
    ),
    "SmolLM3-3B": (
        {
            "architectures": ["SmolLM3ForCausalLM"], "hidden_size": 2048, "intermediate_size": 11008,
            "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128256,
            "max_position_embeddings": 65536, "no_rope_layer_interval": 4, "rope_theta": 5000000.0,
            "sliding_window": None, "use_sliding_window": False, "max_window_layers": 28, "tie_word_embeddings": True,
        },
        3_075_098_624,
    ),
    "falcon-7b": (
        {
            "architectures": ["FalconForCausalLM"], "hidden_size": 4544, "num_hidden_layers": 32,
            "num_attention_heads": 71, "vocab_size": 65024, "multi_query": True, "parallel_attn": True, "bias": False,
            "alibi": False, "new_decoder_architecture": False, "apply_residual_connection_post_layernorm": False,
        },
        6_921_720_704,
    ),
    "bloom-560m": (
        {
            "architectures": ["BloomForCausalLM"], "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16,
            "vocab_size": 250880, "seq_length": 2048, "apply_residual_connection_post_layernorm": False,
        },
        559_214_592,
    ),
    "gpt2": (
        {
            "architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
            "n_ctx": 1024, "vocab_size": 50257, "activation_function": "gelu_new",
        },
        124_439_808,
    ),
    "pythia-70m": (
        {
            "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 512, "intermediate_size": 2048,
            "num_hidden_layers": 6, "num_attention_heads": 8, "vocab_size": 50304, "max_position_embeddings": 2048,
            "rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": True, "tie_word_embeddings": False,
        },
        70_426_624,
    ),
    "bert-base-uncased": (
        {
            "architectures": ["BertForMaskedLM"], "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 30522, "max_position_embeddings": 512,
            "type_vocab_size": 2, "pad_token_id": 0, "position_embedding_type": "absolute",
        },
        109_514_298,
    ),
    "roberta-base": (
        {
            "architectures": ["RobertaForMaskedLM"], "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50265, "max_position_embeddings": 514,
            "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5,
        },
        124_697_433,
    ),
    "distilbert-base-uncased": (
        {
            "architectures": ["DistilBertForMaskedLM"], "dim": 768, "hidden_dim": 3072, "n_layers": 6, "n_heads": 12,
            "vocab_size": 30522, "max_position_embeddings": 512, "activation": "gelu",
        },
        66_985_530,
    ),
    "ModernBERT-base": (
        {
            "architectures": ["ModernBertForMaskedLM"], "hidden_size": 768, "intermediate_size": 1152,
            "num_hidden_layers": 22, "num_attention_heads": 12, "vocab_size": 50368, "max_position_embeddings": 8192,
            "global_attn_every_n_layers": 3, "local_attention": 128, "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0, "classifier_pooling": "mean", "decoder_bias": True, "norm_bias": False,
        },
        149_655_232,
    ),
}  # fmt: skip
# How far the context reaches, where a file does not say it plainly.
CONTEXTS = {"Phi-3-mini-128k": 4096, "roberta-base": 512, "bloom-560m": 2048, "Llama-3.2-1B": 131_072}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_its_number_of_weights(name: str) -> None:
    raw, weights = PUBLISHED[name]
    config, head, _ = read_config(raw, where=name)
    with torch.device("meta"):
        model = Model(config, head, seed=None)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    assert config.context == CONTEXTS.get(name, config.context)
