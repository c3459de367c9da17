"""Hugging Face models, both ways: what config.json describes, and which tensor holds which of our parameters.

A config key that would change the arithmetic and is not implemented is refused by name; so is every tensor that is
missing, left over, or of another shape. Configs are in hf_*.py by kind of model, tensor names in hf_names.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.core.log import say, warn
from wyrmling.model import hf_bert, hf_gpt, hf_llama
from wyrmling.model.design import FAMILIES, FamilyName
from wyrmling.model.heads import HeadName, Model, stacked_parts
from wyrmling.model.hf_config import Unsupported
from wyrmling.model.hf_names import ALIASES, CONSTANTS, OTHER_TASKS, layout_of, names_of
from wyrmling.model.transformer import ModelConfig

# What the classes of transformers are called, before the part that names the head.
CLASSES: dict[FamilyName, str] = {
    "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe", "llama": "Llama", "mistral": "Mistral", "mixtral": "Mixtral",
    "qwen2": "Qwen2", "gemma": "Gemma", "gemma2": "Gemma2", "gemma3_text": "Gemma3Text", "phi3": "Phi3",
    "olmo2": "Olmo2", "smollm3": "SmolLM3", "falcon": "Falcon", "bloom": "Bloom", "gpt2": "GPT2",
    "gpt_neox": "GPTNeoX", "bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "modernbert": "ModernBert",
}  # fmt: skip
HEADS: dict[HeadName, str] = {
    "next": "ForCausalLM",
    "masked": "ForMaskedLM",
    "classes": "ForSequenceClassification",
    "tags": "ForTokenClassification",
    "embed": "Model",
}
IRREGULAR: dict[tuple[FamilyName, HeadName], str] = {
    ("gpt2", "next"): "GPT2LMHeadModel",
    ("gemma3_text", "next"): "Gemma3ForCausalLM",
}
ARCHITECTURES: dict[str, tuple[FamilyName, HeadName]] = {
    IRREGULAR.get((family, head), CLASSES[family] + suffix): (family, head)
    for family in FAMILIES
    for head, suffix in HEADS.items()
    if head != ("masked" if FAMILIES[family].causal else "next")
}


class Described(NamedTuple):
    """What a config.json says: the sizes, the head, and how many classes it has (0 for other heads)."""

    config: ModelConfig
    head: HeadName
    n_classes: int


def _configs(family: FamilyName) -> ModuleType:
    if not FAMILIES[family].causal:
        return hf_bert
    return hf_gpt if family in ("gpt2", "gpt_neox", "bloom", "falcon") else hf_llama


def is_known(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a kind that is computed here."""
    return (raw.get("architectures") or [None])[0] in ARCHITECTURES


def read_config(raw: Mapping[str, Any], *, where: object) -> Described:
    """The model a Hugging Face config.json describes.

    where    the file, for error messages
    Raises   BadInput naming the unknown architecture, the missing key, or the setting that is not implemented
    """
    if "auto_map" in raw:
        raise BadInput(
            "config.json has auto_map: the model needs its own Python code, which is never run",
            where=where,
            fix=f"use a model of one of these kinds: {', '.join(FAMILIES)}",
        )
    if raw.get("quantization_config"):
        raise BadInput(
            "config.json has quantization_config: the weights are stored in a packed form that is not read",
            where=where,
            fix="use the model's unquantised weights; wyrmling quantises them itself",
        )
    architectures = raw.get("architectures") or [None]
    if architectures[0] not in ARCHITECTURES:
        raise BadInput(
            f"model_type {raw.get('model_type')!r} with architectures {architectures} is not supported",
            where=where,
            fix=f"use a model of one of these kinds: {', '.join(FAMILIES)}",
        )
    family, head = ARCHITECTURES[architectures[0]]
    try:
        config: ModelConfig = _configs(family).read(family, raw)
    except KeyError as error:
        raise BadInput(
            f"config.json lacks the key {error.args[0]!r}",
            where=where,
            fix="get the model folder again from its origin",
        ) from error
    except Unsupported as error:
        raise BadInput(
            f"config.json asks for what wyrmling can't compute: {error}",
            where=where,
            fix='use a model without this setting, or train one with base = "scratch"',
        ) from error
    except BadSetting as error:
        raise BadInput(
            f"config.json describes a model that can't be: {error.what}",
            where=where,
            fix="get the model folder again from its origin",
        ) from error
    labels = raw.get("id2label") or {}
    n_classes = (len(labels) or int(raw.get("num_labels", 2))) if head in ("classes", "tags") else 0
    return Described(config if head == "classes" else replace(config, pooling=None), head, n_classes)


def write_config(
    model: Model, *, labels: list[str] | None = None, special_ids: Mapping[str, int | None] | None = None
) -> dict[str, Any]:
    """The config.json of a model, with the names that new and old readers know.

    labels       the names of classes or tags, by index
    special_ids  bos_token_id, eos_token_id, pad_token_id, … of the tokenizer
    """
    config, head = model.config, model.head_name
    dtype = str(model.body.embedding.weight.dtype).removeprefix("torch.")
    raw: dict[str, Any] = {
        "architectures": [next(name for name, kind in ARCHITECTURES.items() if kind == (config.family, head))],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tied,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    raw |= _configs(config.family).write(config)
    raw |= special_ids or {}
    if config.position_offset:
        # RoBERTa counts positions from the padding token's id.
        raw["pad_token_id"] = config.position_offset - 1
    if head in ("classes", "tags"):
        names = labels or [f"LABEL_{i}" for i in range(model.n_out)]
        raw["id2label"] = {str(i): name for i, name in enumerate(names)}
        raw["label2id"] = {name: i for i, name in enumerate(names)}
    if head == "classes":
        raw["problem_type"] = "single_label_classification"
    return raw


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
    config, stacked = model.config, _row_counts(model)
    layout = layout_of(config)
    parts: dict[str, list[HfPart]] = {}
    for ours, parameter in model.named_parameters():
        theirs = names_of(ours, config, model.head_name)
        sizes = stacked[ours] if len(theirs) > 1 else (len(parameter),)
        ends = list(accumulate(sizes))
        transposed = layout.transposed and ours.startswith("body.blocks.") and parameter.dim() == 2
        groups = config.kv_heads if layout.fused and ".qkv." in ours else 1
        parts[ours] = [
            HfPart(name, slice(end - size, end), transposed, groups)
            for name, size, end in zip(theirs, sizes, ends, strict=True)
        ]
    return parts


def _row_counts(model: Model) -> dict[str, tuple[int, ...]]:
    """For each parameter of stacked layers, weights and biases: the rows of each."""
    return {
        name.removesuffix("weight") + kind: sizes
        for name, sizes in stacked_parts(model).items()
        for kind in ("weight", "bias")
    }


def to_file(rows: Tensor, part: HfPart, sizes: tuple[int, ...]) -> Tensor:
    """Rows of ours as the file has them. `sizes`: the rows of queries, keys and values, when they are fused."""
    if part.groups > 1:
        pieces = [piece.view(part.groups, -1, *rows.shape[1:]) for piece in torch.split(rows, list(sizes))]
        rows = torch.cat(pieces, dim=1).flatten(0, 1)
    return rows.T.contiguous() if part.transposed else rows.contiguous()


def from_file(tensor: Tensor, part: HfPart, sizes: tuple[int, ...]) -> Tensor:
    """The inverse of `to_file`."""
    rows = tensor.T if part.transposed else tensor
    if part.groups > 1:
        grouped = rows.reshape(part.groups, -1, *rows.shape[1:])
        pieces = torch.split(grouped, [size // part.groups for size in sizes], dim=1)
        rows = torch.cat([piece.flatten(0, 1) for piece in pieces])
    return rows


def write_weights(model: Model) -> dict[str, Tensor]:
    """The model's tensors under their Hugging Face names, on the CPU; a tied matrix is written once."""
    parameters, stacked = dict(model.named_parameters()), _row_counts(model)
    return {
        part.name: to_file(parameters[ours].detach().cpu()[part.rows], part, stacked.get(ours, ()))
        for ours, parts in hf_parts(model).items()
        for part in parts
    }


def read_weights(described: Described, tensors: Mapping[str, Tensor], *, where: object) -> Model:
    """The described model with the tensors of a file.

    A tied model whose file holds a different output matrix is read as untied: the file's values win.
    Raises   BadInput naming tensors that are missing, left over, or of another shape
    """
    config, head, n_classes = described
    tensors = _as_written_today(tensors, config, head)
    if head in ("next", "masked") and config.tied:
        tensors, config = _untie(tensors, config, head, where)
    if head == "embed" and "pooler.dense.weight" in tensors:
        config = replace(config, pooler=True)
    with torch.device("meta"):
        model = Model(config, head, n_classes, seed=None)
    parts, stacked = hf_parts(model), _row_counts(model)
    tensors = _without_other_tasks(tensors, {part.name for found in parts.values() for part in found}, where)
    _check_names({part.name for found in parts.values() for part in found}, tensors, where)
    state = {}
    for ours, parameter in model.named_parameters():
        for part in parts[ours]:
            wanted = list(parameter[part.rows].shape)
            _check_tensor(tensors[part.name], wanted[::-1] if part.transposed else wanted, part.name, where)
        # Each is taken out, so that what was put together is not in memory twice.
        pieces = [from_file(tensors.pop(part.name), part, stacked.get(ours, ())) for part in parts[ours]]
        state[ours] = (torch.cat(pieces) if len(pieces) > 1 else pieces[0]).contiguous()
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


def _as_written_today(tensors: Mapping[str, Tensor], config: ModelConfig, head: HeadName) -> dict[str, Tensor]:
    """The tensors under the names that transformers writes now: constants left out, prefix there, no old words."""
    layout = layout_of(config)
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.endswith(CONSTANTS):
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            kept[name] = tensor
    for old, new in ALIASES.items():
        if old in kept and (new not in kept or torch.equal(kept[old], kept[new])):
            kept[new] = kept.pop(old)
    body = (*(name for names in layout.body.values() for name in names), layout.layer.partition("{}")[0], "pooler.")
    prefixed = any(name.startswith(layout.prefix) for name in kept)
    if head == "embed" and prefixed:
        return {name.removeprefix(layout.prefix): tensor for name, tensor in kept.items()}
    if head != "embed" and not prefixed:
        return {f"{layout.prefix}{name}" if name.startswith(body) else name: tensor for name, tensor in kept.items()}
    return kept


def _untie(
    tensors: dict[str, Tensor], config: ModelConfig, head: HeadName, where: object
) -> tuple[dict[str, Tensor], ModelConfig]:
    """Without an output matrix that equals the embedding; with one that differs, as an untied model."""
    (output,) = names_of("head.weight", config, head)
    (embedding,) = names_of("body.embedding.weight", config, head)
    if output not in tensors:
        return tensors, config
    if embedding in tensors and torch.equal(tensors[output], tensors[embedding]):
        return {name: tensor for name, tensor in tensors.items() if name != output}, config
    warn(f"{where}: the config ties {output} to the embedding, but the file's differ; they stay separate")
    return tensors, replace(config, tied=False)


def _without_other_tasks(tensors: dict[str, Tensor], wanted: set[str], where: object) -> dict[str, Tensor]:
    """Without what pretraining of encoders needed for another task; it is said."""
    left = sorted(n for n in tensors.keys() - wanted if any(f".{part}" in f".{n}" for part in OTHER_TASKS))
    if left:
        say(f"{where}: not needed here and left out: {', '.join(left)}")
    return {name: tensor for name, tensor in tensors.items() if name not in left}


def _check_tensor(tensor: Tensor, wanted: list[int], name: str, where: object) -> None:
    if not tensor.is_floating_point():
        raise BadInput(
            f"{name} holds {str(tensor.dtype).removeprefix('torch.')} values, not floating-point numbers",
            where=where,
            fix="use the model's unquantised weights",
        )
    if list(tensor.shape) != wanted:
        raise BadInput(
            f"{name} has shape {list(tensor.shape)}, config.json wants {wanted}",
            where=where,
            fix="the weights and config.json are of different models; get the model folder again from its origin",
        )


def _check_names(expected: set[str], tensors: Mapping[str, Tensor], where: object) -> None:
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
