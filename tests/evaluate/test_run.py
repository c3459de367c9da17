"""The whole stage on small real projects: artifact, figures, test files, and every kind of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score

from wyrmling import config
from wyrmling.core.artifact import open_artifact
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.evaluate import run, summary, tasks
from wyrmling.model import folder, probes
from wyrmling.tokenizer.tokenizer import Tokenizer

# The fixture of conftest.py.
Make = Callable[..., Any]


def test_classify_scores_follow_from_the_predictions_on_disk(make: Make) -> None:
    project, data, model = make("classify")
    made = run.run(project, data, model)
    found = json.loads((made.path / run.METRICS).read_text())
    table = pq.read_table(made.path / run.PREDICTIONS).to_pydict()
    assert found["rows"] == len(table["row_id"]) == 80
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(accuracy_score(table["gold"], table["predicted"]))
    expected = f1_score(
        table["gold"], table["predicted"], labels=sorted(set(table["gold"])), average="macro", zero_division=0
    )
    assert found["metrics"]["macro_f1"]["value"] == pytest.approx(expected)
    assert sum(rows for _, _, rows in found["confusion"]["cells"]) == 80
    for p, best, label in zip(table["probabilities"], table["score"], table["predicted"], strict=True):
        assert sum(p) == pytest.approx(1, abs=1e-5)
        assert max(p) == pytest.approx(best, abs=1e-6)
        assert found["confusion"]["labels"][p.index(max(p))] == label


def test_baselines_stand_beside_the_model_on_the_same_rows(make: Make) -> None:
    project, data, model = make("classify")
    figures = run.run(project, data, model).figures
    assert list(figures["baselines"]) == ["majority", "tfidf"]
    assert figures["baselines"]["tfidf"]["metrics"]["accuracy"]["value"] == 1.0
    assert figures["baselines"]["majority"]["metrics"]["accuracy"]["value"] == pytest.approx(0.25)
    difference = figures["baselines"]["tfidf"]["difference"]["macro_f1"]
    assert difference["value"] == pytest.approx(figures["metrics"]["macro_f1"]["value"] - 1.0)
    assert difference["low"] <= difference["value"] <= difference["high"]


def test_a_second_run_finds_the_first_without_torch(make: Make) -> None:
    project, data, model = make("classify")
    run.run(project, data, model)
    code = (
        "import sys; from pathlib import Path; from wyrmling import config;"
        "from wyrmling.core.artifact import open_artifact;"
        "from wyrmling.evaluate import run, summary;"
        f"project = config.load(Path({str(project.root)!r}), ['objective.accept=[]']);"
        f"made = run.run(project, open_artifact(Path({str(data.path)!r})), Path({str(model)!r}));"
        "summary.summary(made);"
        "print(made.reused, [m for m in ('torch', 'sklearn', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


def test_the_same_inputs_give_the_same_scores_and_predictions(make: Make, tmp_path: Path) -> None:
    project, data, model = make("classify")
    first = run.run(project, data, model)
    again = run.run(config.Project(tmp_path, project.settings), data, model)
    assert (first.path / run.PREDICTIONS).read_bytes() == (again.path / run.PREDICTIONS).read_bytes()
    same = ("accuracy", "macro_f1", "log_loss", "ece")
    for name in same:
        assert first.figures["metrics"][name] == again.figures["metrics"][name]


def test_tags_are_scored_by_entity(make: Make) -> None:
    project, data, model = make("tag", ("recall[person] >= 0.99",))
    figures = run.run(project, data, model).figures
    assert figures["main"] == "entity_f1"
    assert figures["baselines"]["crf"]["metrics"]["entity_f1"]["value"] > 0.95
    assert figures["verdict"]["status"] == "FAIL"
    assert figures["notes"] == [
        "'recall[person] >= 0.99' cannot pass with this test: 60 rows, all right, prove at most 0.940; "
        "it needs 381 rows"
    ]


@pytest.mark.parametrize("task", ["complete", "chat"])
def test_text_is_scored_in_bits_per_byte_with_ngrams_beside(make: Make, task: str) -> None:
    project, data, model = make(task)
    figures = run.run(project, data, model).figures
    metrics = figures["metrics"]
    # A model of random weights knows next to nothing: its loss is near that of equal odds, ln 300 = 5.7.
    assert 5.0 < metrics["loss"]["value"] < 7.0
    assert metrics["perplexity"]["value"] == pytest.approx(2.718281828459045 ** metrics["loss"]["value"])
    assert (
        figures["baselines"]["five_gram"]["metrics"]["bpb"]["value"]
        < figures["baselines"]["unigram"]["metrics"]["bpb"]["value"]
    )
    assert figures["baselines"]["five_gram"]["difference"]["bpb"]["low"] > 0
    assert metrics["latency_p50_ms"]["value"] > 0


def test_a_test_file_is_scored_instead_of_the_projects_own_rows(make: Make, tmp_path: Path) -> None:
    project, data, model = make("classify")
    file = tmp_path / "own.csv"
    file.write_text("text,label\n" + "my card is gone,card\nmy refund is late,refund\n" * 20)
    made = run.run(project, data, model, test_file=file)
    assert made.figures["rows"] == 40
    assert made.id != run.run(project, data, model).id
    assert pq.read_table(made.path / run.PREDICTIONS)["origin"][0].as_py().endswith("own.csv:2")


def test_rows_of_a_test_file_are_cleaned_like_the_training_rows(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text('text,label\n"write to  anna@example.com\u200b ",card\n')
    (row,) = tasks.read_file(make("classify").project, file)
    assert "example.com" not in row["text"]
    assert not row["text"].endswith(" ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nhello,card\nhello,cards\n", "does not know the label 'cards'"),
        ("text,label\nhello,card\nhello,\n", "(?i)label"),
        ("text,label\nhello,card\n,card\n", "empty|no text"),
        ("message,label\nhello,card\n", "no column 'text'"),
        ("", "empty"),
    ],
)
def test_a_bad_test_file_is_an_error_that_names_the_row(make: Make, tmp_path: Path, content: str, message: str) -> None:
    project, data, model = make("classify")
    file = tmp_path / "bad.csv"
    file.write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        run.run(project, data, model, test_file=file)
    if content.count("\n") == 3:
        assert "bad.csv:3" in str(caught.value.where)


def test_a_tag_that_the_model_does_not_know_is_named(make: Make, tmp_path: Path) -> None:
    project, data, model = make("tag")
    file = tmp_path / "bad.conll"
    file.write_text("Rome\tB-place\nfell\tO\n\n")
    with pytest.raises(BadInput, match=r"the tag 'B-place' of the word 'Rome'"):
        run.run(project, data, model, test_file=file)


def test_missing_files_and_folders_are_errors(make: Make, tmp_path: Path) -> None:
    project, data, model = make("classify")
    with pytest.raises(BadInput, match="does not exist"):
        run.run(project, data, model, test_file=tmp_path / "none.csv")
    with pytest.raises(BadInput, match="is not a model folder"):
        run.run(project, data, tmp_path)


def test_a_model_for_another_task_is_refused(make: Make) -> None:
    project, data, _ = make("classify")
    with pytest.raises(BadSetting, match="the head 'next', the task 'classify' needs 'classes'"):
        run.run(project, data, make("complete").model)


def test_a_misspelt_condition_is_an_error_before_anything_is_loaded(make: Make) -> None:
    project, data, model = make("classify", ("macro_f2 >= 0.5",))
    with pytest.raises(BadSetting, match="did you mean 'macro_f1'"):
        run.run(project, data, model / "not there")
    project, data, model = make("classify", ("recall[crad] >= 0.5",))
    with pytest.raises(BadSetting, match="there is no label 'crad', did you mean 'card'"):
        run.run(project, data, model)


def test_a_failed_evaluation_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    project, data, model = make("classify")
    moved = config.Project(tmp_path, project.settings)
    file = tmp_path / "bad.csv"
    file.write_text("text,label\nhello,unknown\n")
    with pytest.raises(BadInput):
        run.run(moved, data, model, test_file=file)
    assert [path for path in (tmp_path / "runs" / "evaluate").iterdir() if path.is_dir()] == []


def test_one_test_row_gives_a_value_and_says_why_there_is_no_interval(make: Make, tmp_path: Path) -> None:
    project, data, model = make("classify", ("macro_f1 >= 0.5",))
    file = tmp_path / "one.csv"
    file.write_text("text,label\nmy card is gone,card\n")
    figures = run.run(project, data, model, test_file=file).figures
    assert figures["rows"] == 1
    assert figures["metrics"]["accuracy"]["low"] is not None
    assert figures["metrics"]["macro_f1"]["low"] is None
    assert figures["verdict"]["status"] == "INCONCLUSIVE"
    assert "1 rows for 1 classes" in figures["verdict"]["lines"][0]["reason"]


def test_baselines_can_be_left_out(make: Make) -> None:
    project, data, model = make("classify")
    bare = config.load(project.root, ["evaluate.baselines=false"])
    assert run.run(bare, data, model).figures["baselines"] == {}


def test_the_summary_shows_value_interval_baselines_and_verdict(make: Make) -> None:
    project, data, model = make("classify", ("macro_f1 >= 0.9", "accuracy >= baseline.majority - 0.5"))
    made = run.run(project, data, model)
    text = summary.summary(made)
    score = made.figures["metrics"]["macro_f1"]
    assert f"{score['value']:.4f}" in text and f"{score['low']:.4f} to {score['high']:.4f}" in text
    assert "tfidf" in text and "model -" in text
    assert "FAIL  macro_f1 >= 0.9" in text
    assert str(made.path / "report.html") in text
    assert summary.document(made)["report"] == str(made.path / "report.html")
    assert open_artifact(made.path).figures == made.figures


def test_a_rounded_model_is_compared_with_itself_unrounded(make: Make) -> None:
    made = make("classify")
    probes.record(folder.load(made.model), Tokenizer.load(made.model), ["my card has a problem"], made.model)
    plain = run.run(made.project, made.data, made.model)
    rounded = run.run(made.project, made.data, made.model, quantize="int8-dynamic")
    assert rounded.id != plain.id
    beside = rounded.figures["opponents"]["unrounded"]["metrics"]["accuracy"]["value"]
    assert beside == plain.figures["metrics"]["accuracy"]["value"]
