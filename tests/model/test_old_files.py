"""Files as older programs wrote them load too: other key names, other tensor names, left-over constants."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from wyrmling.core.errors import BadInput
from wyrmling.model import folder
from wyrmling.model.attention import Segments
from wyrmling.model.design import FAMILIES
from wyrmling.model.families import hf_parts, read_config, write_weights

LENGTHS = [24, 9]
SIZES = {
    "vocab_size": 104, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
# What a config.json says now, and what an old one said instead. None: the key was not there.
LINEAR = {"rope_parameters": None, "rope_theta": 5e4, "rope_scaling": {"type": "linear", "factor": 4.0}}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 0.7,
    "mscale_all_dim": 0.5,
}
CONFIGS = [
    pytest.param(hf.LlamaForCausalLM, hf.LlamaConfig(**SIZES), LINEAR, id="llama"),
    pytest.param(
        hf.Qwen2ForCausalLM,
        hf.Qwen2Config(**SIZES, num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=2),
        {"layer_types": None, "rope_parameters": None, "rope_theta": 1e6, "rope_scaling": YARN},
        id="qwen2",
    ),
    pytest.param(
        hf.Gemma3ForCausalLM,
        hf.Gemma3TextConfig(**SIZES, head_dim=8, num_key_value_heads=2, sliding_window=4),
        {
            "layer_types": None, "sliding_window_pattern": 3, "rope_parameters": None, "rope_theta": 3e5,
            "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        id="gemma3",
    ),
    pytest.param(
        hf.GPTNeoXForCausalLM,
        hf.GPTNeoXConfig(**SIZES),
        {"rope_parameters": None, "rotary_pct": 0.5, "rotary_emb_base": 2e4},
        id="gpt_neox",
    ),
    pytest.param(
        hf.ModernBertForMaskedLM,
        hf.ModernBertConfig(**SIZES, pad_token_id=0, cls_token_id=1, sep_token_id=2, local_attention=8),
        {
            "layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 2, "global_rope_theta": 5e4,
            "local_rope_theta": 2e4,
        },
        id="modernbert",
    ),
    pytest.param(
        hf.BloomForCausalLM,
        hf.BloomConfig(vocab_size=104, hidden_size=32, n_layer=2, n_head=4),
        {"hidden_size": None, "n_embed": 32, "num_attention_heads": None, "num_hidden_layers": None},
        id="bloom",
    ),
]  # fmt: skip


def saved(tiny, tmp_path, model: type, config: Any) -> Any:
    judge = model(config).eval()
    tiny.randomise(judge)
    judge.save_pretrained(tmp_path)
    return judge


def rewrite_config(path, changes: dict[str, Any]) -> None:
    raw = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def rewrite_tensors(path, change) -> None:
    tensors = change(load_file(path / folder.WEIGHTS))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / folder.WEIGHTS)


def assert_equal(tiny, path, judge, output=lambda out: out.logits) -> None:
    documents = [[3 + token % 101 for token in d] for d in tiny.documents(LENGTHS)]
    with torch.no_grad():
        ours = folder.load(path).logits(tiny.flat(documents), Segments(LENGTHS))
        theirs = torch.cat([output(judge(torch.tensor([d])))[0] for d in documents])
    assert (ours - theirs).abs().max() < 5e-5


@pytest.mark.parametrize(("model", "config", "old"), CONFIGS)
def test_old_config_keys_mean_what_transformers_takes_them_for(tiny, tmp_path, model, config, old):
    saved(tiny, tmp_path, model, config)
    before = folder.load(tmp_path).config
    rewrite_config(tmp_path, old)
    assert model is hf.BloomForCausalLM or folder.load(tmp_path).config != before
    assert_equal(tiny, tmp_path, tiny.judge(tmp_path))


def test_gpt2_files_without_a_prefix_and_with_their_masks(tiny, tmp_path):
    judge = saved(
        tiny,
        tmp_path,
        hf.GPT2LMHeadModel,
        hf.GPT2Config(vocab_size=104, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    )
    mask = {f"h.{i}.attn.{name}": torch.ones(1, 1, 64, 64) for i in range(2) for name in ("bias", "masked_bias")}
    rewrite_tensors(
        tmp_path, lambda t: {name.removeprefix("transformer."): tensor for name, tensor in t.items()} | mask
    )
    assert_equal(tiny, tmp_path, judge)


def test_bert_files_of_pretraining_with_old_names_and_another_head(tiny, tmp_path, capsys):
    judge = saved(tiny, tmp_path, hf.BertForMaskedLM, hf.BertConfig(**SIZES))

    def as_in_2019(tensors):
        old = {
            n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for n, t in tensors.items()
        }
        return old | {
            "bert.pooler.dense.weight": torch.zeros(32, 32),
            "bert.pooler.dense.bias": torch.zeros(32),
            "bert.embeddings.position_ids": torch.arange(64)[None],
            "cls.seq_relationship.weight": torch.zeros(2, 32),
            "cls.seq_relationship.bias": torch.zeros(2),
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone(),
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone(),
        }

    rewrite_tensors(tmp_path, as_in_2019)
    assert_equal(tiny, tmp_path, judge)
    said = capsys.readouterr().err
    assert "not needed here and left out: bert.pooler.dense.bias" in said
    assert "cls.seq_relationship.weight" in said


def test_neox_files_with_their_constants(tiny, tmp_path):
    judge = saved(tiny, tmp_path, hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(**SIZES))
    constants = {
        f"gpt_neox.layers.0.attention.{name}": torch.ones(3) for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    }
    rewrite_tensors(tmp_path, lambda tensors: tensors | constants)
    assert_equal(tiny, tmp_path, judge)


def test_a_bare_body_saved_with_a_prefix_loads(tiny, tmp_path):
    judge = saved(tiny, tmp_path, hf.BertForMaskedLM, hf.BertConfig(**SIZES)).bert
    rewrite_config(tmp_path, {"architectures": ["BertModel"]})
    rewrite_tensors(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if n.startswith("bert.")})
    model = folder.load(tmp_path)
    document = torch.tensor(tiny.documents([9])[0])
    with torch.no_grad():
        assert (model.body(document, Segments([9])) - judge(document[None]).last_hidden_state[0]).abs().max() < 5e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_each_parameter_cover_its_rows_and_every_tensor_of_the_file(tiny, family):
    model = tiny.model(family)
    parts, written = hf_parts(model), write_weights(model)
    for name, parameter in model.named_parameters():
        rows = [row for part in parts[name] for row in range(*part.rows.indices(len(parameter)))]
        assert rows == list(range(len(parameter)))
        for part in parts[name]:
            shape = list(parameter[part.rows].shape)
            assert list(written[part.name].shape) == (shape[::-1] if part.transposed else shape)
    assert sorted(part.name for found in parts.values() for part in found) == sorted(written)


def test_sizes_that_cannot_work_together_are_refused_by_the_files_name():
    raw = {"architectures": ["LlamaForCausalLM"], **SIZES, "num_key_value_heads": 3}
    with pytest.raises(BadInput, match=r"can't be: .*heads = 4 is not a multiple .*= 3") as error:
        read_config(raw, where="config.json")
    assert error.value.where == "config.json"


def test_a_sequence_of_layers_that_is_unknown_is_refused():
    raw = {"architectures": ["LlamaForCausalLM"], **SIZES, "layer_types": ["chunked_attention"] * 4}
    with pytest.raises(BadInput, match="chunked_attention"):
        read_config(raw, where="config.json")
