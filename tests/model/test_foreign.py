"""Kinds that are not wyrmling's own run through transformers: the same answers, training, files, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    GPTJConfig,
    GPTJForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from wyrmling.core.errors import BadInput, BadSetting, CorruptArtifact
from wyrmling.model import folder, probes
from wyrmling.model.attention import Segments
from wyrmling.model.folder import About
from wyrmling.model.foreign import Foreign
from wyrmling.model.generate import Decoder, generate
from wyrmling.model.sampling import Sampling

SIZES = {"vocab_size": 101, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
ELECTRA = ElectraConfig(**SIZES, hidden_size=32, embedding_size=16, intermediate_size=48, num_labels=3)
# OPT 350m has an embedding narrower than the stream; Cohere scales its logits; Mamba has no attention.
MAKERS: dict[str, Any] = {
    "opt": lambda: OPTForCausalLM(OPTConfig(**SIZES, hidden_size=32, word_embed_proj_dim=16, ffn_dim=48)),
    "gptj": lambda: GPTJForCausalLM(
        GPTJConfig(
            vocab_size=101, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64, bos_token_id=0, eos_token_id=1
        )
    ),
    "cohere": lambda: CohereForCausalLM(
        CohereConfig(
            **SIZES, hidden_size=32, intermediate_size=48, num_key_value_heads=2, logit_scale=0.3, eos_token_id=1
        )
    ),
    "olmoe": lambda: OlmoeForCausalLM(
        OlmoeConfig(**SIZES, hidden_size=32, intermediate_size=48, num_experts=4, num_experts_per_tok=2)
    ),
    "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=101, hidden_size=32, num_hidden_layers=2, state_size=8)),
    "electra": lambda: ElectraForMaskedLM(ELECTRA),
    "electra_classes": lambda: ElectraForSequenceClassification(ELECTRA),
    "electra_tags": lambda: ElectraForTokenClassification(ELECTRA),
}
DECODERS = ["opt", "gptj", "cohere", "olmoe", "mamba"]
LENGTHS = [7, 5, 7, 1]


def written(name: str, to: Path) -> Any:
    """A random model of this kind, and its folder as transformers writes it."""
    torch.manual_seed(0)
    theirs = MAKERS[name]().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(to)
    return theirs


def separately(theirs: nn.Module, tokens: Tensor) -> Tensor:
    """What transformers says of each document alone."""
    logits = [theirs(document[None]).logits[0] for document in torch.split(tokens, LENGTHS)]
    return torch.stack(logits) if logits[0].ndim == 1 else torch.cat(logits)


@pytest.mark.parametrize("name", MAKERS)
def test_logits_loss_and_gradients_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = written(name, tmp_path)
    ours = folder.load(tmp_path)
    assert isinstance(ours, Foreign)
    tokens = torch.randint(0, 101, (sum(LENGTHS),))
    expected, got = separately(theirs, tokens), ours.logits(tokens, Segments(LENGTHS))
    assert (got - expected).abs().max() < 2e-5
    rows = torch.tensor([2, 0, 3])
    assert torch.allclose(ours.logits(tokens, Segments(LENGTHS), rows), got[rows], atol=1e-5)
    target = torch.randint(0, got.shape[1], (len(got),))
    for logits in (expected, got):
        nn.functional.cross_entropy(logits, target).backward()
    theirs_by_shape = sorted(p.grad.norm().item() for p in theirs.parameters() if p.grad is not None)
    ours_by_shape = sorted(p.grad.norm().item() for p in ours.parameters() if p.grad is not None)
    assert ours_by_shape == pytest.approx(theirs_by_shape, abs=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_saved_loads_in_transformers_and_here(name: str, tmp_path: Path) -> None:
    theirs = written(name, tmp_path / "a")
    ours = folder.load(tmp_path / "a")
    about = About(task="complete", head=ours.head_name, context=64, objective="causal")
    folder.save(ours, tmp_path / "b", None, about)
    again = type(theirs).from_pretrained(tmp_path / "b")
    assert all(
        torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), again.state_dict().values(), strict=True)
    )
    folder.save(folder.load(tmp_path / "b"), tmp_path / "c", None, about)
    for file in ("config.json", "model.safetensors", "wyrmling.json"):
        assert (tmp_path / "b" / file).read_bytes() == (tmp_path / "c" / file).read_bytes()
    # Saving leaves the model as it was.
    tokens = torch.randint(0, 101, (sum(LENGTHS),))
    assert (ours.logits(tokens, Segments(LENGTHS)) - separately(theirs, tokens)).abs().max() < 2e-5


@pytest.mark.parametrize("name", DECODERS)
def test_answers_are_those_of_transformers_alone_and_in_company(name: str, tmp_path: Path) -> None:
    theirs = written(name, tmp_path)
    ours = folder.load(tmp_path)
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
    greedy = Sampling(max_tokens=6, temperature=0)
    expected = [
        theirs.generate(torch.tensor([p]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)[
            0, len(p) :
        ]
        for p in prompts
    ]
    answers = generate(ours, prompts, greedy)
    assert [[token.id for token in answer] for answer in answers] == [e.tolist() for e in expected]
    # Answers that come and go: one more joins late, one is given up.
    decoder = Decoder(ours)
    first, gone = decoder.add(prompts[0], greedy), decoder.add(prompts[1], greedy)
    said: dict[int, list[int]] = {}
    decoder.step()
    decoder.remove(gone)
    last = decoder.add(prompts[2], greedy)
    while decoder.running:
        for token in decoder.step():
            said.setdefault(token.handle, []).append(token.id)
    assert said[first] == expected[0].tolist()[1:]
    assert said[last] == expected[2].tolist()


def test_a_new_head_keeps_the_body(tmp_path: Path) -> None:
    written("electra", tmp_path)
    masked = folder.load(tmp_path)
    assert isinstance(masked, Foreign)
    classes = masked.with_head("classes", 5, seed=1)
    assert (classes.head_name, classes.n_out) == ("classes", 5)
    assert torch.equal(classes.body.embedding.weight, masked.body.embedding.weight)
    assert torch.equal(classes.output.weight_VD, masked.with_head("classes", 5, seed=1).output.weight_VD)
    assert not torch.equal(classes.output.weight_VD, masked.with_head("classes", 5, seed=2).output.weight_VD)
    dropping = classes.with_dropout(0.5).train()
    tokens = torch.randint(0, 101, (sum(LENGTHS),))
    assert not torch.equal(dropping.logits(tokens, Segments(LENGTHS)), dropping.logits(tokens, Segments(LENGTHS)))
    about = About(task="classify", head="classes", context=64, objective="classify", labels=list("abcde"))
    folder.save(classes.with_dropout(0.0).eval(), tmp_path / "saved", None, about)
    assert json.loads((tmp_path / "saved/config.json").read_text())["id2label"]["4"] == "e"
    with pytest.raises(BadSetting, match="no electra model with the head 'embed'"):
        masked.with_head("embed", 2, seed=0)


def test_probes_travel_with_it(tmp_path: Path) -> None:
    class Letters:
        def prompt(self, text: str) -> list[int]:
            return [ord(letter) % 101 for letter in text]

        document = prompt

    written("opt", tmp_path)
    ours = folder.load(tmp_path)
    probes.record(ours, Letters(), ["a small text", "another"], tmp_path)
    assert probes.replay(tmp_path).max_abs < 1e-5


def test_it_says_that_it_is_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written("opt", tmp_path)
    folder.load(tmp_path)
    assert "OPTForCausalLM is not one of wyrmling's own kinds: transformers computes it" in capsys.readouterr().err


def test_its_sizes_are_known_without_its_weights(tmp_path: Path) -> None:
    written("gptj", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    config = folder.describe(tmp_path)
    assert (config.family, config.width, config.layers, config.heads, config.context) == ("gptj", 32, 2, 4, 64)
    assert config.causal


def changed(to: Path, **keys: Any) -> None:
    file = to / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}, "auto_map: the model needs its own Python code"),
        ({"model_type": "nobodys", "architectures": ["NobodysForCausalLM"]}, "model_type 'nobodys'.*is not supported"),
        ({"architectures": ["OPTForQuestionAnswering"]}, r"OPTForQuestionAnswering'\] is not supported"),
        ({"hidden_size": 48}, r"has shape \[\d+.*config\.json wants"),
        ({"num_hidden_layers": 3}, r"missing tensor .*layers\.2"),
        ({"num_hidden_layers": 1}, r"unexpected tensor .*layers\.1"),
    ],
)
def test_what_can_not_be_computed_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    written("opt", tmp_path)
    changed(tmp_path, **keys)
    with pytest.raises(BadInput, match=message):
        folder.load(tmp_path)


def test_pickles_and_broken_files_are_refused(tmp_path: Path) -> None:
    theirs = written("opt", tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CorruptArtifact, match=r"model\.safetensors"):
        folder.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"pytorch_model\.bin, a pickle") as refused:
        folder.load(tmp_path)
    assert "save_file" in str(refused.value.fix)


def test_a_network_with_two_halves_is_refused(tmp_path: Path) -> None:
    T5ForConditionalGeneration(
        T5Config(vocab_size=101, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    ).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"model_type 't5'.*is not supported"):
        folder.load(tmp_path)
