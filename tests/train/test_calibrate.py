"""Calibration: a few real steps say what the whole run will take, and the next plan believes them."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from train.small import Small
from wyrmling.core import hardware
from wyrmling.core.steps import STEPS_FILE, read
from wyrmling.core.store import ForecastRecord, Store
from wyrmling.flow import plan, records
from wyrmling.train import calibrate, forecast, run
from wyrmling.train.calibrate import STILL_TO_GROW, Calibration
from wyrmling.train.forecast import FLOPS, SAME_BAND, correct
from wyrmling.train.sizing import derive_step

STEPS = (
    'train=[{name="first", objective="masked", sources=["stories"], steps=200}, '
    '{name="then", objective="classify", sources=["tickets"], method="lora", steps=300}]'
)


@pytest.fixture(scope="module")
def calibrated(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder whose steps, the second a lora of what the first left, were calibrated."""
    root = tmp_path_factory.mktemp("calibrated") / "p"
    root.mkdir()
    for file in small.project.root.iterdir():
        if file.is_file():
            (root / file.name).write_bytes(file.read_bytes())
    taken = records.calibrate(of(small, root))
    assert 8 <= taken <= 2 + 20 + 30
    return root


def of(small: Small, root: Path, *settings: str):
    return small.with_settings(STEPS, *settings, root=root)


def test_a_calibration_leaves_its_record_and_nothing_else(small: Small, calibrated: Path) -> None:
    assert not list(calibrated.glob("runs/.calibration*")) and not (calibrated / "runs" / "train").exists()
    with closing(Store.open(of(small, calibrated).database_url)) as store:
        found = store.forecasts(hardware.machine().id)
    assert [one.work for one in found] == ["small/first (calibrated)/masked", "small/then (calibrated)/classify"]
    assert all(value > 0 for one in found for value in (*one.forecast.values(), *one.actual.values()))
    assert all(set(one.forecast) == {*one.actual, FLOPS} for one in found)


def test_the_plan_says_what_the_real_steps_said_with_a_narrow_band(small: Small, calibrated: Path) -> None:
    project = of(small, calibrated)
    with closing(Store.open(project.database_url)) as store:
        said = {one.work.split("/")[1].split()[0]: one.actual for one in store.forecasts(hardware.machine().id)}
    made = plan.plan(project)
    for name, actual in said.items():
        one = made.stages[f"train {name}"]
        assert one.basis == "real steps"
        for what in ("minutes", "memory_gb", "kwh"):
            value = getattr(one, what)
            assert value.value == pytest.approx(actual[what], rel=0.12)
            assert value.high / value.value == pytest.approx(SAME_BAND[what])
    assert "real steps" in made.text()


def test_other_work_is_not_taken_for_the_calibrated(small: Small, calibrated: Path) -> None:
    longer = plan.plan(of(small, calibrated, "train.first.steps=3000")).stages["train first"]
    assert longer.basis != "real steps"
    assert longer.minutes.high / longer.minutes.value > SAME_BAND["minutes"]


def test_a_run_at_an_even_pace_takes_what_a_calibration_of_it_says(small: Small) -> None:
    project = small.with_settings('train=[{name="s", objective="causal", sources=["stories"]}]', "train.s.steps=95")
    facts = forecast.Facts((forecast.sizing.SourceFacts("stories", "document", 40, 900, 30, 30),), vocab_size=400)
    shape = forecast.sizing.derive_model(project.settings, project.steps, facts)
    derived = derive_step(project.settings, project.steps[0], shape, facts, scratch=True, first=True)
    even = Calibration(steps=5, start=2.0, step=0.5, look=1.0, end=3.0, whole=8.5, wh=0.85, memory_gb=0.7)
    # 95 steps with a look after every tenth and after the last
    said = even.run(derived)
    assert derived.evaluate_every == 10
    assert said["minutes"] * 60 == pytest.approx(2 + 95 * 0.5 + 10 * 1 + 3)
    assert said["kwh"] * 1000 == pytest.approx(0.1 * said["minutes"] * 60)
    assert said["memory_gb"] == 0.7
    # Kept waiting by others for half of its time, it takes half as long without them.
    assert replace(even, share=0.5).run(derived)["minutes"] == pytest.approx(said["minutes"] / 2)
    # What batches take beside weights and moments still grows: a few steps have not met all of their shapes.
    assert even.run(derived, 0.5)["memory_gb"] == pytest.approx(0.7 + STILL_TO_GROW * 0.2)
    assert even.run(derived, 0.9)["memory_gb"] == 0.7


def test_a_brief_run_is_taken_apart_into_start_steps_look_and_end(small: Small, tmp_path: Path) -> None:
    project = small.with_settings(
        'train=[{name="s", objective="causal", sources=["stories"]}]',
        "train.s.steps=6",
        "train.s.evaluate_every=3",
        root=tmp_path,
    )
    made = run.run_all(project, small.data, small.tokens)[-1]
    found = calibrate.measured(made)
    steps, looks = read(made.path / STEPS_FILE)
    assert len(looks) == 2 and found.look == looks[-1]["look_seconds"]
    # Nothing is left for the start by a first step, or a first look, that was faster than the others.
    first = max(steps[0]["seconds"], found.step) + max(0.0, looks[0]["look_seconds"] - found.look)
    assert found.start + found.step == pytest.approx(first)
    parts = found.start + 6 * found.step + 2 * found.look + found.end
    assert parts == pytest.approx(made.cost["seconds"], rel=0.2)
    assert found.memory_gb == made.cost["peak_memory_gb"] and found.share == 1
    alone = calibrate.measured(made, alone=True)
    assert alone.share == pytest.approx(min(1.0, made.cost["cpu_seconds"] / made.cost["seconds"]))
    assert alone.share > 0


def test_a_run_that_its_budget_ended_early_teaches_nothing_about_a_whole_one(small: Small, tmp_path: Path) -> None:
    step = 'train=[{name="s", objective="causal", sources=["stories"], steps=500}]'
    project = small.with_settings(step, "objective.budget.hours=1e-6", root=tmp_path)
    made = run.run_all(project, small.data, small.tokens)
    assert made[-1].figures["stopped"] == "budget" and made[-1].figures["steps"] < 500
    assert records.remember(project, made) == 0


def test_records_of_the_very_same_work_count_before_all_others() -> None:
    def record(work: str, flops: float, took: float) -> ForecastRecord:
        return ForecastRecord("m", work, {"minutes": 1.0, "flops": flops}, {"minutes": took}, "")

    mixed = [record("a/x/sft", 1e12, 3.0), record("a/y (calibrated)/sft", 2e11, 1.5), record("a/x/sft", 2e12, 3.0)]
    near = correct(mixed, "sft", 2.01e11)
    assert near.same and near.factor["minutes"] == pytest.approx(1.5) and near.factor["kwh"] == 1.0
    assert near.band == SAME_BAND and near.basis == "real steps"
    far = correct(mixed, "sft", 5e11)
    assert not far.same and far.factor["minutes"] > 1.5
    assert not correct(mixed, "causal", 2e11).same
