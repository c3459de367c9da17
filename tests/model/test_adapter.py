"""Adapters: switched and merged on one model, and the same to peft in both directions."""

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from model.conftest import Tiny
from wyrmling.core.errors import BadInput, BadSetting, CorruptArtifact
from wyrmling.model import adapter_folder, folder
from wyrmling.model.adapter import Adapters, Design
from wyrmling.model.adapter_folder import base_of, read, short_names, write
from wyrmling.model.attention import Segments
from wyrmling.model.folder import About
from wyrmling.model.heads import HeadName, Model
from wyrmling.model.nf4 import NF4Linear

# float32 sums in another order; a wrong scale or a swapped part is off by more than 0.1.
SAME = 5e-5
LENGTHS = [9, 5]


def saved(model: Model, path: Path) -> Path:
    folder.save(model, path, None, About(task="complete", head=model.head_name, context=64, objective="causal"))
    return path


def logits_of(model: Model, tiny: Tiny) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(tiny.flat(tiny.documents(LENGTHS)), Segments(LENGTHS))


def judged(model: Any, tiny: Tiny) -> torch.Tensor:
    """The logits of a transformers or peft model, documents one by one."""
    with torch.no_grad():
        outs = [model(input_ids=torch.tensor([d])).logits[0] for d in tiny.documents(LENGTHS)]
    return torch.stack(outs) if outs[0].ndim == 1 else torch.cat(outs)


def stir(adapters: Adapters, name: str, seed: int = 5) -> None:
    """Move every parameter of an adapter away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.parameters(name).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize(
    ("family", "head", "design"),
    [
        ("llama", "next", Design(rank=4, rslora=False)),
        ("qwen3", "next", Design(rank=4, alpha=8.0, targets=("q_proj", "v_proj"))),
        ("qwen3", "next", Design(rank=4, dora=True)),
        ("qwen3", "next", Design(rank=3, dora=True, targets=("k_proj", "mlp.down_proj"))),
        # fused, interleaved or transposed in the file
        ("gpt2", "next", Design(rank=3, dora=True)),
        ("gpt_neox", "next", Design(rank=3, targets=("query_key_value",))),
        ("bloom", "next", Design(rank=3, dora=True)),
        ("falcon", "next", Design(rank=3)),
        ("phi3", "next", Design(rank=3, targets=("qkv_proj", "down_proj"))),
        ("gemma3_text", "next", Design(rank=3)),
        ("olmo2", "next", Design(rank=3)),
        ("bert", "classes", Design(rank=3, targets=("query", "attention.output.dense"))),
        ("roberta", "tags", Design(rank=3)),
        ("distilbert", "classes", Design(rank=3)),
        ("modernbert", "masked", Design(rank=4)),
        ("modernbert", "classes", Design(rank=4, dora=True, targets=("attn.Wo", "Wi"))),
        ("modernbert", "tags", Design(rank=4, rslora=False)),
    ],
)
def test_peft_reads_our_adapters(family: Any, head: HeadName, design: Design, tiny: Tiny, tmp_path: Path) -> None:
    base = saved(tiny.model(family, head), tmp_path / "base")
    model = folder.load(base)
    adapters = Adapters(model)
    adapters.add("mine", design, seed=1, head=head in ("classes", "tags"))
    stir(adapters, "mine")
    write(adapters, "mine", tmp_path / "adapter", base=base_of(base))
    expected = logits_of(model, tiny)
    other = peft.PeftModel.from_pretrained(tiny.judge(base), tmp_path / "adapter").eval()
    assert (judged(other, tiny) - expected).abs().max() < SAME
    assert (expected - logits_of(folder.load(base), tiny)).abs().max() > 0.1
    # merged by both
    assert (judged(other.merge_and_unload(), tiny) - expected).abs().max() < SAME
    merged = saved(adapters.merge("mine"), tmp_path / "merged")
    assert (logits_of(folder.load(merged), tiny) - expected).abs().max() < SAME
    assert (judged(tiny.judge(merged), tiny) - expected).abs().max() < SAME


@pytest.mark.parametrize(
    ("family", "head", "settings"),
    [
        ("llama", "next", {"target_modules": "all-linear", "r": 4, "lora_alpha": 6}),
        ("gpt2", "next", {"target_modules": ["c_attn"], "r": 4, "fan_in_fan_out": True}),
        ("bloom", "next", {"target_modules": ["query_key_value"], "r": 4, "use_dora": True}),
        ("bert", "classes", {"target_modules": ["query", "value"], "r": 4}),
        ("qwen3", "next", {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "r": 4}),
        ("qwen3", "next", {"target_modules": "all-linear", "use_dora": True, "r": 2}),
        (
            "qwen3",
            "next",
            {
                "target_modules": ["q_proj", "v_proj", "o_proj"],
                "r": 4,
                "rank_pattern": {"v_proj": 2, r".*\.1\.self_attn.o_proj": 3},
                "alpha_pattern": {"layers.0.self_attn.q_proj": 32},
            },
        ),
        ("qwen3", "next", {"target_modules": ["v_proj"], "layers_to_transform": [1], "r": 4}),
        ("qwen3", "next", {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"], "r": 4}),
        ("modernbert", "classes", {"target_modules": ["Wqkv"], "modules_to_save": ["classifier"], "r": 4}),
        ("modernbert", "masked", {"target_modules": r".*layers\.[02]\.mlp\.W[io]", "r": 4}),
    ],
)
def test_adapters_of_peft_are_read(
    family: Any, head: HeadName, settings: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    base = saved(tiny.model(family, head), tmp_path / "base")
    task = {"next": "CAUSAL_LM", "classes": "SEQ_CLS", "masked": None}[head]
    made = peft.get_peft_model(tiny.judge(base), peft.LoraConfig(task_type=task, **settings)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    made.save_pretrained(tmp_path / "adapter")
    adapters = Adapters(folder.load(base))
    before = logits_of(adapters.model, tiny)
    read(adapters, tmp_path / "adapter", "theirs", base=base_of(base))
    expected = judged(made, tiny)
    assert (logits_of(adapters.model, tiny) - expected).abs().max() < SAME
    assert (before - expected).abs().max() > 0.05
    # what is read and written again is still the same to peft
    write(adapters, "theirs", tmp_path / "again", base=base_of(base))
    again = peft.PeftModel.from_pretrained(tiny.judge(base), tmp_path / "again").eval()
    assert (judged(again, tiny) - expected).abs().max() < SAME


def test_adapters_of_one_model_are_switched(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.model("modernbert", "classes")
    adapters, plain = Adapters(model), logits_of(model, tiny)
    for number, (name, targets) in enumerate({"a": ("Wqkv",), "b": ("Wo", "Wi")}.items()):
        adapters.add(name, Design(rank=4, targets=targets), seed=number, head=True)
        stir(adapters, name, number)
    one_after_the_other = []
    for name in ("a", "b", None, "a", "b"):
        adapters.use(name)
        one_after_the_other.append(logits_of(model, tiny))
    a, b, none, a_again, b_again = one_after_the_other
    assert torch.equal(none, plain) and torch.equal(a, a_again) and torch.equal(b, b_again)
    assert (a - b).abs().max() > 0.1 and (a - plain).abs().max() > 0.1
    merged = adapters.merge("a")
    assert (logits_of(merged, tiny) - a).abs().max() < SAME
    with pytest.raises(BadSetting, match="there is no adapter 'c'"):
        adapters.use("c")


def test_a_new_adapter_changes_nothing_and_only_it_can_be_trained(tiny: Tiny) -> None:
    model = tiny.model("qwen3")
    before = logits_of(model, tiny)
    adapters = Adapters(model)
    adapters.add("a", Design(rank=4), seed=0, head=False)
    assert torch.equal(logits_of(model, tiny), before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(adapters.parameters("a")) and all(".branches.a." in name for name in trained)
    # 3 layers; q, k, v and gate, up have a pair each
    assert len(trained) == 3 * 4 * 2
    inputs, outputs = 3 * 32 + 64 + 2 * 32 + 48, 64 + 32 + 32 + 32 + 48 + 48 + 32
    assert sum(p.numel() for p in adapters.parameters("a").values()) == 3 * 4 * (inputs + outputs)


def test_the_seed_decides_the_start(tiny: Tiny) -> None:
    starts = []
    for seed in (0, 0, 1):
        adapters = Adapters(tiny.model("qwen3"))
        adapters.add("a", Design(rank=4), seed=seed, head=False)
        starts.append(torch.cat([p.flatten() for p in adapters.parameters("a").values()]))
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_a_target_that_is_no_layer_is_named(tiny: Tiny) -> None:
    with pytest.raises(BadSetting, match=r"no linear layer 'query'[\s\S]*k_proj, o_proj, q_proj"):
        Adapters(tiny.model("qwen3")).add("a", Design(targets=("q_proj", "query")), seed=0, head=False)


def test_a_4_bit_base_answers_nearly_as_before_and_trains(tiny: Tiny) -> None:
    model = tiny.model("qwen3", width=64, ffn=128)
    before = logits_of(model, tiny)
    adapters = Adapters(model)
    adapters.shrink(nf4=True)
    layers = [module for module in model.modules() if isinstance(module, NF4Linear)]
    assert len(layers) == 3 * 4
    after = logits_of(model, tiny)
    assert 1e-4 < (after - before).std() < 0.5 * before.std()
    adapters.add("a", Design(rank=4), seed=0, head=False)
    assert torch.allclose(logits_of(model, tiny), after, atol=SAME)
    stir(adapters, "a")
    model.logits(tiny.flat(tiny.documents(LENGTHS)), Segments(LENGTHS)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapters.parameters("a").values())
    with pytest.raises(TypeError, match="4-bit"):
        adapters.merge("a")


def make_adapter(tiny: Tiny, path: Path, **changes: Any) -> tuple[Path, Path]:
    """(base folder, adapter folder)."""
    base = saved(tiny.model("qwen3", **changes), path / "base")
    adapters = Adapters(folder.load(base))
    adapters.add("a", Design(rank=4), seed=0, head=False)
    write(adapters, "a", path / "adapter", base=base_of(base, name="the-base"))
    return base, path / "adapter"


def test_an_adapter_for_another_base_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    _, made = make_adapter(tiny, tmp_path)
    other = saved(tiny.model("qwen3", seed=7), tmp_path / "other")
    with pytest.raises(BadInput, match="belongs to the base 'the-base' with weights"):
        read(Adapters(folder.load(other)), made, "a", base=base_of(other))
    # peft does not write the digest of the base; then names and shapes tell
    (made / adapter_folder.ABOUT).unlink()
    for changes, complaint in (
        ({"width": 48}, r"'the-base': .*down_proj has corrections \[32, 4\] x \[4, 48\] for a matrix \[48, 48\]"),
        ({"layers": 2}, r"'the-base': the model has no layer model\.layers\.2\.mlp"),
    ):
        wrong = Adapters(tiny.model("qwen3", **changes))
        with pytest.raises(BadInput, match=complaint):
            read(wrong, made, "a")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"peft_type": "IA3"}, "peft_type.*IA3"),
        ({"bias": "all"}, "bias.*all"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], complaint: str, tiny: Tiny, tmp_path: Path) -> None:
    _, made = make_adapter(tiny, tmp_path)
    config = json.loads((made / adapter_folder.CONFIG).read_text())
    (made / adapter_folder.CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(BadInput, match=complaint):
        read(Adapters(tiny.model("qwen3")), made, "a")


def test_damaged_adapters_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    _, made = make_adapter(tiny, tmp_path)
    weights = made / adapter_folder.WEIGHTS
    tensors = folder.read_tensors(weights)
    first = "base_model.model.model.layers.0.mlp.down_proj"
    for change, complaint in (
        ({f"{first}.lora_B.weight": None}, r"has no model.layers.0.mlp.down_proj.lora_B"),
        ({f"{first}.lora_embedding_A": torch.zeros(2)}, "no place for model.layers.0.mlp.down_proj.lora_embedding_A"),
        (dict.fromkeys(tensors), "corrects no layer"),
    ):
        folder.write_tensors(weights, {n: t for n, t in (tensors | change).items() if t is not None})
        with pytest.raises(BadInput, match=complaint):
            read(Adapters(tiny.model("qwen3")), made, "a")
    weights.write_bytes(b"\xff" * 100)
    with pytest.raises(CorruptArtifact, match="not a readable safetensors"):
        read(Adapters(tiny.model("qwen3")), made, "a")
    shutil.rmtree(made)
    with pytest.raises(CorruptArtifact, match=adapter_folder.CONFIG):
        read(Adapters(tiny.model("qwen3")), made, "a")


def test_target_names_are_as_short_as_they_can_be() -> None:
    mine = ["encoder.layer.0.attention.output.dense", "encoder.layer.1.attention.output.dense"]
    others = ["encoder.layer.0.output.dense", "encoder.layer.1.output.dense", "pooler.dense"]
    assert short_names(mine, others) == ["attention.output.dense"]
    assert short_names([*mine, *others[:2]], others[2:]) == ["output.dense"]
    assert short_names(mine[:1], [mine[1], *others]) == ["0.attention.output.dense"]
