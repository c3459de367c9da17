"""Bad steps are left out; four in a row lead back to a restore point, and on past the rows that led there."""

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train.small import Small
from wyrmling.core.artifact import Artifact, file_digest
from wyrmling.core.errors import BadInput, CorruptArtifact, Interrupted, WyrmlingError
from wyrmling.data import run as data
from wyrmling.model.heads import Model
from wyrmling.tokenizer import run as tokenizer
from wyrmling.train import checkpoint, run
from wyrmling.train.batches import Batch
from wyrmling.train.objectives import OBJECTIVES

STEP = 'train=[{name="s", objective="masked", sources=["stories"]}]'
# One or two stories per step; none is seen twice in the first 23.
SETTINGS = ("steps=10", "batch_tokens=31", "dropout=0.1", "save_every_seconds=1000", "evaluate_every=4", "lr=0.01")

Watch = Callable[[int, Batch], float]


class Once:
    """Sends SIGTERM to this process, once: the second would end it."""

    def __init__(self) -> None:
        self.sent = False

    def __call__(self) -> None:
        if not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Watch], None]:
    """A function that puts another before the masked objective: told the step and a batch of it, it gives a factor."""
    real = OBJECTIVES["masked"]

    def put(before: Watch) -> None:
        def loss(model: Model, batch: Batch, **settings: Any) -> tuple[torch.Tensor, int]:
            value, count = real.loss(model, batch, **settings)
            # The seed of the project is 0, so that of a step is its number.
            return (value * before(torch.initial_seed(), batch), count) if model.training else (value, count)

        monkeypatch.setitem(OBJECTIVES, "masked", real._replace(loss=loss))

    return put


def train(small: Small, root: Path, *settings: str) -> Artifact:
    project = small.with_settings(STEP, *(f"train.s.{text}" for text in (*SETTINGS, *settings)), root=root)
    return run.run_all(project, small.data, small.tokens)[-1]


def lines(made: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.path / "steps.jsonl").read_text().splitlines()]


def weights(made: Artifact) -> str:
    return file_digest(made.path / "model" / "model.safetensors")


def rows_of_steps(small: Small, root: Path, watch: Callable[[Watch], None]) -> dict[int, set[int]]:
    rows: dict[int, set[int]] = {}

    def note(step: int, batch: Batch) -> float:
        rows.setdefault(step, set()).update(int(row) for row in batch.rows)
        return 1.0

    watch(note)
    train(small, root)
    return rows


def test_rows_that_break_training_are_skipped_and_an_interruption_changes_nothing(
    small: Small, tmp_path: Path, watch: Callable[[Watch], None], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of_steps(small, tmp_path / "clean", watch)
    poison = set.union(*(rows[step] for step in (3, 4, 5, 6)))

    def poisoned(step: int, batch: Batch) -> float:
        return math.nan if poison & {int(row) for row in batch.rows} else 1.0

    watch(poisoned)
    made = train(small, tmp_path / "whole")
    (told,) = made.figures["rollbacks"]
    assert {key: told[key] for key in ("from", "to", "material", "rate")} == {
        "from": 6,
        "to": 0,
        "material": [1, 6],
        "rate": 0.5,
    }
    assert "no finite loss" in told["reason"] and made.figures["steps"] == 10
    logged = lines(made)
    assert [line["step"] for line in logged if "loss" in line] == list(range(1, 11))
    assert [line["rollback"]["from"] for line in logged if "rollback" in line] == [6]
    rates = [line["lr"] for line in logged if "lr" in line]
    assert max(rates) == pytest.approx(0.01 / 2)
    said = " ".join(capsys.readouterr().err.split())
    assert "step 3 was left out (1 in a row)" in said and "back to step 0: the rows of steps 1 to 6 are skipped" in said

    # Stopped while the bad steps go by, and again after the rollback: the same weights.
    for stop_at in (3, 12):
        seen = 0

        def poisoned_and_stopped(step: int, batch: Batch, at: int = stop_at) -> float:
            nonlocal seen
            seen += 1
            if seen == at:
                Once()()
            return poisoned(step, batch)

        watch(poisoned_and_stopped)
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            train(small, tmp_path / f"stopped-{stop_at}")
        watch(poisoned)
        again = train(small, tmp_path / f"stopped-{stop_at}")
        assert weights(again) == weights(made) and again.figures["rollbacks"] == made.figures["rollbacks"]


def test_a_spike_late_in_a_run_is_left_out(small: Small, tmp_path: Path, watch: Callable[[Watch], None]) -> None:
    watch(lambda step, batch: 50.0 if step == 90 else 1.0)
    made = train(small, tmp_path, "steps=100", "evaluate_every=1000")
    assert made.figures["left_out_steps"] == 1 and made.figures["rollbacks"] == []
    (left_out,) = [line for line in lines(made) if "left_out" in line]
    assert left_out["step"] == 90 and left_out["left_out"].startswith("a spike: loss")
    watch(lambda step, batch: 50.0 if step == 90 else 1.0)
    kept = train(small, tmp_path, "steps=100", "evaluate_every=1000", "spike_sigmas=0")
    assert kept.figures["left_out_steps"] == 0


def test_after_the_last_rollback_the_run_ends_with_a_remedy(
    small: Small, tmp_path: Path, watch: Callable[[Watch], None]
) -> None:
    watch(lambda step, batch: math.nan if step > 1 else 1.0)
    with pytest.raises(WyrmlingError, match="4 steps in a row were left out, after 1 rollbacks") as error:
        train(small, tmp_path, "rollbacks=1")
    assert error.value.fix is not None and "lower the learning rate" in error.value.fix


def test_smaller_micro_batches_are_kept_by_a_resumed_run(
    small: Small, tmp_path: Path, watch: Callable[[Watch], None]
) -> None:
    stop = Once()

    def limited(step: int, batch: Batch) -> float:
        if step == 7:
            stop()
        if len(batch.tokens) > 80:
            raise MemoryError
        return 1.0

    watch(limited)
    with pytest.raises(Interrupted):
        train(small, tmp_path, "batch_tokens=150")
    sizes: list[int] = []

    def note(step: int, batch: Batch) -> float:
        sizes.append(len(batch.tokens))
        return 1.0

    watch(note)
    made = train(small, tmp_path, "batch_tokens=150")
    assert 0 < max(sizes) <= 80
    assert made.figures["micro_batch_tokens"] < made.figures["derived"]["step"]["micro_batch_tokens"]


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_the_first_step(
    small: Small, tmp_path: Path, watch: Callable[[Watch], None]
) -> None:
    learned = 0

    def note(step: int, batch: Batch) -> float:
        nonlocal learned
        learned += 1
        return 1.0

    watch(note)
    with pytest.raises(BadInput, match="checkpoints of train step s take up to"):
        train(small, tmp_path, "keep_checkpoints=1000000000")
    assert learned == 0


def test_a_hanging_step_is_reported_while_the_run_goes_on(
    small: Small, tmp_path: Path, watch: Callable[[Watch], None], capsys: pytest.CaptureFixture[str]
) -> None:
    watch(lambda step, batch: time.sleep(1.5 if step == 3 else 0) or 1.0)
    made = train(small, tmp_path, "hang_seconds=0.2", "steps=4")
    assert "step 3 takes far longer" in " ".join(capsys.readouterr().err.split())
    assert made.figures["steps"] == 4 and (made.path / "hang-3.txt").is_file()


def test_restore_points_are_saved_whatever_the_clock_says(
    small: Small, tmp_path: Path, watch: Callable[[Watch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "RESTORE_EVERY", 4)
    there: list[str] = []

    def checkpoints() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("runs/train/.s-*/checkpoints/step-*"))

    def note(step: int, batch: Batch) -> float:
        if step == 10:
            # The last one is made durable in the background, which takes what the disk takes.
            until = time.monotonic() + 60
            while (names := checkpoints()) != ["step-00000004", "step-00000008"] and time.monotonic() < until:
                time.sleep(0.02)
            there.extend(names)
        return 1.0

    watch(note)
    train(small, tmp_path)
    assert there == ["step-00000004", "step-00000008"]


def interrupted(watch: Callable[[Watch], None], at: int) -> None:
    stop = Once()

    def stopping(step: int, batch: Batch) -> float:
        if step == at:
            stop()
        return 1.0

    watch(stopping)


def test_rows_that_changed_under_an_interrupted_run_are_refused_until_they_are_accepted(
    small: Small, tmp_path: Path, watch: Callable[[Watch], None], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small.project.root, tmp_path, dirs_exist_ok=True)
    project = small.with_settings(STEP, *(f"train.s.{text}" for text in SETTINGS), root=tmp_path)
    rows = data.run(project)

    def again(*, accept: bool = False) -> Artifact:
        rows = data.run(project)
        return run.run_all(project, rows, tokenizer.run(project, rows), accept_data_change=accept)[-1]

    interrupted(watch, 3)
    with pytest.raises(Interrupted):
        again()
    watch(lambda step, batch: 1.0)
    stories = tmp_path / "stories.jsonl"
    before = stories.read_text()
    stories.write_text(before + json.dumps({"text": "Somebody went to Paris with a letter for a friend."}) + "\n")
    with pytest.raises(BadInput, match="rows of train step s have changed since it was interrupted after step 3") as no:
        again()
    assert no.value.fix is not None and "wyrmling train --accept-data-change" in no.value.fix
    changed = again(accept=True)
    assert changed.manifest["inputs"]["data"] != rows.id
    # Nothing is lost: with the old rows the interrupted run goes on.
    stories.write_text(before)
    capsys.readouterr()
    assert again().manifest["inputs"]["data"] == rows.id
    assert "going on after step 3" in capsys.readouterr().err


def test_a_token_store_changed_while_training_is_noticed_before_the_next_checkpoint(
    small: Small, tmp_path: Path, watch: Callable[[Watch], None]
) -> None:
    shutil.copytree(small.project.root, tmp_path, dirs_exist_ok=True)
    project = small.with_settings(
        STEP, *(f"train.s.{text}" for text in SETTINGS), "train.s.save_every_seconds=0", root=tmp_path
    )
    rows = data.run(project)
    tokens = tokenizer.run(project, rows)

    def touch(step: int, batch: Batch) -> float:
        if step == 3:
            os.utime(next(tokens.path.rglob("train-*.tokens")), ns=(1, 1))
        return 1.0

    watch(touch)
    with pytest.raises(CorruptArtifact, match="was changed while training"):
        run.run_all(project, rows, tokens)
    (work,) = tmp_path.glob("runs/train/.s-*/checkpoints")
    assert max(path.name for path in work.glob("step-*")) == "step-00000002"


def test_keeping_less_for_the_backward_pass_changes_nothing_but_the_memory(small: Small, tmp_path: Path) -> None:
    plain = train(small, tmp_path / "plain")
    again = train(small, tmp_path / "again", "checkpoint_activations=true")
    assert again.id == plain.id and weights(again) == weights(plain)
