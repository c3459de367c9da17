"""Models of the hub: fetched once, at one commit, from a real server on loopback; and every way that this can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from core.fake_hub import Hub, running
from wyrmling import config
from wyrmling.core import resolve
from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.core.hub import fetch, fetch_settings, snapshot_of
from wyrmling.tokenizer import folder

CONFIG = b'{"model_type": "llama"}'
TINY = {
    "config.json": CONFIG,
    "model.safetensors": b"w" * 5000,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "modeling_tiny.py": b"import os",
    "onnx/config.json": b"{}",
}


class Machine:
    """A machine with its own cache, whose hub is the one on loopback. huggingface_hub reads its environment once, when
    it is imported, so what it read is set here."""

    def __init__(self, hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub, self._patch = hub, monkeypatch
        self.online()
        self._patch.setattr(constants, "HF_HUB_CACHE", str(home))

    def online(self, address: str | None = None) -> None:
        self._patch.setattr(constants, "HF_HUB_OFFLINE", False)
        address = address or self.hub.address
        self._patch.setattr(constants, "ENDPOINT", address)
        self._patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )

    def offline(self) -> None:
        self._patch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with running() as hub:
        hub.repositories["acme/tiny"] = dict(TINY)
        yield Machine(hub, tmp_path / "cache", monkeypatch)


def test_a_model_is_fetched_once_and_never_asked_for_again(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fetch("acme/tiny")
    assert (found.repository, found.commit) == ("acme/tiny", machine.hub.commit("acme/tiny"))
    assert snapshot_of(found.folder) == found
    assert sorted(path.name for path in found.folder.rglob("*")) == [
        "config.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip
    assert f'model.revision = "{found.commit}"' in capsys.readouterr().err
    machine.hub.requests.clear()
    # The hub's main branch moves on; the project's base does not.
    machine.hub.repositories["acme/tiny"]["config.json"] = b'{"model_type": "qwen2"}'
    assert fetch("acme/tiny") == fetch("acme/tiny", found.commit) == found
    machine.offline()
    assert fetch("acme/tiny") == found
    assert machine.hub.requests == []


def test_an_older_revision_is_not_the_newest(machine: Machine) -> None:
    old = fetch("acme/tiny").commit
    machine.hub.repositories["acme/tiny"]["config.json"] = b'{"model_type": "qwen2"}'
    new = machine.hub.commit("acme/tiny")
    assert fetch("acme/tiny", new).commit == new != old
    assert fetch("acme/tiny", old).commit == old
    with pytest.raises(UsageError, match="acme/tiny has no revision 'v9'"):
        fetch("acme/tiny", "v9")


def test_a_download_that_was_cut_off_is_named_offline_and_mended_online(machine: Machine) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    machine.hub.repositories["acme/tiny"] = {
        "config.json": CONFIG,
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": first, "b": second}}).encode(),
        first: b"1" * 4000,
        second: b"2" * 4000,
    }
    machine.hub.cut_off.add(second)
    with pytest.raises(BadInput, match="acme/tiny can't be downloaded"):
        fetch("acme/tiny")
    machine.offline()
    with pytest.raises(BadInput, match=f"the cache has it in part, without {second}"):
        fetch("acme/tiny", machine.hub.commit("acme/tiny"))
    machine.online()
    machine.hub.cut_off.clear()
    assert (fetch("acme/tiny").folder / second).read_bytes() == b"2" * 4000


def test_without_a_network_it_says_so(machine: Machine) -> None:
    for address in (None, "http://127.0.0.1:9"):
        machine.offline() if address is None else machine.online(address)
        with pytest.raises(BadInput, match=r"acme/tiny can't be downloaded: .*; it is not in the cache") as caught:
            fetch("acme/tiny")
        assert "give the path of a model folder" in str(caught.value.fix)


def test_a_gated_and_a_missing_model_say_what_to_do(machine: Machine) -> None:
    machine.hub.gated.add("acme/tiny")
    with pytest.raises(UsageError, match="acme/tiny is gated") as gated:
        fetch("acme/tiny")
    assert "hf auth login" in str(gated.value.fix)
    assert gated.value.where == f"{machine.hub.address}/acme/tiny"
    with pytest.raises(UsageError, match="there is no model acme/nothing on the hub"):
        fetch("acme/nothing")


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"config.json": CONFIG, "pytorch_model.bin": b"p"}, "weights of acme/tiny are in pytorch_model.bin, a pickle"),
        ({"config.json": b'{"auto_map": {}}', "model.safetensors": b"w"}, "config.json of acme/tiny has auto_map"),
        ({"model.safetensors": b"w"}, "acme/tiny has no config.json"),
        ({"config.json": CONFIG}, "acme/tiny has no model.safetensors"),
    ],
)
def test_what_could_run_code_is_refused_before_weights_are_downloaded(
    machine: Machine, files: dict[str, bytes], error: str
) -> None:
    machine.hub.repositories["acme/tiny"] = files
    with pytest.raises(BadInput, match=error):
        fetch("acme/tiny")
    assert not [request for request in machine.hub.requests if "safetensors" in request or "bin" in request]


def test_a_folder_a_name_and_a_hub_id_are_told_apart(machine: Machine, tmp_path: Path) -> None:
    hub_folder = resolve.model("acme/tiny", root=tmp_path, database_url=None)
    assert resolve.inputs(hub_folder) == {"hub:acme/tiny": machine.hub.commit("acme/tiny")}
    at = resolve.model(f"acme/tiny@{machine.hub.commit('acme/tiny')}", root=None, database_url=None)
    assert at == hub_folder
    # A folder of the project wins over the hub, and nothing is asked.
    local = tmp_path / "acme/tiny/model"
    local.mkdir(parents=True)
    (local / "config.json").write_bytes(CONFIG)
    machine.hub.requests.clear()
    assert resolve.model("acme/tiny", root=tmp_path, database_url=None) == local
    assert list(resolve.inputs(local)) == ["config.json"]
    assert machine.hub.requests == []
    (local / "config.json").unlink()
    with pytest.raises(UsageError, match=r"acme/tiny is no model folder: it has no config\.json"):
        resolve.model("acme/tiny", root=tmp_path, database_url=None)
    with pytest.raises(UsageError, match="there is no model folder a/b/c"):
        resolve.model("a/b/c", root=tmp_path, database_url=None)


def test_a_plan_needs_the_settings_only(machine: Machine) -> None:
    settings = fetch_settings("acme/tiny")
    assert [path.name for path in settings.folder.iterdir()] == ["config.json"]
    assert not [request for request in machine.hub.requests if "safetensors" in request]
    machine.hub.requests.clear()
    assert fetch_settings("acme/tiny") == settings
    assert machine.hub.requests == []
    assert (fetch("acme/tiny").folder / "model.safetensors").is_file()


def test_a_revision_belongs_to_a_hub_model(tmp_path: Path) -> None:
    text = 'name = "desk"\n[objective]\ntask = "complete"\n[data.sources.a]\npath = "a.txt"\n[model]\nrevision = "v1"\n'
    (tmp_path / "wyrmling.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadSetting, match=r"model\.revision is for a base from the Hugging Face hub"):
        folder.locate_base(config.load(tmp_path))


def test_the_whole_command_downloads_and_says_what_is_wrong(machine: Machine, tmp_path: Path) -> None:
    """The real command line, which reads HF_ENDPOINT and HF_HOME as a user sets them."""
    machine.hub.gated.add("acme/tiny")
    own = {"HF_ENDPOINT": machine.hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "wyrmling", "chat", "--model", "acme/tiny", "--complete", "Once"]
    done = subprocess.run(command, env={**os.environ, **own}, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: acme/tiny is gated")
