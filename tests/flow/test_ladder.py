"""`wyrmling ladder`: every rung on the same rows, what is left out and why, and which one to use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shell import ask_here, here, write_small_project
from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.errors import BadSetting, UsageError
from wyrmling.evaluate import ladder as ladders
from wyrmling.evaluate import ladder_page
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.flow import ladder

QUICK = ("model.layers=1", "model.width=32", "train.pretrain.steps=8", "train.tune.steps=12", "evaluate.resamples=200")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_project(tmp_path_factory.mktemp("ladder") / "desk")


def project(folder: Path, *settings: str) -> Project:
    return config.load(folder, [*QUICK, *settings])


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[ladders.Ladder, Path]:
    return ladder.run(project(folder))


def test_every_rung_answers_the_same_rows_cheapest_first(whole: tuple[ladders.Ladder, Path]) -> None:
    found, path = whole
    names = [line.rung.name for line in found.lines]
    assert names == ["majority", "tfidf", "zero-shot", "few-shot", "probe", "lora", "full"]
    assert found.left_out == ()
    assert {line.quality.n for line in found.lines} == {found.rows}
    assert found.reference == "tfidf"
    by_name = {line.rung.name: line for line in found.lines}
    assert by_name["tfidf"].difference is None
    for name, line in by_name.items():
        if name != "tfidf":
            assert line.difference is not None and line.quality.value is not None
            expected = line.quality.value - (by_name["tfidf"].quality.value or 0)
            assert line.difference.value == pytest.approx(expected)
        assert {"latency_p50_ms", "latency_p95_ms", "memory_mb", "wh_per_1k"} <= set(line.rung.measured)
        assert line.rung.making["seconds"] >= 0
    assert by_name["full"].rung.making["seconds"] > by_name["majority"].rung.making["seconds"]
    document = json.loads((path / ladder.TABLE).read_text())
    assert [one["name"] for one in document["rungs"]] == names


def test_an_unchanged_ladder_is_found_and_a_rung_that_is_lost_alone_is_made_again(
    folder: Path, whole: tuple[ladders.Ladder, Path]
) -> None:
    made = {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/*/manifest.json")}
    again, path = ladder.run(project(folder))
    assert path == whole[1] and again.document() == whole[0].document()
    assert made == {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/*/manifest.json")}


def test_conditions_choose_the_cheapest_rung_that_meets_them(folder: Path, whole: object) -> None:
    found, _ = ladder.run(project(folder, 'objective.accept=["accuracy >= 0.5", "latency_p95_ms <= 60000"]'))
    statuses = {line.rung.name: line.rung.verdict.status for line in found.lines if line.rung.verdict}
    assert (statuses["majority"], statuses["tfidf"]) == ("FAIL", "PASS")
    assert found.recommended == "tfidf" and "meets objective.accept" in found.why
    found, _ = ladder.run(project(folder, 'objective.accept=["accuracy >= baseline.tfidf + 0.9"]'))
    assert "no rung is shown to meet objective.accept" in found.why
    # What can't be asked of a rung is not shown to be met: a guess has no probabilities.
    found, _ = ladder.run(project(folder, 'objective.accept=["log_loss <= 100", "accuracy >= 0.1"]'))
    statuses = {line.rung.name: line.rung.verdict.status for line in found.lines if line.rung.verdict}
    assert statuses["majority"] == "INCONCLUSIVE" and statuses["few-shot"] == "PASS"


def test_what_the_budget_does_not_allow_is_left_out_with_the_reason(folder: Path, whole: object) -> None:
    found, _ = ladder.run(project(folder, "objective.budget.hours=0.000001"))
    assert [line.rung.name for line in found.lines] == ["majority", "tfidf"]
    assert {one.name for one in found.left_out} == {"zero-shot", "few-shot", "probe", "lora", "full"}
    assert all("budget hours is 1e-06, and it would take" in one.reason for one in found.left_out)


def test_a_rung_without_a_model_to_start_from_is_left_out(folder: Path, whole: object) -> None:
    alone = project(folder, 'train=[{name="tune", objective="classify", sources=["tickets"], steps=2}]')
    found, _ = ladder.run(alone, ["majority", "probe"])
    assert [one.name for one in found.left_out] == ["probe"] and "needs a trained model" in found.left_out[0].reason
    with pytest.raises(UsageError, match="no rung was run: lora: it needs a trained model"):
        ladder.run(alone, ["lora"])


def test_the_project_s_own_method_keeps_its_settings(folder: Path) -> None:
    own = project(folder, "train.tune.method=lora", "train.tune.lora.rank=4", "train.tune.lr=0.01")
    assert ladder.with_method(own, "lora") is own
    full = ladder.with_method(own, "full").steps[-1]
    assert (full.method, full.lr, full.steps, full.lora.rank) == ("full", None, 12, 16)
    assert ladder.with_method(own, "zero-shot").steps[-1].few_shot.examples == 0


def test_a_head_that_is_learned_first_is_left_out_where_it_is_of_no_use(folder: Path) -> None:
    steps = "[{name='head', objective='classify', method='probe'}, {name='tune', objective='classify'}]"
    own = project(folder, f"train={steps}", "model.base=models/ready")
    names = {
        rung: [step.name for step in ladder.with_method(own, rung).steps]
        for rung in ("probe", "zero-shot", "few-shot", "freeze", "lora", "qlora", "full")
    }
    assert names == {
        "probe": ["tune"], "zero-shot": ["tune"], "few-shot": ["tune"],
        "freeze": ["head", "tune"], "lora": ["head", "tune"], "qlora": ["head", "tune"], "full": ["head", "tune"],
    }  # fmt: skip


def test_wrong_names_and_conditions(folder: Path) -> None:
    with pytest.raises(UsageError, match="no rung 'prob', did you mean 'probe'"):
        ladder.run(project(folder), ["prob"])
    with pytest.raises(UsageError, match="the task 'classify' has no rung 'crf'"):
        ladder.run(project(folder), ["crf"])
    with pytest.raises(BadSetting, match="did you mean 'accuracy'"):
        ladder.run(project(folder, 'objective.accept=["acuracy >= 0.5"]'))


def test_the_table_as_text_markdown_and_a_page_without_script(whole: tuple[ladders.Ladder, Path]) -> None:
    found, path = whole
    page, markdown = (path / ladder.PAGE).read_text(), (path / ladder.MARKDOWN).read_text()
    for line in found.lines:
        assert line.rung.name in page and f"| {line.rung.name} |" in markdown
    assert "<script" not in page and "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert f"use {found.recommended}: {found.why}" in ladder_page.text(found)


def test_the_verb_prints_the_table_and_json(folder: Path, whole: object) -> None:
    options = [x for setting in QUICK for x in ("--set", setting)]
    document = ask_here("ladder", "--project", folder, "--rungs", "majority,tfidf", *options)
    assert [one["name"] for one in document["rungs"]] == ["majority", "tfidf"] and Path(document["report"]).is_file()
    failed = here("ladder", "--project", folder, "--rungs", "nonsense", check=False)
    assert failed.exit_code == 2 and "the rungs are: majority, tfidf" in failed.stderr


# ---- which one to use ----


def rung(name: str, predicted: np.ndarray, *, cheap: bool = False) -> ladders.Rung:
    outcome = ClassOutcome(["a", "b"], np.arange(400) % 2, predicted, resamples=200)
    return ladders.Rung(name, name, cheap, outcome, {}, {"seconds": 1.0, "wh": 0.0, "usd": 0.0}, name)


def flipped(count: int) -> np.ndarray:
    """Answers of which so many are wrong."""
    gold = np.arange(400) % 2
    return np.where(np.arange(400) < count, 1 - gold, gold)


def test_a_dearer_rung_is_used_only_when_it_is_clearly_better() -> None:
    cheap, little, much = rung("tfidf", flipped(60), cheap=True), rung("lora", flipped(58)), rung("full", flipped(10))
    assert ladders.compare("classify", 400, [cheap, little], []).recommended == "tfidf"
    assert ladders.compare("classify", 400, [cheap], []).why == "no rung is cheaper, and none is better"
    found = ladders.compare("classify", 400, [cheap, little, much], [])
    assert (found.recommended, found.reference) == ("full", "tfidf")
    assert "every cheaper rung is clearly worse" in found.why
    same = ladders.compare("classify", 400, [cheap, rung("full", flipped(60))], [])
    assert same.recommended == "tfidf" and same.lines[1].difference is not None and same.lines[1].difference.p == 1


def test_p_values_are_corrected_for_looking_at_several_rungs() -> None:
    cheap = rung("tfidf", flipped(60), cheap=True)
    rungs = [rung(f"r{i}", flipped(60 - 8 * (i == 0))) for i in range(4)]
    one = ladders.compare("classify", 400, [cheap, rungs[0]], []).lines[1].difference
    many = ladders.compare("classify", 400, [cheap, *rungs], []).lines[1].difference
    assert one is not None and many is not None and many.p == pytest.approx(min(1.0, 4 * one.p))
