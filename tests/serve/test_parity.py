"""What was trained is what is served, or nothing is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from wyrmling.core import artifact
from wyrmling.core.energy import Meter
from wyrmling.core.errors import BadInput, GateRefused, UsageError
from wyrmling.core.store import Store, folder_digest
from wyrmling.model.quantize import Quantised
from wyrmling.serve.loaded import find
from wyrmling.serve.parity import load_checked


@pytest.fixture(params=["next", "classes", "tags"])
def folder(request: pytest.FixtureRequest, kitchen, tmp_path: Path) -> Path:
    """A model folder that may be damaged."""
    name = {"next": "teller", "classes": "sorter", "tags": "finder"}[request.param]
    return Path(shutil.copytree(kitchen.model(name, request.param), tmp_path / "copy" / "model"))


def test_an_untouched_folder_is_loaded(folder: Path) -> None:
    assert load_checked(find(folder)).found.name == "copy"


def test_other_weights_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = max(weights, key=lambda name: weights[name].numel() if "embed" not in name else 0)
    weights[name][0] += 0.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(GateRefused, match="answers differ from the trained model's") as caught:
        load_checked(find(folder))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "file", ["model.safetensors", "probes.safetensors", "tokenizer.json", "config.json", "probes.json"]
)
def test_a_file_that_is_cut_off_is_refused(folder: Path, file: str) -> None:
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(GateRefused, match="not served"):
        load_checked(find(folder))


def test_a_folder_without_its_probes_is_refused(folder: Path) -> None:
    (folder / "probes.json").unlink()
    with pytest.raises(GateRefused, match=r"probes\.json"):
        load_checked(find(folder))


def test_another_tokenizer_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:5]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(GateRefused, match="tokenizer gives other ids"):
        load_checked(find(folder))


def test_every_flipped_byte_of_a_registered_model_is_found(folder: Path, tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")
    store.register_model("desk", folder, folder_digest(folder), {})
    store.promote("desk")
    assert load_checked(find("desk", store)).found.version == 1
    for file in sorted(folder.iterdir()):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(GateRefused, match="not those that were registered as desk:1"):
            load_checked(find("desk", store))
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def test_a_flipped_byte_inside_an_artifact_is_found_by_its_manifest(kitchen, tmp_path: Path) -> None:
    key = artifact.Key("train", "tune", {}, {}, 1)
    with artifact.create(tmp_path, key, Meter()) as draft:
        shutil.copytree(kitchen.model("teller", "next"), draft.path / "model")
    load_checked(find(draft.done.path))
    # A byte that changes no answer: a space in the description.
    about = draft.done.path / "model" / "wyrmling.json"
    about.write_bytes(about.read_bytes().replace(b"{\n", b"{ ", 1))
    with pytest.raises(GateRefused, match="not served"):
        load_checked(find(draft.done.path))


def test_a_folder_from_elsewhere_is_served_with_a_warning(kitchen, tmp_path: Path, capsys) -> None:
    folder = Path(shutil.copytree(kitchen.model("talker", "next", chat=True, seed=1), tmp_path / "elsewhere"))
    for name in ("wyrmling.json", "probes.json", "probes.safetensors"):
        (folder / name).unlink()
    loaded = load_checked(find(folder))
    said = capsys.readouterr().err
    assert "can't be checked" in said
    assert "worse than guessing" in said, "its random weights are sure of wrong tokens"
    assert loaded.chat, "its chat template came with it"
    assert loaded.found.name == "elsewhere"


def test_a_model_that_fills_in_hidden_tokens_only_embeds(kitchen) -> None:
    loaded = load_checked(find(kitchen.model("hider", "masked")))
    assert loaded.job == "embed"
    with pytest.raises(UsageError, match=r"only embeds texts(.|\n)*train a classify or tag step"):
        loaded.need("generate", "chat")


def test_a_registered_version_answers_to_its_number_too(kitchen, start, tmp_path: Path) -> None:
    folder = kitchen.model("teller", "next")
    store = Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")
    store.register_model("stories", folder, folder_digest(folder), {})
    with start(folder, store=store) as server:
        assert [card["id"] for card in server.get("/v1/models").json()["data"]] == ["stories"]
        for name, status in (("stories", 200), ("stories:1", 200), ("stories:2", 404), ("teller", 404)):
            assert server.get(f"/v1/models/{name}").status_code == status
            assert server.post("/v1/completions", {"model": name, "prompt": "x"}).status_code == status


def test_a_path_that_is_registered_is_served_under_its_name(kitchen, tmp_path: Path) -> None:
    folder = kitchen.model("teller", "next")
    store = Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")
    assert find(folder, store).name == "teller"
    store.register_model("stories", folder, folder_digest(folder), {})
    assert (find(folder, store).name, find(folder.parent, store).version) == ("stories", 1)
    with pytest.raises(UsageError, match="no champion"):
        find("stories", store)
    with pytest.raises(UsageError, match="no folder 'stories'"):
        find("stories")
    with pytest.raises(BadInput, match="not a model folder"):
        find(tmp_path)


def test_rounded_weights_are_asked_after_the_trained_ones(folder: Path, capsys) -> None:
    loaded = load_checked(find(folder), quantize="int8")
    assert any(isinstance(module, Quantised) for module in loaded.model.modules())
    assert "int8: " in capsys.readouterr().err
