"""Models to start from: the shipped table agrees with itself, and the order follows from forecasts and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shell import ask_here
from wyrmling import config
from wyrmling.core.errors import UsageError
from wyrmling.flow import suggest
from wyrmling.model.design import FAMILIES

ROWS = "text,label\n" + "".join(
    f"I lost card {i} and need a new one,card\nwhere is transfer {i},money\n" for i in range(60)
)


@pytest.fixture
def project(tmp_path: Path) -> Any:
    (tmp_path / "rows.csv").write_text(ROWS, encoding="utf-8")
    text = """
name = "desk"
[objective]
task = "classify"
[data.sources.a]
path = "rows.csv"
text = "text"
label = "label"
[machine]
dtype = "float32"
[[train]]
name = "tune"
objective = "classify"
"""
    (tmp_path / "wyrmling.toml").write_text(text, encoding="utf-8")
    return lambda *overrides: config.load(tmp_path, overrides)


@pytest.mark.parametrize("model", suggest.table()[1], ids=lambda model: model.id)
def test_a_row_of_the_table_agrees_with_itself(model: suggest.OpenModel) -> None:
    """The sizes give the number of parameters that the model's page states, less norms, biases and positions."""
    assert model.parameters == pytest.approx(model.shape.parameters, rel=0.02)
    assert model.shape.parameters <= model.parameters
    assert FAMILIES[model.family].causal == (model.kind == "decoder")
    assert model.languages and model.context >= 512


def test_no_model_is_named_twice() -> None:
    date, models = suggest.table()
    assert len({model.id for model in models}) == len(models)
    assert date >= "2026-11-23"


def test_those_that_fit_come_first_the_largest_first(project: Any) -> None:
    found = suggest.suggest(project())
    assert {one.model.kind for one in found} == {"encoder"}
    fitting = [one for one in found if not one.against]
    assert found[: len(fitting)] == fitting
    sizes = [one.model.parameters for one in fitting]
    assert sizes == sorted(sizes, reverse=True)
    others = [one.forecast.minutes.value for one in found[len(fitting) :]]
    assert others == sorted(others)


def test_a_limit_speaks_against_those_that_exceed_it_and_no_others(project: Any) -> None:
    minutes = sorted(one.forecast.minutes.value for one in suggest.suggest(project()))
    limit = (minutes[3] + minutes[4]) / 2 / 60
    for one in suggest.suggest(project(f"objective.budget.hours={limit}")):
        assert any("hours, the budget is" in reason for reason in one.against) == (
            one.forecast.minutes.value / 60 > limit
        )
    for one in suggest.suggest(project("objective.budget.memory_gb=0.001")):
        assert "0.0 are there" in one.against[0]
    lora = {one.model.id: one for one in suggest.suggest(project("model.base=any/one", "train.tune.method=lora"))}
    for one in suggest.suggest(project()):
        assert lora[one.model.id].forecast.memory_gb.value < one.forecast.memory_gb.value


def test_rows_longer_than_a_model_reads_speak_against_it(project: Any, tmp_path: Path) -> None:
    long = "card " * 4000
    (tmp_path / "rows.csv").write_text("text,label\n" + f"{long},card\n{long} x,money\n" * 20, encoding="utf-8")
    found = {one.model.id: one for one in suggest.suggest(project())}
    assert "reads 512 tokens at once" in found["google-bert/bert-base-uncased"].against[-1]
    assert not any("at once" in reason for reason in found["answerdotai/ModernBERT-base"].against)


def test_task_licence_and_language_choose(project: Any) -> None:
    writing = suggest.suggest(project("objective.task=complete", "train.tune.objective=causal"))
    assert all(one.model.kind == "decoder" and not one.model.chat for one in writing)
    assert {"llama3.2", "apache-2.0"} <= {one.model.licence for one in writing}
    free = suggest.suggest(project("objective.task=complete", "train.tune.objective=causal"), permissive=True)
    assert {one.model.licence for one in free} <= set(suggest.PERMISSIVE)
    german = suggest.suggest(project(), language="de")
    assert german and all("many" in one.model.languages or "de" in one.model.languages for one in german)
    assert len(german) < len(suggest.suggest(project()))


def test_nothing_left_is_an_error(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "PERMISSIVE", ())
    with pytest.raises(UsageError, match="no known model does 'classify'"):
        suggest.suggest(project(), permissive=True)


def test_the_verb_prints_one_document(project: Any) -> None:
    document = ask_here("models", "suggest", "--permissive", "--project", project().root)
    first = document["models"][0]
    assert document["table"] == suggest.table()[0]
    assert {
        "id",
        "licence",
        "minutes",
        "memory_gb",
        "usd",
        "kwh",
        "kg_co2",
        "fits",
        "against",
        "download_gb",
    } <= first.keys()
    assert document["best"] in {None, first["id"]}
