"""Artifacts: written whole or not at all, verified when read, found by what they depend on."""

import json
import os
import subprocess
import sys

import pytest

from wyrmling.core import artifact
from wyrmling.core.energy import Meter
from wyrmling.core.errors import BadInput, CorruptArtifact


def key(**changes):
    parts = {"stage": "data", "name": "desk", "inputs": {"a": "1"}, "settings": {"x": 1, "y": [1, 2]}, "version": 1}
    return artifact.Key(**{**parts, **changes})


def make(runs, content=b"hello", **changes):
    with artifact.create(runs, key(**changes), Meter()) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "file.bin").write_bytes(content)
        draft.figures = {"rows": 3}
    return draft.done


def test_what_was_written_is_found_again(tmp_path):
    made = make(tmp_path)
    found = artifact.find(tmp_path, key())
    assert not made.reused
    assert found.reused
    assert found.manifest == made.manifest
    assert found.figures == {"rows": 3}
    assert set(found.manifest["files"]) == {"sub/file.bin"}
    assert found.cost["seconds"] > 0


def test_what_launched_processes_made_is_not_reused_by_the_call_that_launched_them(tmp_path):
    make(tmp_path)
    with artifact.made_by_others(tmp_path):
        make(tmp_path, version=2)
    old, new = artifact.find(tmp_path, key()), artifact.find(tmp_path, key(version=2))
    assert (old.reused, old.by_others) == (True, False)
    assert (new.reused, new.by_others) == (False, True)


def test_the_id_depends_on_inputs_settings_and_version_and_on_nothing_else():
    same = key(settings={"y": [1, 2], "x": 1}, name="other")
    assert same.id == key().id
    changes = ({"inputs": {"a": "2"}}, {"settings": {"x": 2, "y": [1, 2]}}, {"version": 2}, {"stage": "train"})
    assert len({key(**change).id for change in changes} | {key().id}) == 5


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_artifact_is_refused_by_file_name(tmp_path, damage):
    made = make(tmp_path, b"hello world")
    file = made.path / "sub" / "file.bin"
    if damage == "flip":
        file.write_bytes(b"hellO world")
    elif damage == "truncate":
        file.write_bytes(b"hello")
    elif damage == "delete":
        file.unlink()
    else:
        (made.path / "manifest.json").write_text("{")
    with pytest.raises(CorruptArtifact, match="manifest" if damage == "manifest" else "file.bin"):
        artifact.find(tmp_path, key())


def test_an_error_while_writing_leaves_no_result_and_no_rubbish(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), artifact.create(tmp_path, key(), Meter()) as draft:
        (draft.path / "half").write_text("x")
        raise RuntimeError("boom")
    assert artifact.find(tmp_path, key()) is None
    assert not [p for p in (tmp_path / "data").iterdir() if p.is_dir()]


def test_resumable_work_survives_an_error_and_is_continued(tmp_path):
    with pytest.raises(RuntimeError), artifact.create(tmp_path, key(), Meter(), resume=True) as draft:
        (draft.path / "half").write_text("x")
        raise RuntimeError("cut off")
    with artifact.create(tmp_path, key(), Meter(), resume=True) as draft:
        assert (draft.path / "half").read_text() == "x"
    assert draft.done.manifest["files"]["half"]["bytes"] == 1


def test_a_process_killed_while_writing_leaves_nothing_that_counts(tmp_path):
    code = f"""
import os, pathlib
from wyrmling.core import artifact
from wyrmling.core.energy import Meter
key = artifact.Key("data", "desk", {{"a": "1"}}, {{"x": 1, "y": [1, 2]}}, 1)
with artifact.create(pathlib.Path({str(tmp_path)!r}), key, Meter()) as draft:
    (draft.path / "stale").write_text("x")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert artifact.find(tmp_path, key()) is None
    assert set(make(tmp_path).manifest["files"]) == {"sub/file.bin"}


def test_two_writers_of_one_artifact_do_not_mix(tmp_path):
    with artifact.create(tmp_path, key(), Meter()) as draft:
        code = f"""
import pathlib, sys
from wyrmling.core import artifact
from wyrmling.core.energy import Meter
from wyrmling.core.errors import BadInput
key = artifact.Key("data", "desk", {{"a": "1"}}, {{"x": 1, "y": [1, 2]}}, 1)
try:
    with artifact.create(pathlib.Path({str(tmp_path)!r}), key, Meter()):
        pass
except BadInput as error:
    sys.exit("another process" in str(error) and 7)
"""
        assert subprocess.run([sys.executable, "-c", code]).returncode == 7
        (draft.path / "mine").write_text("x")
    assert set(draft.done.manifest["files"]) == {"mine"}


def test_a_full_disk_is_said_plainly(tmp_path):
    with pytest.raises(BadInput, match="disk is full"), artifact.create(tmp_path, key(), Meter()):
        raise OSError(28, os.strerror(28))


def test_the_digest_of_unicode_and_surrogates_is_defined():
    assert artifact.digest({"ü": "\ud800"}) == artifact.digest(json.loads('{"ü": "\\ud800"}'))
