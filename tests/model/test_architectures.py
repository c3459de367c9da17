"""Every family: a checkpoint that transformers wrote gives the same logits, loss and gradients here, and back again.

Weights are random in every tensor, biases and norms too: with starting weights, lost biases and swapped
norms go unseen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from safetensors.torch import load_file

from model.conftest import Tiny
from wyrmling.model import folder
from wyrmling.model.attention import Segments
from wyrmling.model.families import write_weights
from wyrmling.model.generate import generate, score
from wyrmling.model.sampling import Sampling

LENGTHS = [5, 24, 9, 17, 1]
# float32 noise of the judge's own two kernels is up to 5e-6 at logits of spread 1.2.
NOISE = 5e-5
SIZES = {
    "vocab_size": 104,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
# Two queries per key, and heads times head width other than the width, to find mixed-up sizes.
GROUPS = {**SIZES, "num_key_value_heads": 2, "head_dim": 16}
# Without head_dim: families that derive it.
NARROW = {**SIZES, "num_key_value_heads": 2}
ENCODER = {**SIZES, "pad_token_id": 0, "type_vocab_size": 2}
GEMMA = {**GROUPS, "query_pre_attn_scalar": 24, "sliding_window": 5}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
SHORT, LONG = [1.0, 1.1, 1.2, 1.3], [2.0, 2.1, 2.2, 2.3]
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG, "factor": 2.0}


class Case(NamedTuple):
    config: type
    model: type
    settings: dict[str, Any]


def case(name: str, config: type, model: type, settings: dict[str, Any], **more: Any) -> Any:
    return pytest.param(Case(config, model, settings | more), id=name)


DECODERS = [
    case("llama", hf.LlamaConfig, hf.LlamaForCausalLM, GROUPS, tie_word_embeddings=True),
    case("llama-biases", hf.LlamaConfig, hf.LlamaForCausalLM, GROUPS, attention_bias=True, mlp_bias=True),
    case(
        "llama-linear", hf.LlamaConfig, hf.LlamaForCausalLM, GROUPS,
        rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    ),
    case(
        "llama-llama3", hf.LlamaConfig, hf.LlamaForCausalLM, GROUPS,
        rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16},
    ),
    case("mistral", hf.MistralConfig, hf.MistralForCausalLM, GROUPS, sliding_window=5),
    case("mistral-full", hf.MistralConfig, hf.MistralForCausalLM, GROUPS, sliding_window=None),
    case("qwen2", hf.Qwen2Config, hf.Qwen2ForCausalLM, NARROW),
    case(
        "qwen2-window", hf.Qwen2Config, hf.Qwen2ForCausalLM, NARROW,
        use_sliding_window=True, sliding_window=5, max_window_layers=2,
    ),
    case("qwen3", hf.Qwen3Config, hf.Qwen3ForCausalLM, GROUPS, attention_bias=True),
    case(
        "mixtral", hf.MixtralConfig, hf.MixtralForCausalLM, GROUPS,
        num_local_experts=4, num_experts_per_tok=2, sliding_window=5,
    ),
    case(
        "qwen3_moe", hf.Qwen3MoeConfig, hf.Qwen3MoeForCausalLM, GROUPS,
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True,
    ),
    case("qwen3-yarn", hf.Qwen3Config, hf.Qwen3ForCausalLM, GROUPS, rope_parameters=YARN),
    case("gemma", hf.GemmaConfig, hf.GemmaForCausalLM, GROUPS),
    case(
        "gemma2", hf.Gemma2Config, hf.Gemma2ForCausalLM, GEMMA,
        attn_logit_softcapping=3.0, final_logit_softcapping=4.0,
    ),
    case("gemma3", hf.Gemma3TextConfig, hf.Gemma3ForCausalLM, GEMMA, num_hidden_layers=6, attention_bias=True),
    case("phi3", hf.Phi3Config, hf.Phi3ForCausalLM, NARROW, sliding_window=5),
    case(
        "phi3-longrope", hf.Phi3Config, hf.Phi3ForCausalLM, NARROW,
        original_max_position_embeddings=64, rope_parameters=LONGROPE,
    ),
    case("phi3-partial", hf.Phi3Config, hf.Phi3ForCausalLM, NARROW, partial_rotary_factor=0.5),
    case("olmo2", hf.Olmo2Config, hf.Olmo2ForCausalLM, NARROW),
    case("smollm3", hf.SmolLM3Config, hf.SmolLM3ForCausalLM, NARROW, use_sliding_window=True, sliding_window=5),
    case("falcon-7b", hf.FalconConfig, hf.FalconForCausalLM, SIZES),
    case(
        "falcon-40b", hf.FalconConfig, hf.FalconForCausalLM, SIZES,
        new_decoder_architecture=True, num_kv_heads=2, ffn_hidden_size=40,
    ),
    case(
        "falcon-one-norm", hf.FalconConfig, hf.FalconForCausalLM, SIZES,
        new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1,
    ),
    case(
        "falcon-rw", hf.FalconConfig, hf.FalconForCausalLM, SIZES,
        alibi=True, multi_query=False, parallel_attn=False, bias=True,
    ),
    case("bloom", hf.BloomConfig, hf.BloomForCausalLM, SIZES),
    case("bloom-six-heads", hf.BloomConfig, hf.BloomForCausalLM, SIZES, hidden_size=48, num_attention_heads=6),
    case("gpt2", hf.GPT2Config, hf.GPT2LMHeadModel, SIZES, n_inner=40),
    case("gpt_neox", hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, SIZES),
    case("gpt_neox-sequential", hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, SIZES, use_parallel_residual=False),
]  # fmt: skip
ROBERTA = {**ENCODER, "pad_token_id": 1}
DISTIL = {**ENCODER, "hidden_dim": 48}
MODERN = {**ENCODER, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 1}
ENCODERS = [
    case("bert-masked", hf.BertConfig, hf.BertForMaskedLM, ENCODER),
    case("bert-classes", hf.BertConfig, hf.BertForSequenceClassification, ENCODER, num_labels=5),
    case("bert-tags", hf.BertConfig, hf.BertForTokenClassification, ENCODER, num_labels=5),
    case("roberta-masked", hf.RobertaConfig, hf.RobertaForMaskedLM, ROBERTA),
    case("roberta-classes", hf.RobertaConfig, hf.RobertaForSequenceClassification, ROBERTA, num_labels=5),
    case("roberta-tags", hf.RobertaConfig, hf.RobertaForTokenClassification, ROBERTA, num_labels=5),
    case("distilbert-masked", hf.DistilBertConfig, hf.DistilBertForMaskedLM, DISTIL),
    case("distilbert-classes", hf.DistilBertConfig, hf.DistilBertForSequenceClassification, DISTIL, num_labels=5),
    case("distilbert-tags", hf.DistilBertConfig, hf.DistilBertForTokenClassification, DISTIL, num_labels=5),
    case("modernbert-local", hf.ModernBertConfig, hf.ModernBertForMaskedLM, MODERN),
    case(
        "modernbert-cls", hf.ModernBertConfig, hf.ModernBertForSequenceClassification, MODERN,
        num_labels=5, norm_bias=True, attention_bias=True, mlp_bias=True,
    ),
]  # fmt: skip
CLASSIFYING_DECODERS = [
    case("llama-classes", hf.LlamaConfig, hf.LlamaForSequenceClassification, GROUPS, num_labels=5),
    case("qwen3-tags", hf.Qwen3Config, hf.Qwen3ForTokenClassification, GROUPS, num_labels=5),
    case("gpt2-classes", hf.GPT2Config, hf.GPT2ForSequenceClassification, SIZES, num_labels=5),
    case("bloom-tags", hf.BloomConfig, hf.BloomForTokenClassification, SIZES, num_labels=5),
    case("falcon-classes", hf.FalconConfig, hf.FalconForSequenceClassification, SIZES, num_labels=5),
    case("gpt_neox-tags", hf.GPTNeoXConfig, hf.GPTNeoXForTokenClassification, SIZES, num_labels=5),
    case("gemma3-classes", hf.Gemma3TextConfig, hf.Gemma3TextForSequenceClassification, GEMMA, num_labels=5),
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """For each case a random model of transformers, saved once: it and its folder."""
    made: dict[str, tuple[Any, Path]] = {}

    def checkpoint(case: Case, name: str) -> tuple[Any, Path]:
        if name not in made:
            judge = case.model(case.config(**case.settings, attn_implementation=kernel(case))).eval()
            Tiny().randomise(judge, seed=3)
            made[name] = judge, tmp_path_factory.mktemp("theirs")
            judge.save_pretrained(made[name][1])
        return made[name]

    return checkpoint


@pytest.fixture
def made(checkpoints, case, request):
    return checkpoints(case, request.node.callspec.id)


def kernel(case: Case) -> str:
    # transformers 5.23 adds ALiBi twice in Falcon's eager attention, once in its other one.
    return "sdpa" if case.settings.get("alibi") else "eager"


def documents_for(tiny, seed=0):
    # Never the padding ids 0 and 1: transformers takes RoBERTa's positions, and the pooled token, from them.
    return [[2 + token % 102 for token in document] for document in tiny.documents(LENGTHS, seed)]


def judged_logits(judge, documents):
    """One document at a time, so that no padding or mask of theirs takes part."""
    logits = [judge(input_ids=torch.tensor([document])).logits for document in documents]
    return torch.cat([x[0] if x.dim() == 3 else x for x in logits])


@pytest.mark.parametrize("case", DECODERS + ENCODERS + CLASSIFYING_DECODERS)
def test_logits_loss_and_gradients_are_those_of_transformers(tiny, made, tmp_path, case):
    judge, path = made
    model = folder.load(path)
    documents = documents_for(tiny)
    ours, theirs = model.logits(tiny.flat(documents), Segments(LENGTHS)), judged_logits(judge, documents)
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.2
    assert (ours - theirs).abs().max() < NOISE
    alone = model.logits(torch.tensor(documents[1]), Segments([LENGTHS[1]]))
    assert (alone - judged_logits(judge, documents[1:2])).abs().max() < NOISE

    targets = torch.randint(0, model.n_out, (len(ours),), generator=torch.Generator().manual_seed(0))
    losses = [F.cross_entropy(logits, targets) for logits in (ours, theirs)]
    assert abs(float(losses[0].detach() - losses[1].detach())) < NOISE
    for loss in losses:
        loss.backward()
    # Gradients take the place of the weights, and both programs write them to files.
    for parameter in (*model.parameters(), *judge.parameters()):
        parameter.data, parameter.grad = parameter.grad, None
    judge.save_pretrained(tmp_path)
    ours_by_name, theirs_by_name = write_weights(model), load_file(tmp_path / folder.WEIGHTS)
    assert ours_by_name.keys() == theirs_by_name.keys()
    for name, gradient in theirs_by_name.items():
        assert (ours_by_name[name] - gradient).abs().max() < NOISE, name


@pytest.mark.parametrize("case", DECODERS + ENCODERS + CLASSIFYING_DECODERS)
def test_what_we_save_is_what_transformers_reads(tiny, made, tmp_path, case):
    _, path = made
    model = folder.load(path)
    about = folder.About(task="test", head=model.head_name, context=model.config.context, objective="test")
    folder.save(model, tmp_path, None, about)
    written, original = (load_file(where / folder.WEIGHTS) for where in (tmp_path, path))
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in written)
    judge = tiny.judge(tmp_path, kernel(case))
    documents = documents_for(tiny, seed=1)
    with torch.no_grad():
        ours = model.logits(tiny.flat(documents), Segments(LENGTHS))
        assert (ours - judged_logits(judge, documents)).abs().max() < NOISE
    assert folder.load(tmp_path).config == model.config


@pytest.mark.parametrize("case", DECODERS)
def test_decoding_with_a_cache_is_the_full_forward(tiny, made, case):
    model = folder.load(made[1])
    prompts = [[5], documents_for(tiny)[2], documents_for(tiny)[3]]
    # Longer than every window; each sequence of the batch has another length.
    answers = generate(model, prompts, Sampling(max_tokens=12, temperature=1.0, seed=1))
    for prompt, answer in zip(prompts, answers, strict=True):
        scored = score(model, prompt + [token.id for token in answer])[len(prompt) - 1 :]
        assert [token.logprob for token in answer] == pytest.approx([t.logprob for t in scored], abs=1e-4)
