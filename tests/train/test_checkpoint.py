"""Checkpoints are whole or absent, verified when read, and a bad one falls back to the one before."""

import resource
from pathlib import Path

import pytest
import torch

from wyrmling.core.errors import BadInput
from wyrmling.train import checkpoint
from wyrmling.train.checkpoint import State


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


def same(one: State, two: State) -> bool:
    tensors = [(one.model, two.model), (one.optimizer, two.optimizer), (one.best or {}, two.best or {})]
    equal = all(a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a) for a, b in tensors)
    return equal and (one.step, one.progress, one.spent) == (two.step, two.progress, two.spent)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    for step in (4, 5):
        checkpoint.save(tmp_path, state(step), keep=2)
        found = checkpoint.load_newest(tmp_path)
        assert found is not None and same(found, state(step))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 11):
        checkpoint.save(tmp_path, state(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "manifest", "missing"])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_falls_back_and_says_so(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, state(1), keep=3)
    newest = checkpoint.save(tmp_path, state(2), keep=3)
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


def test_an_unfinished_checkpoint_is_not_looked_at(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1), keep=2)
    # what a kill in the middle of writing leaves behind
    half = tmp_path / "step-00000002.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.step == 1
    checkpoint.save(tmp_path, state(2), keep=2)
    assert not half.exists()


def test_a_full_disk_keeps_the_old_checkpoint_and_says_what_to_do(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1), keep=2)
    # The operating system refuses files beyond this size, as it would on a full disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(BadInput, match="too full for the checkpoint of step 2"):
            checkpoint.save(tmp_path, state(2), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and same(found, state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
