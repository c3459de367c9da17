"""A model beside the champion and beside another: worse by enough is refused, equal waits for rows, nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from wyrmling import config
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.core.store import Store, folder_digest
from wyrmling.evaluate import measure, run, tasks, verdict
from wyrmling.evaluate.accept import parse
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.flow import gate

# The fixture of conftest.py.
Make = Callable[..., Any]
NOT_WORSE = ("accuracy >= champion - 0.01",)


def changed(model: Path, to: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy of a model folder with other weights."""
    to.mkdir(parents=True)
    for file in model.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    weights = {name: change(tensor) for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.fixture
def project(make: Make, tmp_path: Path) -> Any:
    """A project of its own, with the rows and the model of the shared one, and no champion yet."""
    made = make("classify", NOT_WORSE)
    settings = config.parse(
        {
            **made.project.settings.model_dump(mode="json", exclude_none=True),
            "database": f"sqlite:///{tmp_path}/own.db",
        },
        where="test",
    )
    return made._replace(project=config.Project(tmp_path, settings))


def test_without_a_champion_there_is_nothing_to_be_worse_than(project: Any) -> None:
    made = run.run(project.project, project.data, project.model)
    line = made.figures["verdict"]["lines"][0]
    assert (line["status"], "there is no champion yet" in line["reason"]) == ("PASS", True)
    assert gate.decide(project.project, project.model, made).exit_code == 0


def test_a_champion_is_compared_with_the_one_before_and_found_again(project: Any, tmp_path: Path) -> None:
    first = run.run(project.project, project.data, project.model)
    gate.decide(project.project, project.model, first)
    again = run.run(project.project, project.data, project.model)
    assert again.reused and again.id == first.id
    other = changed(project.model, tmp_path / "other", lambda tensor: tensor * 1.01)
    second = run.run(project.project, project.data, other)
    assert "champion" in second.figures["opponents"]
    with closing(Store.open(project.project.database_url)) as store:
        version = store.register_model("small", other, folder_digest(other), {})
        store.promote(f"small:{version}")
    # The other is the champion now, and is still compared with the first.
    assert run.run(project.project, project.data, other).id == second.id


def test_a_model_with_broken_weights_is_an_error_that_names_a_row(project: Any, tmp_path: Path) -> None:
    broken = changed(project.model, tmp_path / "broken", lambda tensor: tensor.sign() * 1e38)
    with pytest.raises(BadInput, match="80 of 80 test rows is not a number") as caught:
        run.run(project.project, project.data, broken)
    assert "test.csv:" in str(caught.value.where)


def judged(new: np.ndarray, old: np.ndarray, line: str) -> verdict.Line:
    """The verdict on a line about a champion; 1 is right."""
    gold = np.zeros(len(new), dtype=np.int64)
    outcomes = [ClassOutcome(["a", "b"], gold, 1 - right) for right in (new, old)]
    (criterion,) = parse([line], "classify")
    difference = outcomes[0].difference(outcomes[1], "accuracy")
    scores = {"accuracy": outcomes[0].score("accuracy")}
    return verdict.judge([criterion], scores, {("accuracy", "champion"): difference}).lines[0]


def test_three_points_worse_is_refused_and_equal_waits_for_rows() -> None:
    rng = np.random.default_rng(0)
    old = (rng.random(3000) < 0.90).astype(np.int64)
    worse = np.where(rng.random(3000) < 0.033, 0, old)
    assert judged(worse, old, "accuracy >= champion").status == "FAIL"
    assert judged(worse, old, "accuracy >= champion - 0.01").status == "FAIL"
    equal = np.where(rng.random(3000) < 0.05, (rng.random(3000) < 0.9).astype(np.int64), old)
    assert judged(equal, old, "accuracy >= champion").status == "INCONCLUSIVE"
    assert judged(equal, old, "accuracy >= champion - 0.02").status == "PASS"
    few = judged(equal[:100], old[:100], "accuracy >= champion - 0.02")
    assert few.status == "PASS" or few.rows_needed is None or few.rows_needed > 100
    # Even the same answers on 3,000 rows don't show that not one in a million is worse.
    assert judged(old, old, "accuracy >= champion").status == "INCONCLUSIVE"
    assert judged(old, old, "accuracy >= champion - 0.001").status == "PASS"


def test_the_gate_refuses_the_worse_and_keeps_the_champion(project: Any, tmp_path: Path) -> None:
    gate.decide(project.project, project.model, run.run(project.project, project.data, project.model))
    worse = changed(project.model, tmp_path / "worse", lambda tensor: torch.zeros_like(tensor))
    # All weights zero: every label is equally likely, and the first one is always said.
    other = config.Project(
        project.project.root,
        project.project.settings.model_copy(
            update={
                "objective": project.project.settings.objective.model_copy(
                    update={"accept": ("log_loss <= champion - 0.5",)}
                )
            }
        ),
    )
    refused = gate.decide(other, worse, run.run(other, project.data, worse))
    assert (refused.status, refused.exit_code) == ("FAIL", 3)
    assert "small:1 stays the champion" in refused.why


def test_another_model_stands_beside_with_the_answers_that_changed(project: Any, tmp_path: Path) -> None:
    other = changed(project.model, tmp_path / "other", lambda tensor: torch.zeros_like(tensor))
    made = run.run(project.project, project.data, project.model, against=other)
    beside = made.figures["opponents"]["against"]
    table = pq.read_table(made.path / run.PREDICTIONS).to_pydict()
    first = sorted(set(table["gold"]))[0]
    accuracy = np.mean([gold == first for gold in table["gold"]])
    assert beside["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    own = made.figures["metrics"]["accuracy"]["value"]
    assert beside["difference"]["accuracy"]["value"] == pytest.approx(own - accuracy)
    page = (made.path / run.REPORT).read_text()
    assert "Changed answers" in page and "<b>against</b>" in page
    assert made.id != run.run(project.project, project.data, project.model).id


def test_a_test_file_with_training_rows_is_refused_or_scored_with_and_without(make: Make, tmp_path: Path) -> None:
    project, data, model = make("classify")
    file = tmp_path / "own.csv"
    known = "my card number 0 has a problem, please <b>help</b> & hurry"
    file.write_text(f'text,label\n"{known}",card\n' + "my refund is late again today,refund\n" * 30)
    with pytest.raises(BadInput, match=r"1 of 31 test rows are training rows too, such as train\.csv:2") as caught:
        run.run(project, data, model, test_file=file)
    assert str(caught.value.where).endswith("own.csv:2")
    report = config.load(project.root, ['evaluate.overlap="report"'])
    figures = run.run(report, data, model, test_file=file).figures
    assert figures["overlap"]["same"] == 1
    assert figures["overlap"]["without"]["accuracy"]["n"] == 30
    assert any("are training rows too" in note for note in figures["notes"])


def test_rows_of_a_test_file_that_text_of_another_kind_gives_away_are_near(make: Make, tmp_path: Path) -> None:
    project, data, _ = make("classify")
    secret = "nobody told me that the green parcel with seven stamps would travel by way of Lisbon"
    other = "a letter of eleven pages about the weather in the north came back unopened on a Monday"
    table = pq.read_table(data.path / "examples.parquet")
    page = {"row_id": "page", "source": "a", "origin": "guide.md", "kind": "document", "split": "train"}
    page["text"] = f"A page begins. {secret.capitalize()}! And then {other}, it ends."
    more = pa.Table.from_pylist([page], schema=table.schema)
    copy = tmp_path / "data"
    copy.mkdir()
    pq.write_table(pa.concat_tables([table, more]), copy / "examples.parquet")
    file = tmp_path / "own.csv"
    plain = "".join(f"my refund {i} is late again today,refund\n" for i in range(30))
    file.write_text(f"text,label\n{secret},card\n{other},card\n{plain}")
    rows = tasks.from_file(project, Artifact(copy, data.manifest, reused=True), file)
    assert rows.given_away == {0, 1}
    assert measure.test_of(project, rows, ["card", "refund"]).near.flags[:3] == ["near", "near", None]


def test_a_condition_on_a_part_is_judged_by_the_rows_of_that_part(make: Make) -> None:
    project, data, model = make("classify", ("accuracy[length=long] >= 0.99", "accuracy[length=*] >= 0.001 @point"))
    made = run.run(project, data, model)
    lines = made.figures["verdict"]["lines"]
    table = pq.read_table(made.path / run.PREDICTIONS).to_pydict()
    assert lines[0]["status"] == "FAIL" and 0 < lines[0]["n"] < 80
    expanded = [line["criterion"] for line in lines[1:]]
    assert all(line.startswith("accuracy[length=") and "*" not in line for line in expanded) and len(expanded) >= 1
    assert sum(flag is not None for flag in table["near_train"]) == made.figures["overlap"]["near"]
    document = json.loads((made.path / run.METRICS).read_text())
    assert {part["column"] for part in document["slices"]} <= {"length", "label", "near_train", "channel"}


def test_rows_are_sliced_by_a_column_that_their_source_keeps(make: Make) -> None:
    project, data, model = make("classify", ("accuracy[channel=app] >= 0.99", "accuracy[channel=*] >= 0.001 @point"))
    made = run.run(project, data, model)
    document = json.loads((made.path / run.METRICS).read_text())
    by_value = {part["value"]: part["n"] for part in document["slices"] if part["column"] == "channel"}
    assert by_value == {"app": 50, "web": 30}
    lines = made.figures["verdict"]["lines"]
    assert [line["n"] for line in lines] == [50, 50, 30]
    assert '"channel":"web"' in (made.path / run.REPORT).read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("accuracy[lenght=long] >= 0.5", "can't be sliced by 'lenght', did you mean 'length'"),
        ("accuracy[length=lon] >= 0.5", "no test row has length = 'lon', did you mean 'long'"),
        ("accuracy[language=de] >= 0.5", "can't be sliced by 'language'"),
        ("accuracy[chanel=web] >= 0.5", "can't be sliced by 'chanel', did you mean 'channel'"),
        ("accuracy[channel=wbe] >= 0.5", "no test row has channel = 'wbe', did you mean 'web'"),
        ("latency_p95_ms[length=long] <= 5", "measured over all rows"),
        ("auroc >= champion", "can't be compared with the champion"),
        ("accuracy >= champoin", "neither a number nor baseline.NAME nor champion"),
    ],
)
def test_unknown_parts_and_opponents_are_errors_that_name_the_nearest(make: Make, line: str, message: str) -> None:
    project, data, model = make("classify", (line,))
    with pytest.raises(BadSetting, match=message):
        run.run(project, data, model)


def test_answers_are_written_out_and_compared(make: Make) -> None:
    made = make("chat")
    settings = made.project.settings
    answer = settings.model_copy(
        update={
            "objective": settings.objective.model_copy(update={"task": "answer", "accept": ("chrf <= 90",)}),
            "evaluate": settings.evaluate.model_copy(update={"answers": 3, "answer_tokens": 8}),
        }
    )
    found = run.run(config.Project(made.project.root, answer), made.data, made.model)
    assert found.figures["metrics"]["exact_match"]["n"] == 3
    assert found.figures["verdict"]["status"] == "PASS"
    assert "of 3 answers" in " ".join(found.figures["notes"])
    written = pq.read_table(found.path / run.PREDICTIONS)["answer"].to_pylist()
    assert sum(text is not None for text in written) == 3
