"""Logits, loss, gradients and files are those of transformers, in both directions."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
import transformers

from wyrmling.core.errors import BadInput
from wyrmling.model import folder
from wyrmling.model.attention import Segments

KINDS = [
    pytest.param("qwen3", "next", {}, id="qwen3-untied"),
    pytest.param("qwen3", "next", {"tied": True}, id="qwen3-tied"),
    pytest.param("qwen3", "next", {"kv_heads": 4, "rope_theta": 1e5, "norm_eps": 1e-6}, id="qwen3-no-groups"),
    pytest.param("llama", "next", {"tied": True}, id="llama"),
    pytest.param("modernbert", "masked", {}, id="modernbert-masked"),
    pytest.param("modernbert", "masked", {"tied": False}, id="modernbert-masked-untied"),
    pytest.param("modernbert", "classes", {}, id="modernbert-classes"),
    pytest.param("modernbert", "tags", {}, id="modernbert-tags"),
]
# float32 noise of the judge's own two kernels is up to 5e-6 at logits of spread 1.2.
NOISE = 2e-5
LENGTHS = [5, 24, 9, 5, 17, 1]


def about(head):
    return folder.About(task="complete", head=head, context=64, objective="test")


def judged_logits(judge, documents):
    """One document at a time, so that no padding or mask of theirs takes part."""
    logits = [judge(input_ids=torch.tensor([document])).logits for document in documents]
    return torch.cat([x[0] if x.dim() == 3 else x for x in logits])


@pytest.mark.parametrize(("family", "head", "changes"), KINDS)
def test_transformers_loads_our_folder_and_computes_the_same(tiny, tmp_path, family, head, changes):
    model = tiny.model(family, head, **changes)
    folder.save(model, tmp_path, None, about(head))
    judge = tiny.judge(tmp_path)
    documents = tiny.documents(LENGTHS)
    ours = model.logits(tiny.flat(documents), Segments(LENGTHS))
    theirs = judged_logits(judge, documents)
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() < NOISE

    # Loss and every gradient: theirs are read back under our names through the same folder format.
    targets = torch.randint(0, model.n_out, (len(ours),), generator=torch.Generator().manual_seed(0))
    F.cross_entropy(ours, targets).backward()
    F.cross_entropy(theirs, targets).backward()
    gradients = {name: parameter.grad for name, parameter in judge.named_parameters()}
    from wyrmling.model.families import write_weights

    for parameter in model.parameters():
        parameter.data, parameter.grad = parameter.grad, None
    ours_by_their_name = write_weights(model)
    assert ours_by_their_name.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (ours_by_their_name[name] - gradient).abs().max() < NOISE, name


@pytest.mark.parametrize(("family", "head", "changes"), KINDS)
def test_a_folder_of_transformers_loads_here_and_computes_the_same(tiny, tmp_path, family, head, changes):
    folder.save(tiny.model(family, head, **changes), tmp_path / "ours", None, about(head))
    judge = tiny.judge(tmp_path / "ours")
    tiny.randomise(judge, seed=7)
    judge.save_pretrained(tmp_path / "theirs")
    model = folder.load(tmp_path / "theirs")
    documents = tiny.documents(LENGTHS, seed=1)
    with torch.no_grad():
        ours = model.logits(tiny.flat(documents), Segments(LENGTHS))
        assert (ours - judged_logits(judge, documents)).abs().max() < NOISE


def test_a_model_made_by_transformers_alone_loads_here(tiny, tmp_path):
    config = transformers.Qwen3Config(
        vocab_size=104,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    judge = transformers.Qwen3ForCausalLM(config).eval()
    tiny.randomise(judge)
    judge.save_pretrained(tmp_path)
    documents = tiny.documents(LENGTHS)
    with torch.no_grad():
        ours = folder.load(tmp_path).logits(tiny.flat(documents), Segments(LENGTHS))
        assert (ours - judged_logits(judge, documents)).abs().max() < NOISE


def test_a_tied_model_with_a_different_output_matrix_becomes_untied(tiny, tmp_path, capsys):
    model = tiny.model("qwen3", tied=False)
    folder.save(model, tmp_path, None, about("next"))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    loaded = folder.load(tmp_path)
    assert not loaded.config.tied
    assert torch.equal(loaded.output.weight_VD, model.output.weight_VD)
    assert "stay separate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["NobodysForCausalLM"], "model_type": "nobodys"}, "'nobodys'"),
        ({"architectures": None}, "not supported"),
        ({"auto_map": {"AutoModel": "mine.Model"}}, "own Python code"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}, "Gemma3ForConditional"),
        ({"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2}}, "dynamic"),
        ({"rope_parameters": None, "rope_scaling": {"type": "mrope", "factor": 2}}, "rope_type = 'mrope'"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types = 'linear_attention'"),
        ({"attention_bias": True}, "bias"),
        ({"hidden_size": None}, "lacks the key 'hidden_size'"),
    ],
)
def test_a_config_that_cannot_be_computed_is_refused_by_name(tiny, tmp_path, change, message):
    folder.save(tiny.model("qwen3"), tmp_path, None, about("next"))
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(BadInput, match=message):
        folder.load(tmp_path)


@pytest.mark.parametrize(
    ("family", "head", "change", "message"),
    [
        ("modernbert", "masked", {"classifier_activation": "relu"}, "classifier_activation = 'relu'"),
        ("modernbert", "masked", {"decoder_bias": False}, "decoder_bias = False"),
        ("bert", "masked", {"is_decoder": True}, "is_decoder = True"),
        ("bert", "masked", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("gpt2", "next", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("bloom", "next", {"apply_residual_connection_post_layernorm": True}, "post_layernorm"),
        ("gemma3_text", "next", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("falcon", "next", {"new_decoder_architecture": True, "parallel_attn": False}, "parallel_attn"),
    ],
)
def test_arithmetic_that_is_not_implemented_is_refused_by_name(tiny, tmp_path, family, head, change, message):
    folder.save(tiny.model(family, head), tmp_path, None, about(head))
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=message):
        folder.load(tmp_path)
