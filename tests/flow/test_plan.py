"""The plan: made without running anything, near the artifacts' own numbers, honest about limits and cheap answers."""

import json
import shutil
import subprocess
import sys

import pytest

from shell import EXAMPLES, write_small_project
from wyrmling import config
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.flow import facts, plan
from wyrmling.flow.plan import Fit
from wyrmling.train.forecast import Range


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_small_project(tmp_path_factory.mktemp("plan") / "desk")


def planned(folder, *overrides):
    return plan.plan(config.load(folder, list(overrides)))


def test_a_plan_makes_nothing(folder):
    before = sorted(path.name for path in folder.rglob("*"))
    planned(folder)
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_the_document_has_every_quantity_with_its_bounds_and_is_json(folder):
    document = json.loads(json.dumps(planned(folder).document()))
    for name in ("minutes", "memory_gb", "usd", "kwh", "kg_co2"):
        assert 0 < document[name]["low"] < document[name]["value"] < document[name]["high"]
    assert list(document["stages"]) == ["data", "tokenizer", "train pretrain", "train tune", "evaluate"]
    total = sum(stage["minutes"]["value"] for stage in document["stages"].values())
    assert document["minutes"]["value"] == pytest.approx(total)
    reasons = document["derived"]["train"]["tune"]["reasons"]
    assert "lr" in reasons and document["derived"]["model"]["width"] == 64


def test_the_text_names_stages_limits_and_reasons(folder):
    text = planned(folder, "objective.budget.hours=1", "objective.budget.memory_gb=8").text()
    for part in (
        "train tune",
        "total",
        "budget hours 1",
        "budget memory_gb 8",
        "fits",
        "accept accuracy",
        "CO2",
        "W (",
    ):
        assert part in text


def test_the_text_says_how_several_processes_would_share_the_model(folder):
    assert "launch" not in planned(folder).text()
    assert "4 processes, ddp: 4 copies" in planned(folder, "launch.processes=4").text()
    settings = ("launch.processes=4", "launch.nodes=2", 'launch.strategy="hsdp"', "launch.tensor=2")
    assert (
        "8 processes, hsdp: 2 copies x 2 shards x 2 tensor-parallel ranks (as set)" in planned(folder, *settings).text()
    )
    with pytest.raises(BadSetting, match=r"launch\.tensor = 3 does not divide 4 processes"):
        planned(folder, "launch.processes=4", "launch.tensor=3")


def test_more_passes_are_forecast_to_take_longer(folder):
    few, many = (planned(folder, f"train.tune.epochs={n}").total.minutes.value for n in (2, 40))
    assert many > few


def test_the_quick_look_agrees_with_the_artifacts(folder, tmp_path):
    from wyrmling.data import run as data
    from wyrmling.tokenizer import run as tokenizer

    copy = tmp_path / "desk"
    shutil.copytree(folder, copy)
    project = config.load(copy)
    quick = facts.look(project)
    tokenizer.run(project, data.run(project))
    exact = facts.look(project)
    assert (quick.exact, exact.exact) == (False, True)
    assert quick.facts.labels == exact.facts.labels
    assert quick.rows == pytest.approx(exact.rows, rel=0.1)
    assert quick.test_rows == pytest.approx(exact.test_rows, rel=0.2)
    tokens = [sum(source.tokens for source in known.facts.sources) for known in (quick, exact)]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.5)


def test_the_quick_look_sees_that_rows_may_have_several_labels(tmp_path):
    lines = [f'"card {number} is late","card{"|late" if number % 2 else ""}"' for number in range(40)]
    (tmp_path / "asked.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    source = '[data.sources.asked]\npath = "asked.csv"\ntext = "text"\nlabel = "label"\n'
    for more, several in (("", False), ('label_separator = "|"\n', True)):
        text = f'name = "p"\nobjective = {{ task = "classify" }}\n{source}{more}'
        (tmp_path / config.PROJECT_FILE).write_text(text, encoding="utf-8")
        known = facts.look(config.load(tmp_path))
        assert (known.exact, known.facts.several, known.facts.labels) == (False, several, 2)


def test_artifacts_of_other_settings_or_files_are_not_taken_for_current(folder, tmp_path):
    from wyrmling.data import run as data
    from wyrmling.tokenizer import run as tokenizer

    copy = tmp_path / "desk"
    shutil.copytree(folder, copy)
    project = config.load(copy)
    tokenizer.run(project, data.run(project))
    assert not facts.look(config.load(copy, ["tokenizer.vocab_size=700"])).exact
    assert not facts.look(config.load(copy, ["tokenizer.digits=1"])).exact
    assert not facts.look(config.load(copy, ["data.split.test=0.2"])).exact
    with (copy / "tickets.csv").open("a", encoding="utf-8") as handle:
        handle.write("my card never came,card_arrival\n")
    assert not facts.look(config.load(copy)).exact


def test_of_a_large_file_only_the_head_is_read(folder, tmp_path, monkeypatch):
    copy = tmp_path / "desk"
    shutil.copytree(folder, copy)
    whole = facts.look(config.load(copy))
    monkeypatch.setattr(facts, "HEAD_BYTES", 10_000)
    part = facts.look(config.load(copy))
    assert "head" in part.source
    assert part.rows == pytest.approx(whole.rows, rel=0.4)
    assert part.n_bytes == pytest.approx(whole.n_bytes, rel=0.4)


@pytest.mark.parametrize(("limit", "status"), [(3.0, "fits"), (1.5, "may not fit"), (0.5, "does not fit")])
def test_a_limit_inside_the_error_bar_may_not_hold(limit, status):
    assert Fit("budget hours", limit, Range(1.5, 1.0, 2.0)).status == status


def test_a_misspelt_condition_is_refused_before_anything_is_read(folder):
    with pytest.raises(BadSetting, match="macro_f2"):
        planned(folder, 'objective.accept=["macro_f2 >= 0.8"]')
    with pytest.raises(BadSetting, match="lost_card"):
        planned(folder, 'objective.accept=["recall[lost_card] >= 0.8"]')


def test_a_missing_file_is_named(folder):
    with pytest.raises(BadInput, match=r"nowhere\.csv"):
        planned(folder, 'data.sources.tickets.path="nowhere.csv"')


def test_a_step_without_rows_is_named(folder):
    with pytest.raises(BadSetting, match=r"train\.tune"):
        planned(folder, 'train.tune.sources=["handbook"]')


def test_few_rows_per_label_bring_the_cheap_answer_to_mind(folder):
    assert any("TF-IDF" in line for line in planned(folder).advice)


@pytest.mark.parametrize("example", sorted(p.name for p in EXAMPLES.iterdir() if (p / "wyrmling.toml").is_file()))
def test_every_shipped_example_has_a_plan(example):
    made = planned(EXAMPLES / example)
    assert made.total.minutes.value > 0
    assert made.text()


def test_other_ways_are_forecast_beside_the_project(folder):
    document = planned(folder).document()
    ways = {way["name"]: way for way in document["ways"]}
    assert list(ways) == ["few-shot", "probe", "lora", "full", "from scratch"]
    # The known models for labels are encoders, which can't be shown examples.
    assert ways["few-shot"]["minutes"]["value"] > 0 and "nearest training rows" in ways["few-shot"]["note"]
    assert ways["probe"]["minutes"]["value"] < ways["lora"]["minutes"]["value"] < ways["full"]["minutes"]["value"]
    assert ways["probe"]["memory_gb"]["value"] < ways["full"]["memory_gb"]["value"]
    trained = [stage["minutes"]["value"] for name, stage in document["stages"].items() if name.startswith("train ")]
    assert ways["from scratch"]["minutes"]["value"] == pytest.approx(sum(trained))
    writer = {way["name"]: way for way in planned(EXAMPLES / "storyteller").document()["ways"]}
    assert writer["few-shot"]["minutes"]["value"] > 0 and "examples before each" in writer["few-shot"]["note"]


def test_a_plan_needs_no_torch_once_the_machine_was_measured(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WYRMLING_CACHE", str(tmp_path))
    planned(folder)
    code = (
        "import sys; from pathlib import Path; from wyrmling import config; from wyrmling.flow import plan; "
        "plan.plan(config.load(Path(sys.argv[1]))).text(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
