"""A GGUF file says in llama.cpp what the folder says here: the same ids, log-probabilities and greedy answers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from wyrmling.core.errors import BadInput, UsageError
from wyrmling.model import folder, probes
from wyrmling.serve import export_gguf
from wyrmling.serve.llamacpp import Engine
from wyrmling.tokenizer.tokenizer import Tokenizer

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
# Heads times head width other than the width, to find mixed-up sizes.
GROUPS = {**SIZES, "num_key_value_heads": 2, "head_dim": 32}
GEMMA = {**GROUPS, "query_pre_attn_scalar": 32, "sliding_window": 5}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
KINDS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, GROUPS | {"tie_word_embeddings": True}),
    "llama-3.1": (hf.LlamaConfig, hf.LlamaForCausalLM, GROUPS | {"rope_parameters": LLAMA3}),
    "llama-linear": (
        hf.LlamaConfig, hf.LlamaForCausalLM,
        GROUPS | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "mistral": (hf.MistralConfig, hf.MistralForCausalLM, GROUPS | {"sliding_window": None}),
    "smollm3": (hf.SmolLM3Config, hf.SmolLM3ForCausalLM, SIZES | {"num_key_value_heads": 2, "num_hidden_layers": 5}),
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, SIZES | {"num_key_value_heads": 2}),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, GROUPS),
    "olmo2": (hf.Olmo2Config, hf.Olmo2ForCausalLM, SIZES | {"num_key_value_heads": 2}),
    "phi3": (hf.Phi3Config, hf.Phi3ForCausalLM, SIZES | {"num_key_value_heads": 2, "sliding_window": None}),
    "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM, GROUPS),
    "gemma2": (hf.Gemma2Config, hf.Gemma2ForCausalLM, GEMMA),
    "gemma3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM, GEMMA | {"num_hidden_layers": 6}),
    "gpt2": (hf.GPT2Config, hf.GPT2LMHeadModel, {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gpt_neox": (hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, SIZES | {"rotary_pct": 0.25}),
    "gpt_neox-serial": (hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, SIZES | {"use_parallel_residual": False}),
}  # fmt: skip


def made(kitchen: Any, out: Path, kind: str, **more: Any) -> Path:
    """A random folder of a kind, as transformers writes it, with a byte-level tokenizer."""
    config, model, settings = KINDS[kind]
    tokenizer = kitchen.tokenizer(ends=False)
    torch.manual_seed(0)
    random = model(config(vocab_size=Tokenizer.load(tokenizer).vocab_size, **settings | more))
    with torch.no_grad():
        for parameter in random.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    random.save_pretrained(out)
    for name in folder.TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            (out / name).write_bytes((tokenizer / name).read_bytes())
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_answers_as_the_folder_does(kitchen, tmp_path: Path, kind: str) -> None:
    source = made(kitchen, tmp_path / "hf", kind)
    model, tokenizer = folder.load(source), Tokenizer.load(source)
    export_gguf.write(source, tmp_path / "model.gguf", None)
    engine = Engine(tmp_path / "model.gguf")
    stored = probes.ask(model, tokenizer, ["a little dragon lived under a hill"])
    given, greedy = engine.answer(stored.probes[0].ids, 16, model.config.vocab_size)
    assert engine.ids("the dragon's tea, naïve 日本語") == tokenizer.encode("the dragon's tea, naïve 日本語")
    # llama.cpp looks GELU up in a table of float16 numbers.
    assert (given - stored.logits[0][-1:].log_softmax(-1)).abs().max() < (3e-3 if kind.startswith("g") else 2e-4)
    # It ends an answer before a special token.
    kept = list(itertools.takewhile(lambda id: id not in tokenizer.special_ids.values(), stored.probes[0].greedy))
    assert kept
    assert greedy[: len(kept)] == kept


def test_a_window_that_llama_cpp_does_not_know_is_refused(kitchen, tmp_path: Path) -> None:
    source = made(kitchen, tmp_path / "hf", "mistral", sliding_window=5)
    with pytest.raises(BadInput, match="no sliding window for mistral models, and this one has 5 of 64"):
        export_gguf.write(source, tmp_path / "model.gguf", None)


def test_models_that_do_not_generate_are_refused(kitchen, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"ModernBertForSequenceClassification has no place.*") as caught:
        export_gguf.write(kitchen.model("sorter", "classes"), tmp_path / "model.gguf", None)
    assert "--to onnx" in str(caught.value.fix)


def test_an_unreadable_file_is_an_error_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(UsageError, match=r"llama\.cpp can't read"):
        Engine(tmp_path / "model.gguf")
