"""Each way of training moves what it says, leaves the rest alone, and ends in a folder that works without it."""

import json
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from train.small import Small
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact, file_digest
from wyrmling.core.errors import BadInput, BadSetting, Interrupted, UsageError
from wyrmling.flow.export import export
from wyrmling.model import folder, probes
from wyrmling.model.attention import Segments
from wyrmling.model.folder import read_tensors
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.tokenizer import run as tokenizer
from wyrmling.train import checkpoint, run
from wyrmling.train.batches import Batches
from wyrmling.train.features import store

QUICK = ("batch_tokens=300", "dropout=0.0")


@pytest.fixture(scope="module")
def base(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that has seen the stories and tickets."""
    step = '[{name="s", objective="causal", sources=["stories", "tickets"], steps=50, batch_tokens=400}]'
    project = small.with_settings(f"train={step}", root=tmp_path_factory.mktemp("base"))
    return run.run_all(project, small.data, small.tokens)[-1].path / "model"


def project_of(
    small: Small, base: Path, root: Path, *settings: str, objective: str = "sft", also: tuple[str, ...] = ()
) -> Project:
    source = {"sft": "chats", "classify": "tickets", "tag": "names"}[objective]
    step = f'[{{name="s", objective="{objective}", sources=["{source}"]}}]'
    overrides = [f"model.base={base}", f"train={step}", *(f"train.s.{text}" for text in (*QUICK, *settings))]
    return small.with_settings(*overrides, *also, root=root)


def tuned(small: Small, base: Path, root: Path, *settings: str, objective: str = "sft") -> Artifact:
    project = project_of(small, base, root, *settings, objective=objective)
    return run.run_all(project, small.data, small.tokens)[-1]


def moved(base: Path, made: Artifact) -> set[str]:
    """Names of the tensors that differ from the base model's."""
    before, after = (read_tensors(path / "model.safetensors") for path in (base, made.path / "model"))
    return {name for name in after if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["method=freeze", "freeze.layers=1"], {"model.layers.1.", "model.norm.", "lm_head."}),
        (["method=freeze", "freeze.layers=0"], {"model.norm.", "lm_head."}),
        (
            ["method=freeze", "freeze.layers=0", "freeze.embedding=true"],
            {"model.norm.", "lm_head.", "model.embed_tokens."},
        ),
        (["method=probe"], {"lm_head."}),
        (
            ["method=lora", "lora.targets=['q_proj', 'down_proj']", "optimizer=muon"],
            {f"model.layers.{i}.{name}." for i in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")},
        ),
        (["method=qlora", "lora.targets=v_proj"], {f"model.layers.{i}.self_attn.v_proj." for i in (0, 1)}),
    ],
)
def test_only_what_the_method_names_moves(
    settings: list[str], expected: set[str], small: Small, base: Path, tmp_path: Path
) -> None:
    made = tuned(small, base, tmp_path, *settings, "steps=2", "lr=0.01")
    changed = moved(base, made)
    assert all(any(name.startswith(prefix) for prefix in expected) for name in changed), changed
    assert all(any(name.startswith(prefix) for name in changed) for prefix in expected), changed
    assert 0 < made.figures["trained_parameters"] < made.figures["parameters"]


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_answers_are_learned(method: str, small: Small, base: Path, tmp_path: Path) -> None:
    made = tuned(small, base, tmp_path, f"method={method}", "steps=60", "lora.rank=8")
    lines = [json.loads(line) for line in (made.path / "steps.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    # after qlora the merged model stands on the base's own weights, not on the 4-bit ones
    assert ("val_merged" in made.figures) == (method == "qlora")
    assert method == "lora" or made.figures["val_merged"]["loss"] == pytest.approx(made.figures["val"]["loss"], abs=0.1)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert made.figures["trained_parameters"] < 0.4 * made.figures["parameters"]
    assert made.figures["merge"]["max_abs"] < 1e-4 and made.figures["merge"]["probes"] > 0


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["lora.dora=true"],
        ["lora.rslora=true", "lora.alpha=8"],
        ["lora.targets=['q_proj', 'gate_proj']", "lora.rank=2"],
    ],
)
def test_peft_gives_the_logits_of_the_merged_model(
    settings: list[str], small: Small, base: Path, tmp_path: Path
) -> None:
    made = tuned(small, base, tmp_path, "method=lora", *settings, "steps=5", "lr=0.01")
    judge: Any = transformers.AutoModelForCausalLM.from_pretrained(base)
    judge = peft.PeftModel.from_pretrained(judge, made.path / "adapter").eval()
    model, tokens = folder.load(made.path), torch.arange(3, 40)
    with torch.no_grad():
        expected, ours = judge(input_ids=tokens[None]).logits[0], model.logits(tokens, Segments([len(tokens)]))
        plain = folder.load(base).logits(tokens, Segments([len(tokens)]))
    # float32, two layers
    assert (ours - expected).abs().max() < 1e-4
    assert (ours - plain).abs().max() > 0.01
    assert probes.replay(made.path, tokenizer=small.tokenizer).max_abs < 1e-4


def test_the_adapter_is_exported_after_asking_it_on_its_base(small: Small, base: Path, tmp_path: Path) -> None:
    own = tmp_path / "base"
    shutil.copytree(base, own)
    made = tuned(small, own, tmp_path, "method=lora", "steps=3", "lr=0.01")
    document, _ = export(made.path / "model", to="peft", out=tmp_path / "out")
    assert document["probes"]["max_abs"] < 1e-4
    judge: Any = transformers.AutoModelForCausalLM.from_pretrained(own)
    config = peft.PeftModel.from_pretrained(judge, tmp_path / "out").peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora) == (16, 32, False)
    tensors = read_tensors(own / "model.safetensors")
    folder.write_tensors(own / "model.safetensors", {name: tensor * 1.01 for name, tensor in tensors.items()})
    with pytest.raises(BadInput, match="belongs to the base"):
        export(made.path / "model", to="peft", out=tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(UsageError, match="has no adapter beside it"):
        export(base, to="peft", out=tmp_path / "again")


def test_every_lora_setting_changes_the_result(small: Small, base: Path, tmp_path: Path) -> None:
    changes = ["rank=4", "alpha=8.0", "dropout=0.5", "targets=q_proj", "rslora=true", "dora=true"]
    digests = {}
    for change in ["rank=16", *changes]:
        made = tuned(small, base, tmp_path, "method=lora", f"lora.{change}", "steps=2")
        digests[change] = file_digest(made.path / "model" / "model.safetensors")
    assert len(set(digests.values())) == len(digests)


def test_an_adapter_for_labels_brings_its_head(small: Small, tmp_path: Path) -> None:
    steps = '[{name="a", objective="masked", sources=["stories"], steps=3}, {name="b", objective="classify", steps=3}]'
    project = small.with_settings(f"train={steps}", "train.b.method=lora", "train.b.lr=0.01", root=tmp_path)
    first, second = run.run_all(project, small.data, small.tokens)
    config = json.loads((second.path / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["classifier", "head.dense", "head.norm"]
    # by the path from the project folder
    assert config["base_model_name_or_path"] == f"runs/train/{first.path.name}/model"
    judge: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
        first.path / "model", num_labels=4, classifier_pooling="mean"
    )
    judge = peft.PeftModel.from_pretrained(judge, second.path / "adapter").eval()
    tokens = torch.arange(3, 20)
    with torch.no_grad():
        expected = judge(input_ids=tokens[None]).logits
        ours = folder.load(second.path).logits(tokens, Segments([len(tokens)]))
    assert (ours - expected).abs().max() < 1e-4


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_stopped_run_ends_with_the_bits_of_an_undisturbed_one(
    method: str, small: Small, base: Path, tmp_path: Path
) -> None:
    settings = (f"method={method}", "steps=12", "lora.dropout=0.1", "save_every_seconds=0", "evaluate_every=5")
    whole = tuned(small, base, tmp_path / "whole", *settings)

    def stop_soon() -> None:
        while not list((tmp_path / "cut").glob("runs/train/.s-*/checkpoints/step-*/MANIFEST.json")):
            time.sleep(0.001)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=stop_soon).start()
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        tuned(small, base, tmp_path / "cut", *settings)
    (saved,) = (tmp_path / "cut").glob("runs/train/.s-*/checkpoints")
    newest = sorted(saved.iterdir())[-1]
    # only what is trained, and whose frozen weights it belongs to
    assert all(".branches.default." in name for name in read_tensors(newest / "model.safetensors"))
    assert len(json.loads((newest / "state.json").read_text())["base"]) == 64
    assert checkpoint.load_newest(saved, base="of another model") is None
    again = tuned(small, base, tmp_path / "cut", *settings)
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert file_digest(again.path / name) == file_digest(whole.path / name), name


@pytest.mark.parametrize(("objective", "head", "names"), [("classify", "classes", "labels"), ("tag", "tags", "tags")])
def test_stored_features_are_what_the_body_says(
    objective: str, head: str, names: str, small: Small, tmp_path: Path
) -> None:
    n_classes = len(small.store().labels if names == "labels" else small.store().tag_names)
    config = ModelConfig("modernbert", small.store().vocab_size, 32, 2, 2, 2, 16, 48, 64, tied=True)
    model = Model(config, head, n_classes, seed=3).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    source = {"classify": "tickets", "tag": "names"}[objective]
    splits = []
    for split in ("train", "val"):
        tokens = small.store(split)
        rows = (tokens.rows["source"] == source).nonzero()[0]
        sizes = {"batch_tokens": 200, "micro_batch_tokens": 70}
        splits.append(Batches(tokens, objective, rows, context=64, data_hash="x", seed=0, **sizes))
    probe, train, val = store(model, splits[0], splits[1], tmp_path / "features", torch.no_grad)
    assert val is not None and dict(probe.named_parameters()).keys() == {
        f"head.{n}" for n, _ in model.head.named_parameters()
    }
    for real, placed in zip(
        [*splits[0].step(2), *splits[1].everything()], [*train.step(2), *val.everything()], strict=True
    ):
        assert torch.equal(real.targets, placed.targets)
        segments = Segments(real.lengths)
        with torch.no_grad():
            difference = probe.logits(placed.tokens, segments) - model.logits(real.tokens, segments)
        assert difference.abs().max() < 1e-5


def test_a_probe_learns_labels_and_leaves_no_features_behind(small: Small, tmp_path: Path) -> None:
    steps = '[{name="a", objective="masked", steps=20}, {name="b", objective="classify", method="probe", steps=150}]'
    project = small.with_settings(f"train={steps}", "train.b.batch_tokens=300", root=tmp_path)
    first, made = run.run_all(project, small.data, small.tokens)
    # four teams, of which a guess knows nothing: 1.39
    assert made.figures["loss"] < 0.9
    before, after = (folder.load(one.path).body.state_dict() for one in (first, made))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {path.name for path in made.path.iterdir()} == {"finished.json", "manifest.json", "model", "steps.jsonl"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["method=freeze", "freeze.layers=3"], "freeze.layers = 3, but the model has 2 blocks"),
        (["method=lora", "lora.targets=query"], "no linear layer 'query'"),
        (["lora.rank=3"], "lora is set, but the method is 'full'"),
        (["method=lora", "freeze.layers=1"], "freeze is set, but the method is 'lora'"),
        (
            ["objective=preference", "label_smoothing=0.1", "preference.loss=orpo"],
            "label_smoothing is set, but the loss orpo does not use it",
        ),
        (["objective=sft", "r_drop=1"], "r_drop is set, but the objective is 'sft'"),
        (["method=probe", "objective=classify", "r_drop=1"], "r_drop is set, but the method probe"),
        (["objective=classify", "r_drop=1", "dropout=0"], "without dropout two passes are the same"),
    ],
)
def test_settings_that_contradict_are_refused(
    settings: list[str], complaint: str, small: Small, base: Path, tmp_path: Path
) -> None:
    with pytest.raises((BadSetting, UsageError), match=complaint):
        tuned(small, base, tmp_path, *settings)


def test_a_method_for_trained_models_needs_one(small: Small, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train.s.method = 'lora' needs a trained model"):
        project_of(small, Path("scratch"), tmp_path, "method=lora")


def test_probing_for_hidden_words_trains_the_head_around_a_tied_matrix(small: Small, tmp_path: Path) -> None:
    steps = '[{name="a", objective="masked", steps=1}, {name="b", objective="masked", steps=1, method="probe"}]'
    project = small.with_settings(f"train={steps}", root=tmp_path)
    made = run.run_all(project, small.data, small.tokens)
    # the dense layer, norm and bias of the head; the matrix is the embedding and stays
    assert moved(made[0].path / "model", made[1]) == {"head.dense.weight", "head.norm.weight", "decoder.bias"}


def test_a_tied_head_without_anything_else_can_not_be_probed(small: Small, base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": True}
    shutil.copytree(base, tmp_path / "tied")
    (tmp_path / "tied" / "config.json").write_text(json.dumps(config))
    tensors = read_tensors(base / "model.safetensors")
    del tensors["lm_head.weight"]
    folder.write_tensors(tmp_path / "tied" / "model.safetensors", tensors)
    with pytest.raises(BadSetting, match="nothing to probe"):
        tuned(small, tmp_path / "tied", tmp_path, "method=probe")


def test_new_tokens_begin_as_means_of_old_ones_and_are_trained(small: Small, base: Path, tmp_path: Path) -> None:
    settings = ("method=freeze", "freeze.layers=0", "steps=1", "lr=1e-9")
    longer = ("tokenizer.extend=12",)
    project = project_of(small, base, tmp_path, *settings, "freeze.embedding=true", also=longer)
    tokens = tokenizer.run(project, small.data)
    made = run.run_all(project, small.data, tokens)[-1]
    before, after = (read_tensors(path / "model.safetensors") for path in (base, made.path / "model"))
    new = json.loads((tokens.path / "vocab_extension.json").read_text())["new"]
    assert len(new) > 0
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        for token in new:
            # Adam's first step is as long as the rate, which is next to nothing here
            assert torch.allclose(after[name][token["id"]], before[name][token["pieces"]].mean(dim=0), atol=1e-6)
    # the folder speaks with the longer vocabulary
    judge: Any = transformers.AutoModelForCausalLM.from_pretrained(made.path / "model")
    ids = torch.tensor([3, 5, *(token["id"] for token in new)])
    with torch.no_grad():
        expected, ours = judge(input_ids=ids[None]).logits[0], folder.load(made.path).logits(ids, Segments([len(ids)]))
    assert (expected - ours).abs().max() < 1e-4
    with pytest.raises(BadSetting, match="rows the method 'lora' would not train"):
        run.run_all(project_of(small, base, tmp_path, "method=lora", also=longer), small.data, tokens)
