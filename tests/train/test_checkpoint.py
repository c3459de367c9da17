"""Checkpoints are whole or absent, verified when read, and a bad one falls back to the one before."""

import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wyrmling.core.errors import BadInput
from wyrmling.train import checkpoint
from wyrmling.train.checkpoint import State
from wyrmling.train.saving import EVERY_SECONDS, SHARE, Saver


def state(step: int) -> State:
    generator = torch.Generator().manual_seed(step)
    return State(
        step=step,
        model={"w": torch.randn(20, 30, generator=generator), "b": torch.randn(3, generator=generator)},
        optimizer={"m": torch.randn(20, 30, generator=generator)},
        best={"w": torch.randn(20, 30, generator=generator)} if step % 2 else None,
        progress={"tokens": step * 10, "recent": [1.5, 0.1 + 0.2]},
        spent={"seconds": 1.25 * step, "wh": 0.1},
    )


def save(folder: Path, state: State, *, keep: int) -> Path:
    return checkpoint.seal(checkpoint.write(folder, state), keep=keep)


def same(one: State, two: State) -> bool:
    tensors = [(one.model, two.model), (one.optimizer, two.optimizer), (one.best or {}, two.best or {})]
    equal = all(a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a) for a, b in tensors)
    return equal and (one.step, one.progress, one.spent) == (two.step, two.progress, two.spent)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    for step in (4, 5):
        save(tmp_path, state(step), keep=2)
        found = checkpoint.load_newest(tmp_path)
        assert found is not None and same(found, state(step))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 11):
        save(tmp_path, state(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "manifest", "missing"])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_falls_back_and_says_so(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, state(1), keep=3)
    newest = save(tmp_path, state(2), keep=3)
    path = newest / file
    if damage == "flip":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "manifest":
        (newest / checkpoint.MANIFEST).write_text("{")
    else:
        path.unlink()
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and same(found, state(1))
    said = " ".join(capsys.readouterr().err.split())
    assert "step-00000002 cannot be used" in said and (damage == "manifest" or file in said)


def test_any_flipped_bit_of_the_manifest_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = save(tmp_path, state(2), keep=3)
    manifest = newest / checkpoint.MANIFEST
    content = manifest.read_bytes()
    for place in range(0, len(content), 7):
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << place % 8
        newest.mkdir(exist_ok=True)
        manifest.write_bytes(spoiled)
        assert checkpoint.load_newest(tmp_path) is None, bytes(spoiled[place - 20 : place + 20])
        save(tmp_path, state(2), keep=3)
    assert "cannot be used" in capsys.readouterr().err


def test_an_unfinished_checkpoint_is_not_looked_at(tmp_path: Path) -> None:
    save(tmp_path, state(1), keep=2)
    # what a kill in the middle of writing leaves behind
    half = tmp_path / "step-00000002.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.step == 1
    save(tmp_path, state(2), keep=2)
    assert not half.exists()


def test_the_newest_restore_point_outlives_newer_checkpoints(tmp_path: Path) -> None:
    every = checkpoint.RESTORE_EVERY
    for step in (0, 7, every, every + 3, every + 5, every + 6):
        save(tmp_path, state(step), keep=2)
    kept = [every, every + 5, every + 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}" for step in kept]
    found = checkpoint.load_newest(tmp_path, restore_points=True)
    assert found is not None and found.step == every
    checkpoint.discard_after(tmp_path, every)
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{every:08d}"]


def test_a_checkpoint_of_another_format_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = save(tmp_path, state(1), keep=2) / checkpoint.MANIFEST
    manifest.write_text(manifest.read_text().replace(f'"format": {checkpoint.FORMAT}', '"format": 1'))
    assert checkpoint.load_newest(tmp_path) is None
    assert "written in format 1" in capsys.readouterr().err


def test_too_little_room_is_refused_before_the_first_step(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    checkpoint.require_room(tmp_path, free // 4, step="tune")
    with pytest.raises(BadInput, match="checkpoints of train step tune take up to") as error:
        checkpoint.require_room(tmp_path, 2 * free, step="tune")
    assert error.value.fix is not None and "keep_checkpoints" in error.value.fix


def test_the_predicted_room_is_what_the_files_take(tmp_path: Path) -> None:
    one = state(1)
    moments = sum(tensor.nbytes for tensor in one.optimizer.values())
    # two that are kept, a restore point, and the one being written
    for step in (0, 1, 3, 5):
        save(tmp_path, replace(one, step=step, best=one.model), keep=4)
    took = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    needed = checkpoint.room_needed(one.model, moments, keep=2)
    # the headers of the files
    assert needed < took < needed + 4 * 3 * 300


def test_weights_that_change_after_the_call_do_not_change_the_checkpoint(tmp_path: Path) -> None:
    saver = Saver(tmp_path, keep=2, every=0)
    one = state(5)
    saver.save(one)
    for tensor in (*one.model.values(), *one.optimizer.values()):
        tensor.zero_()
    saver.wait()
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and same(found, state(5))
    saver.close()


def test_what_goes_wrong_in_the_background_is_raised_by_the_next_call(tmp_path: Path) -> None:
    # A file where the checkpoint's folder has to be.
    (tmp_path / "step-00000005").write_text("")
    for call in (Saver.due, Saver.wait):
        saver = Saver(tmp_path, keep=2, every=0)
        saver.save(state(5))
        with pytest.raises(NotADirectoryError):
            call(saver)
        saver.close()


def test_saves_are_rarer_where_they_take_long(tmp_path: Path) -> None:
    saver = Saver(tmp_path, keep=2, every=None)
    saver.save(state(5))
    assert not saver.due()
    saver._began -= EVERY_SECONDS
    saver.wait()
    assert saver.due()
    saver._took = EVERY_SECONDS * SHARE * 2
    assert not saver.due()
    saver.close()


def test_a_full_disk_keeps_the_old_checkpoint_and_says_what_to_do(tmp_path: Path) -> None:
    save(tmp_path, state(1), keep=2)
    # The operating system refuses files beyond this size, as it would on a full disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(BadInput, match="too full for the checkpoint of step 2"):
            save(tmp_path, state(2), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and same(found, state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
