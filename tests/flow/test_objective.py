"""`wyrmling objective check`: what the test rows can show, said before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shell import ask_here, here, write_small_project
from wyrmling import config
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.flow import objective


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_project(tmp_path_factory.mktemp("objective") / "desk")


def checked(folder: Path, *accept: str, more: tuple[str, ...] = ()) -> objective.Check:
    return objective.check(config.load(folder, [f"objective.accept={json.dumps(accept)}", *more]))


def test_each_condition_gets_its_outlook(folder: Path) -> None:
    found = checked(
        folder,
        "accuracy >= 0.9",
        "recall[card_arrival] >= 0.99",
        "macro_f1 >= champion - 0.01",
        "macro_f1 >= 0.5",
        "latency_p95_ms <= 100",
        "accuracy[length=long] >= 0.999",
        "log_loss <= 0.5",
        "macro_f1 >= 0.99 @point",
    )
    outlooks = [one.outlook for one in found.prospects]
    assert outlooks == [
        "can pass", "cannot pass", "too few rows", "can pass", "later", "cannot pass", "can pass", "later",
    ]  # fmt: skip
    assert "four of five tests if the truth is 0.9" in found.prospects[0].reason
    assert found.prospects[1].rows_needed == 381
    assert "about, as for a share of rows" in found.prospects[3].reason
    assert found.prospects[5].rows < found.rows
    assert found.exit_code == 3
    text = found.text()
    assert "cannot pass   recall[card_arrival] >= 0.99" in text and "it needs 381 rows" in text


def test_a_cheap_baseline_that_is_enough_is_named(folder: Path) -> None:
    found = checked(folder, "accuracy >= 0.5")
    assert found.baselines == {"majority": "FAIL", "tfidf": "PASS"}
    assert "tfidf meets the conditions of quality already" in found.text()
    assert found.exit_code == 0
    assert checked(folder, "accuracy >= 0.5", more=("evaluate.baselines=false",)).baselines == {}


def test_no_baseline_is_judged_by_what_it_can_not_answer(folder: Path) -> None:
    assert checked(folder, "log_loss <= 0.5").baselines == {}
    assert checked(folder, "accuracy >= baseline.tfidf").baselines == {}


def test_a_budget_that_can_not_hold_is_said(folder: Path) -> None:
    found = checked(folder, more=("objective.budget.hours=0.000001",))
    assert found.exit_code == 3
    assert "budget hours" in found.text() and "does not fit" in found.text()


def test_too_few_rows_alone_exit_with_4(folder: Path) -> None:
    assert checked(folder, "accuracy >= champion - 0.01").exit_code == 4


def test_no_model_is_made_and_the_document_is_json(folder: Path) -> None:
    document = ask_here("objective", "check", "--project", folder)
    assert document["accept"][0]["outlook"] == "can pass"
    assert document["exit_code"] == 0 and len(document["objective"]) == 64
    assert not (folder / "runs" / "train").exists()


@pytest.mark.parametrize("line", ["macro_f2 >= 0.5", "recall[card_arival] >= 0.5", "accuracy[source=tickts] >= 0.5"])
def test_a_bad_condition_names_the_nearest(folder: Path, line: str) -> None:
    with pytest.raises(BadSetting, match=r"did you mean|can't be sliced by .source."):
        checked(folder, line)


def test_a_label_without_test_rows_and_thin_labels_are_said(tmp_path: Path) -> None:
    rows = [f"my card number {i} is {'lost' if i % 2 else 'broken'} and I am angry about {i * 7919}" for i in range(90)]
    train = "".join(f"{text},{'lost' if i % 2 else 'broken'}\n" for i, text in enumerate(rows))
    (tmp_path / "train.csv").write_text("text,label\n" + train + "something else entirely,rare\n" * 2)
    (tmp_path / "test.csv").write_text(
        "text,label\n" + "I lost my card in the park yesterday,lost\n" + "it is broken now,broken\n"
    )
    columns = 'text = "text"\nlabel = "label"\n'
    (tmp_path / "wyrmling.toml").write_text(
        'name = "desk"\n[objective]\ntask = "classify"\n'
        f'[data.sources.a]\npath = "train.csv"\n{columns}[data.sources.b]\npath = "test.csv"\nsplit = "test"\n{columns}'
    )
    found = checked(tmp_path, "recall[rare] >= 0.5", "macro_f1 >= 0.5", "accuracy >= 0.3")
    assert [one.outlook for one in found.prospects] == ["cannot pass", "too few rows", "can pass"]
    assert found.prospects[0].reason == "no test row of rare"
    assert any("labels have under 20 test rows" in warning and "rare 0" in warning for warning in found.warnings)


def test_without_test_rows_it_is_an_error(folder: Path) -> None:
    with pytest.raises(BadInput, match="no test row"):
        checked(folder, more=("data.split.test=0",))


def test_help_names_the_verb() -> None:
    assert "check" in here("objective", "--help").stdout
