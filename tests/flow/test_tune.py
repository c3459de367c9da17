"""The search: real trainings, whose winner train finds again; given up on paired scores; resumed after a kill."""

import json
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
from scipy import stats

from shell import write_small_project
from wyrmling import config
from wyrmling.core.errors import UsageError
from wyrmling.core.steps import STEPS_FILE, read
from wyrmling.flow import lr_sweep, search_space, stages, trials, tune, tune_report
from wyrmling.flow.search_space import Choice, Range, parse
from wyrmling.train.rivals import RowScores, compare

QUICK = (
    "model.width=32",
    "train.pretrain.steps=2",
    "train.tune.steps=12",
    "train.tune.evaluate_every=3",
    "machine.threads=1",
    "tune.trials=3",
)
OVER = {"train.tune.lr": "1e-9..5e-2:log", "train.tune.dropout": "0.0,0.3"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return config.load(write_small_project(tmp_path_factory.mktemp("tune") / "desk"), QUICK)


@pytest.fixture(scope="module")
def searched(project):
    return tune.tune(project, OVER)


def test_ranges_and_choices_are_understood():
    space = parse({"a.lr": "1e-5..1e-3:log", "a.rank": "4..64:log", "a.x": "0.1..0.5", "a.method": "lora, full"})
    assert space == {
        "a.lr": Range(1e-5, 1e-3, log=True, whole=False),
        "a.rank": Range(4, 64, log=True, whole=True),
        "a.x": Range(0.1, 0.5, log=False, whole=False),
        "a.method": Choice(("lora", "full")),
    }
    assert Range(4, 64, True, True).written(7.6) == "8" and Range(0, 1, False, False).written(1 / 3) == "0.333"


@pytest.mark.parametrize("where", ["lora", "1..", "5..1", "0..1:log", "1..2:lin", "a..b", "a,a", ""])
def test_what_is_neither_is_refused(where):
    with pytest.raises(UsageError):
        parse({"train.tune.lr": where})


def test_a_setting_that_is_not_there_or_does_not_take_the_value_is_named(project):
    for over in ({"train.tune.lrr": "1e-5..1e-3"}, {"train.tune.epochs": "-1..3"}, {"train.nobody.lr": "0.1..0.2"}):
        with pytest.raises(UsageError, match=next(iter(over))):
            search_space.check(project, parse(over))
    with pytest.raises(UsageError, match="nothing to search"):
        tune.tune(project, {})


def test_every_trial_is_accounted_for_and_the_best_is_the_best(searched):
    records = searched.records
    assert len(records) == 4 and not records[0].settings
    assert all(set(record.settings) == set(OVER) for record in records[1:])
    done = [record for record in records if record.end == "done"]
    assert searched.best.value == max(record.value for record in done)
    for record in records:
        assert record.value is None or record.value == max(record.curve)
        assert record.end == "done" or record.why
    assert searched.spent()["seconds"] == pytest.approx(sum(record.spent["seconds"] for record in records))


def test_what_comes_before_the_searched_step_is_trained_once(project, searched):
    assert len(list((project.runs / "train").glob("pretrain-*"))) == 1
    assert not list(searched.folder.glob("trials/*/runs/train/pretrain-*"))


def test_only_the_best_model_stays_and_training_with_its_settings_finds_it(project, searched):
    assert not list(searched.folder.glob("trials/*/runs"))
    best = project.with_settings([f"{key}={value}" for key, value in searched.best.settings.items()])
    made = stages.train(best)[-1]
    assert made.reused and made.figures["val"][searched.judge.name] == searched.best.value
    _, looks = read(made.path / STEPS_FILE)
    assert [look["val"][searched.judge.name] for look in looks] == list(searched.best.curve)


def test_a_search_that_is_asked_again_has_nothing_to_do_and_goes_on_when_given_more_trials(project, searched):
    before = len(searched.records)
    assert len(tune.tune(project, OVER).records) == before
    assert len(tune.tune(project.with_settings(["tune.trials=4"]), OVER).records) == before + 1


def test_the_answer_names_the_winning_settings_and_the_page_is_whole(searched):
    document, text = tune_report.answer(searched)
    assert json.loads(json.dumps(document))["best"]["value"] == searched.best.value
    assert document["set"] == [f"{key}={value}" for key, value in searched.best.settings.items()]
    assert all(f"--set {line}" in text for line in document["set"])
    # Pasted over the old sections, the lines are those settings.
    raw = searched.project.settings.model_dump(mode="json", exclude_unset=True) | tomllib.loads(document["toml"])
    assert config.parse(raw, where="toml") == searched.project.with_settings(document["set"]).settings
    assert document["toml"] in text
    page = (searched.folder / "tune.html").read_text()
    assert page.count("<svg") == 1 + len(OVER) and "http" not in page.replace("http-equiv", "").replace("w3.org", "")


def test_a_rate_far_too_small_is_given_up_on_paired_scores(project):
    found = tune.tune(project.with_settings(["tune.trials=1"]), {"train.tune.lr": "1e-12..1.1e-12"})
    last = found.records[-1]
    assert last.end == "given up" and "surely behind" in last.why and len(last.curve) < 4
    assert not found.best.settings


def test_a_budget_ends_the_search_and_more_of_it_takes_it_up_again(project):
    over = {"train.tune.dropout": "0.0..0.4"}
    short = tune.tune(project.with_settings(["tune.trials=50", "tune.budget.hours=0.0004"]), over)
    before = {record.name for record in short.records}
    assert "tune.budget.hours" in short.stopped and len(before) < 10
    more = tune.tune(project.with_settings([f"tune.trials={len(before) + 1}"]), over)
    assert more.stopped is None and more.folder == short.folder
    assert before < {record.name for record in more.records}
    assert "cut off" not in {record.end for record in more.records}


def scores(earned, targets=None):
    earned = np.asarray(earned, dtype=float)
    return RowScores(np.arange(len(earned)), earned, np.ones(len(earned)) if targets is None else np.asarray(targets))


def test_the_paired_tests_are_mcnemar_and_the_paired_t_in_the_limit():
    ours, theirs = scores([1] * 30 + [0] * 12 + [1] * 3), scores([1] * 30 + [1] * 12 + [0] * 3)
    found = compare(ours, theirs)
    assert found.test == "McNemar" and found.p == pytest.approx(stats.binomtest(3, 15).pvalue)
    assert found.difference == pytest.approx(-9 / 45)
    draw = np.random.default_rng(0)
    one = draw.normal(size=800)
    two = one + draw.normal(0.02, 0.2, size=800)
    assert compare(scores(one), scores(two)).p == pytest.approx(stats.ttest_rel(one, two).pvalue, rel=0.05)
    assert compare(scores(one), scores(two[:-1])) is None
    assert compare(scores(one), scores(two, np.full(800, 2.0))) is None


def test_a_killed_search_goes_on_and_trains_no_trial_twice(project):
    settings = [*QUICK, "train.tune.steps=40", "train.tune.save_every_seconds=0", "tune.trials=1", "tune.prune=false"]
    command = [sys.executable, "-m", "wyrmling", "tune", "--project", str(project.root), "--quiet", "--json"]
    command += [part for one in settings for part in ("--set", one)]
    command += ["--over", "train.tune.lr=1e-3..2e-2:log"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    tune_folder = project.runs / "tune"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        running = [one for one in tune_folder.glob("*/trials/*") if list(one.glob("runs/train/.tune-*/check*/*"))]
        if any(folder.name != trials.PRESENT for folder in running):
            break
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (begun,) = [folder for folder in running if folder.name != trials.PRESENT]
    assert not (begun / "trial.json").exists()
    document = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    names = [trial["name"] for trial in document["trials"]]
    assert names == [trials.PRESENT, begun.name]
    assert [len(trial["curve"]) for trial in document["trials"]] == [14, 14]


def test_the_sweep_of_the_rate_ends_where_the_loss_does_not_fall_and_changes_no_weights(project):
    before = {path: path.read_bytes() for path in project.runs.rglob("*.safetensors")}
    document, text = lr_sweep.answer(project, None)
    rates, losses = document["rates"], document["losses"]
    assert rates == sorted(rates) and len(rates) == len(losses) > 20
    assert rates[0] < document["suggested"] < document["lowest"] < rates[-1]
    # Where it is suggested, a training learns; a thousandth of it hardly does.
    loss = {}
    for rate in (document["suggested"], document["suggested"] / 1000):
        loss[rate] = stages.train(project.with_settings([f"train.tune.lr={rate}"]))[-1].figures["val"]["loss"]
    assert loss[document["suggested"]] < 0.95 * loss[document["suggested"] / 1000]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert f"--set train.tune.lr={document['suggested']:.2g}" in text
