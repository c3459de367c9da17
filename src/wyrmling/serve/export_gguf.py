"""A model folder as one GGUF file, for llama.cpp and what is built on it. Needs the extra [gguf].

Tensor names and the file's layout come from llama.cpp's own `gguf` package; here is only what llama.cpp expects to be
different from a Hugging Face folder. Whether it all fits is not believed but asked of the engine: see llamacpp.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wyrmling.core.errors import BadInput, UsageError
from wyrmling.model import families
from wyrmling.model import folder as model_folder
from wyrmling.serve import gguf_tokens

Config = Mapping[str, Any]

# What --quantize means here: llama.cpp's own types, 8.5 and 4.5 bits per weight.
ROUNDED = {None: "F32", "int8": "Q8_0", "4bit": "Q4_0"}


def write(folder: Path, out: Path, quantize: str | None) -> int:
    """Write the GGUF file of a model folder; how many tokens it knows. Rows of the embedding beyond them are left out.

    quantize   None: float32; int8: Q8_0; 4bit: Q4_0. A matrix whose width does not divide by 32 becomes float16
    Raises     UsageError for another quantisation; BadInput for a model that llama.cpp has no architecture for
    """
    gguf = library()
    if quantize not in ROUNDED:
        raise UsageError(f"there is no GGUF with --quantize {quantize}", fix="choose int8 or 4bit, or leave it out")
    config = json.loads((folder / model_folder.CONFIG).read_text(encoding="utf-8"))
    kind = config["model_type"]
    if kind not in ARCHITECTURES or not config["architectures"][0].endswith(("ForCausalLM", "LMHeadModel")):
        raise BadInput(
            f"a {config['architectures'][0]} has no place in a GGUF file that this can write",
            where=folder,
            fix=f"export a model that generates text, of one of the kinds {', '.join(ARCHITECTURES)}; or use --to onnx",
        )
    model = model_folder.load(folder)
    architecture, reshape = ARCHITECTURES[kind]
    writer = gguf.GGUFWriter(out, architecture)
    writer.add_name(folder.name)
    rows = model.config.tokens or model.config.vocab_size
    _add_sizes(writer, config, kind)
    writer.add_vocab_size(rows)
    gguf_tokens.add(writer, folder, rows)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], model.config.layers)
    wanted = getattr(gguf.GGMLQuantizationType, ROUNDED[quantize])
    writer.add_file_type(getattr(gguf.LlamaFileType, _file_type(ROUNDED[quantize])))
    tensors = families.write_weights(model)
    for name, tensor in _extra(config, model.config.rope(0)).items():
        writer.add_tensor(name, tensor.numpy())
    for theirs, tensor in tensors.items():
        stem, _, suffix = theirs.rpartition(".")
        name = names.get_name(stem)
        if name is None:
            raise BadInput(f"llama.cpp has no name for the tensor {theirs}", where=folder)
        if name in ("token_embd", "output"):
            tensor = tensor[:rows]
        _add_tensor(gguf, writer, f"{name}.{suffix}", reshape(theirs, tensor.float(), config), wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rows


def library() -> Any:
    """The `gguf` package. Raises UsageError naming the extra when it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise UsageError("GGUF needs the gguf package", fix='pip install "wyrmling[gguf]"') from error
    return gguf


def _add_tensor(gguf: Any, writer: Any, name: str, tensor: Tensor, wanted: Any) -> None:
    values = tensor.contiguous().numpy()
    types = gguf.GGMLQuantizationType
    # llama.cpp reads norms and biases as float32 only, and position tables too.
    if values.ndim == 1 or wanted == types.F32 or name.startswith("position_embd"):
        writer.add_tensor(name, values)
    elif values.shape[1] % 32:
        writer.add_tensor(name, values.astype(np.float16))
    else:
        # The embedding is also the output matrix of tied models; half a bit more per weight is cheap there.
        kind = types.Q8_0 if name in ("token_embd.weight", "output.weight") else wanted
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _file_type(name: str) -> str:
    return "ALL_F32" if name == "F32" else f"MOSTLY_{name}"


# ---- sizes ----


def _add_sizes(writer: Any, config: Config, kind: str) -> None:
    width = config.get("hidden_size") or config["n_embd"]
    heads = config.get("num_attention_heads") or config["n_head"]
    layers = config.get("num_hidden_layers") or config["n_layer"]
    context = config.get("max_position_embeddings") or config.get("n_positions")
    head_dim = config.get("head_dim") or width // heads
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config.get("intermediate_size") or config.get("n_inner") or 4 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    else:
        writer.add_layer_norm_eps(config.get("layer_norm_epsilon") or config.get("layer_norm_eps") or 1e-5)
    if kind != "gpt2":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        _add_rope(writer, config, head_dim)
    if kind == "gpt_neox":
        writer.add_parallel_residual(config.get("use_parallel_residual", True))
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if kind in ("gemma2", "gemma3_text") and window:
        writer.add_sliding_window(window)
    elif window and window < context:
        # llama.cpp would read the file and see further than the model was trained to.
        raise BadInput(
            f"llama.cpp knows no sliding window for {kind} models, and this one has {window} of {context} tokens",
            fix=f"set max_position_embeddings to {window} in a copy of the folder, or use --to hf or --to onnx",
        )
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _add_rope(writer: Any, config: Config, head_dim: int) -> None:
    rope = _rope(config)
    partial = (
        rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or config.get("rotary_pct") or 1.0
    )
    writer.add_rope_dimension_count(int(head_dim * partial))
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0))
    scaling = rope.get("rope_type", "default")
    if scaling == "linear":
        writer.add_rope_scaling_type(library().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif scaling not in ("default", "llama3"):
        raise BadInput(f"positions of the type {scaling} are not written to GGUF files", fix="use --to hf or --to onnx")


def _rope(config: Config) -> Mapping[str, Any]:
    """The rope settings of the layers that see everything."""
    rope: Config = config.get("rope_parameters") or {}
    found: Config = rope.get("full_attention", rope)
    return found


def _extra(config: Config, rope: Any) -> dict[str, Tensor]:
    """Tensors that a folder doesn't have: what llama3's scaling divides each frequency by."""
    if _rope(config).get("rope_type") != "llama3":
        return {}
    plain_k, _ = type(rope)(rope.theta, rope.width).frequencies()
    scaled_k, _ = rope.frequencies()
    return {"rope_freqs.weight": plain_k / scaled_k}


# ---- tensors ----


def _same(name: str, tensor: Tensor, config: Config) -> Tensor:
    return tensor


def _llama(name: str, tensor: Tensor, config: Config) -> Tensor:
    """llama.cpp turns neighbouring dimensions together here: the two halves of each query and key head interleave."""
    for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        if part in name:
            n = config.get(heads) or config["num_attention_heads"]
            return tensor.view(n, 2, len(tensor) // n // 2, -1).transpose(1, 2).reshape(tensor.shape)
    return tensor


def _gemma(name: str, tensor: Tensor, config: Config) -> Tensor:
    return tensor + 1 if name.endswith("norm.weight") else tensor


def _gpt2(name: str, tensor: Tensor, config: Config) -> Tensor:
    """The file of a GPT-2 has its matrices lying on their side."""
    sideways = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return tensor.t() if name.endswith(sideways) else tensor


def _gpt_neox(name: str, tensor: Tensor, config: Config) -> Tensor:
    """Rows come head by head as q, k, v; llama.cpp wants all q, all k, all v."""
    if "query_key_value" not in name:
        return tensor
    heads = config["num_attention_heads"]
    return tensor.view(heads, 3, len(tensor) // heads // 3, -1).transpose(0, 1).reshape(tensor.shape)


ARCHITECTURES: dict[str, tuple[str, Callable[[str, Tensor, Config], Tensor]]] = {
    "llama": ("llama", _llama),
    "mistral": ("llama", _llama),
    "smollm3": ("smollm3", _llama),
    "qwen2": ("qwen2", _same),
    "qwen3": ("qwen3", _same),
    "olmo2": ("olmo2", _same),
    "phi3": ("phi3", _same),
    "gemma": ("gemma", _gemma),
    "gemma2": ("gemma2", _gemma),
    "gemma3_text": ("gemma3", _gemma),
    "gpt2": ("gpt2", _gpt2),
    "gpt_neox": ("gptneox", _gpt_neox),
}
