"""What can be seen of a run: the figures of each step, the trackers that get them, and the end within the budget."""

import json
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.small import Small
from wyrmling.config import Budget
from wyrmling.core import hardware
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting
from wyrmling.core.steps import STEPS_FILE, read
from wyrmling.train import run
from wyrmling.train.journal import Journal
from wyrmling.train.pace import limit_passed

STEP = 'train=[{name="s", objective="classify", sources=["tickets"]}]'


def trained(small: Small, root: Path, *settings: str) -> Artifact:
    project = small.with_settings(STEP, *settings, root=root)
    return run.run_all(project, small.data, small.tokens)[-1]


def test_a_step_says_its_rate_its_memory_its_energy_and_its_share_of_the_peak(small: Small, tmp_path: Path) -> None:
    made = trained(small, tmp_path, "train.s.steps=6", "train.s.evaluate_every=3")
    steps, looks = read(made.path / STEPS_FILE)
    assert len(steps) == 6 and len(looks) == 2
    peak = hardware.rates("cpu", use_threads=1).float32
    for line in steps:
        assert 0 < line["mfu"] < 1 and 0.05 < line["memory_gb"] <= hardware.machine().memory_gb
        # A weight of the blocks takes six operations per token at least: mfu, rate and probe say the same.
        weights = made.figures["parameters"] - 400 * 32
        assert line["mfu"] * peak > 0.5 * 6 * weights * line["tokens_per_second"] or line["mfu"] < 1e-3
    assert [line["wh"] for line in steps] == sorted(line["wh"] for line in steps)
    assert all(look["look_seconds"] > 0 for look in looks)


def test_tensorboard_reads_back_what_the_journal_has(small: Small, tmp_path: Path) -> None:
    made = trained(small, tmp_path, "train.s.steps=6", "train.s.evaluate_every=3", 'train.s.track=["tensorboard"]')
    steps, looks = read(made.path / STEPS_FILE)
    (folder,) = (tmp_path / "runs" / "track" / "tensorboard").iterdir()
    seen = EventAccumulator(str(folder)).Reload()
    for name in ("loss", "lr", "tokens_per_second", "wh"):
        events = seen.Scalars(f"train/{name}")
        assert [event.step for event in events] == [line["step"] for line in steps]
        assert [event.value for event in events] == pytest.approx([line[name] for line in steps], rel=1e-6)
    assert [e.value for e in seen.Scalars("val/macro_f1")] == pytest.approx([one["val"]["macro_f1"] for one in looks])


def test_what_is_tracked_does_not_change_the_result(small: Small, tmp_path: Path) -> None:
    first = trained(small, tmp_path, "train.s.steps=2")
    assert trained(small, tmp_path, "train.s.steps=2", 'train.s.track=["tensorboard"]').id == first.id


def test_a_missing_tracker_names_the_line_that_installs_it(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.entities", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(BadSetting, match=r"pip install 'wyrmling\[mlflow\]'"):
        trained(small, tmp_path, "train.s.steps=2", 'train.s.track=["mlflow"]')


def test_a_journal_forgets_the_steps_that_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / STEPS_FILE
    with Journal(path, 0) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "loss": 1.0})
    with path.open("a") as handle:
        handle.write('{"step": 4, "lo')
    with Journal(path, 2) as log:
        log.write({"step": 3, "loss": 2.0})
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [1.0, 1.0, 2.0]


SPENT = {"seconds": 10.0, "usd": 1.0, "wh": 100.0}


@pytest.mark.parametrize(
    ("budget", "seconds", "limit"),
    [
        (Budget(), 1e9, None),
        (Budget(hours=21 / 3600), 10.0, None),
        (Budget(hours=19 / 3600), 10.0, "hours"),
        (Budget(usd=2.1), 10.0, None),
        (Budget(usd=1.9), 10.0, "usd"),
        (Budget(kwh=0.19), 10.0, "kwh"),
        (Budget(hours=1, usd=1.9, kwh=0.1), 10.0, "usd"),
    ],
)
def test_a_limit_is_seen_before_it_is_passed(budget: Budget, seconds: float, limit: str | None) -> None:
    assert limit_passed(budget, SPENT, SPENT, seconds) == limit
    # What earlier steps of the project took counts too, at this run's price of a second.
    before = {name: 2 * value for name, value in SPENT.items()}
    if limit is not None:
        assert limit_passed(budget, before, SPENT, seconds) is not None


def test_a_run_ends_within_its_budget_with_the_best_weights_of_all_it_paid_for(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second costs a dollar; the run may take four more than one of a few steps."""
    same = ("train.s.evaluate_every=40", "train.s.save_every_seconds=1000", "machine.usd_per_hour=3600")
    few = trained(small, tmp_path / "few", "train.s.steps=5", *same).cost["usd"]
    made = trained(small, tmp_path, "train.s.steps=100000", f"objective.budget.usd={few + 4}", *same)
    steps, looks = read(made.path / STEPS_FILE)
    assert made.figures["stopped"] == "budget" and few < made.cost["usd"] <= few + 4
    # The last weights were looked at too, and those that are kept had the best look.
    assert looks[-1]["step"] == steps[-1]["step"] == made.figures["steps"]
    assert made.figures["val"]["macro_f1"] == max(look["val"]["macro_f1"] for look in looks)
    said = capsys.readouterr().err
    assert "another step would pass it" in said and "at this pace budget.usd ends train s" in said
