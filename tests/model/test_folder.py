"""Folders are written the same every time, and damage or surprise is an error that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.model import folder
from wyrmling.model.design import FAMILIES

ABOUT = folder.About(
    task="classify", head="classes", context=64, objective="classify", labels=["a", "b", "c", "d", "e"], run_id="r1"
)


@pytest.fixture
def saved(tiny, tmp_path) -> Path:
    path = tmp_path / "model"
    folder.save(tiny.model("modernbert", "classes", tokens=101), path, None, ABOUT)
    return path


def rewrite(path: Path, change) -> None:
    tensors = load_file(path / folder.WEIGHTS)
    change(tensors)
    save_file(tensors, path / folder.WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_save_load_save_gives_the_same_bytes(tiny, tmp_path, family):
    about = folder.About("complete", "next", 64, "causal")
    folder.save(tiny.model(family), tmp_path / "a", None, about)
    loaded = folder.load(tmp_path / "a")
    folder.save(loaded, tmp_path / "b", None, folder.about(tmp_path / "a"))
    first, second = sorted((tmp_path / "a").iterdir()), sorted((tmp_path / "b").iterdir())
    assert [f.name for f in first] == [f.name for f in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_what_is_known_about_a_model_comes_back(saved):
    about = folder.about(saved)
    assert about is not None
    assert (about.labels, about.run_id, about.tokens) == (ABOUT.labels, "r1", 101)
    model = folder.load(saved)
    assert (model.head_name, model.n_out, model.config.tokens, model.training) == ("classes", 5, 101, False)
    assert json.loads((saved / "config.json").read_text())["id2label"]["1"] == "b"


def test_a_model_is_found_in_its_artifact(saved):
    assert folder.locate(saved.parent) == saved
    assert folder.locate(saved) == saved
    with pytest.raises(BadInput, match="not a model folder"):
        folder.locate(saved / "nowhere")


def test_what_was_read_does_not_depend_on_the_file_any_more(saved):
    tensors = folder.read_tensors(saved / folder.WEIGHTS)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    with (saved / folder.WEIGHTS).open("r+b") as handle:
        handle.write(bytes((saved / folder.WEIGHTS).stat().st_size))
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_a_missing_or_unknown_tensor_is_named(saved):
    rewrite(saved, lambda t: t.pop("model.layers.1.mlp.Wo.weight"))
    with pytest.raises(BadInput, match=r"missing from the file: model\.layers\.1\.mlp\.Wo\.weight"):
        folder.load(saved)
    rewrite(saved, lambda t: t.update({"model.layers.1.mlp.Wo.weight": torch.zeros(32, 48), "extra": torch.ones(1)}))
    with pytest.raises(BadInput, match="does not have: extra"):
        folder.load(saved)


def test_a_tensor_of_another_shape_is_named(saved):
    rewrite(saved, lambda t: t.update({"head.dense.weight": torch.zeros(32, 31)}))
    with pytest.raises(BadInput, match=r"head\.dense\.weight has shape \[32, 31\], config\.json wants \[32, 32\]"):
        folder.load(saved)


def test_values_that_are_not_finite_are_refused(saved):
    def spoil(tensors):
        tensors["classifier.bias"][2] = float("nan")

    rewrite(saved, spoil)
    with pytest.raises(CorruptArtifact, match=r"classifier\.bias"):
        folder.load(saved)


def test_a_cut_off_or_scrambled_file_is_corrupt(saved):
    file = saved / folder.WEIGHTS
    whole = file.read_bytes()
    for damaged in (whole[:-10], whole[:100], b"", b"\xff" * 8 + whole[8:], whole[:20] + b"\x00" + whole[21:]):
        file.write_bytes(damaged)
        with pytest.raises(CorruptArtifact, match="safetensors"):
            folder.load(saved)
    file.unlink()
    with pytest.raises(CorruptArtifact, match="missing"):
        folder.load(saved)


@pytest.fixture
def sharded(tiny, tmp_path) -> Path:
    path = tmp_path / "sharded"
    folder.save(tiny.model("llama"), path, None, folder.About("complete", "next", 64, "causal"), shard_bytes=20_000)
    return path


def test_weights_over_several_files_are_read_here_and_by_transformers(tiny, sharded, tmp_path):
    files = sorted(sharded.glob("model-*.safetensors"))
    assert len(files) > 3
    assert all(file.stat().st_size < 25_000 for file in files)
    expected = dict(tiny.model("llama").named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in folder.load(sharded).named_parameters())
    judge = tiny.judge(sharded)
    judge.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    theirs = folder.load(tmp_path / "theirs")
    assert all(torch.equal(value, expected[name]) for name, value in theirs.named_parameters())


def test_saving_again_leaves_no_shard_behind(tiny, sharded):
    folder.save(tiny.model("llama", seed=1), sharded, None, folder.About("complete", "next", 64, "causal"))
    assert [file.name for file in sharded.glob("*.safetensors*")] == [folder.WEIGHTS]


def test_a_missing_shard_is_named_with_what_it_held(sharded):
    file = sorted(sharded.glob("model-*.safetensors"))[1]
    file.unlink()
    with pytest.raises(CorruptArtifact, match=rf"{file.name} is missing; .* holds \d+ tensors: model\."):
        folder.load(sharded)


def test_a_damaged_shard_and_an_index_that_lies_are_named(sharded):
    index = sharded / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
    raw["weight_map"]["model.norm.weight"] = first.name
    index.write_text(json.dumps(raw))
    with pytest.raises(CorruptArtifact, match=rf"model\.norm\.weight is not in {first.name}"):
        folder.load(sharded)
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(CorruptArtifact, match=second.name):
        folder.load(sharded)
    raw["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(raw))
    with pytest.raises(BadInput, match=r"out of the folder: \.\./elsewhere"):
        folder.load(sharded)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tiny, tmp_path):
    folder.save(tiny.model("llama"), tmp_path, None, folder.About("complete", "next", 64, "causal"))
    (tmp_path / folder.ABOUT).unlink()
    for vocab, last in (({"a": 0, "b": 104}, 104), ([[f"t{i}", -1.0] for i in range(110)], 109)):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
        with pytest.raises(BadInput, match=f"ids up to {last}, but the embedding has 104 rows"):
            folder.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 90}}}))
    assert folder.load(tmp_path).config.tokens == 91


def test_packed_and_whole_number_weights_are_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(BadInput, match="quantization_config"):
        folder.load(saved)
    (saved / "config.json").write_text(json.dumps(config))
    rewrite(saved, lambda t: t.update({"head.dense.weight": torch.zeros(32, 32, dtype=torch.int8)}))
    with pytest.raises(BadInput, match=r"head\.dense\.weight holds int8 values"):
        folder.load(saved)


def test_a_broken_json_is_corrupt(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(CorruptArtifact, match=r"config\.json"):
        folder.load(saved)


def test_pickles_are_refused_with_a_way_to_convert_them(saved):
    weights = saved / folder.WEIGHTS
    torch.save(load_file(weights), saved / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(BadInput, match=r"pytorch_model\.bin, a pickle") as error:
        folder.load(saved)
    assert "weights_only=True" in str(error.value)


def test_weights_load_in_another_precision(saved):
    model = folder.load(saved, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_special_ids_come_from_the_tokenizer(tiny, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    added = [{"content": "<|endoftext|>", "id": 100}, {"content": "<|pad|>", "id": 101}]
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": added}))
    settings = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>"}, "pad_token": "<|pad|>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    folder.save(tiny.model("modernbert"), tmp_path / "m", tokenizer, ABOUT)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["bos_token_id"], config["pad_token_id"], config["cls_token_id"]) == (100, 101, 100)
    assert (tmp_path / "m" / "tokenizer.json").is_file()
    tiny.judge(tmp_path / "m")
