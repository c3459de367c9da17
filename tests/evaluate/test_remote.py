"""A model behind an API as a rung: consent, price, retries, answers that are none. The server is our own, or a fake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluate.chat_server import fake, said
from evaluate.conftest import Made, Make
from shell import served
from wyrmling.config import Project
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.evaluate import chat_api, remote
from wyrmling.flow import ladder
from wyrmling.model import folder, probes
from wyrmling.model.heads import Model
from wyrmling.tokenizer.tokenizer import Tokenizer

PRICES = {"usd_per_million_input": 1.0, "usd_per_million_output": 2.0}


def right(body: dict[str, Any], _: int) -> tuple[int, Any]:
    """The right label: each text names the thing that is its label."""
    labels = ("card", "refund", "account", "transfer")
    return said("It is: " + next(label for label in labels if label in body["messages"][-1]["content"]).upper() + ".")


def asking(made: Made, url: str, **more: Any) -> Project:
    settings = made.project.settings
    asked = settings.evaluate.remote.model_copy(update={"url": url, "model": "big", **PRICES, **more})
    evaluate = settings.evaluate.model_copy(update={"remote": asked, "resamples": 100})
    return Project(made.project.root, settings.model_copy(update={"evaluate": evaluate}))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait between two tries."""
    monkeypatch.setattr(chat_api, "MOST_WAIT_SECONDS", 0.0)


def test_nothing_is_sent_without_consent_to_the_price(make: Make) -> None:
    with fake(right) as (url, seen):
        project = asking(make("classify"), url)
        found, _ = ladder.run(project, ["majority", "remote"])
        (left,) = found.left_out
        assert "80 test rows" in left.reason and "allow that with --spend" in left.reason and seen == []
        found, _ = ladder.run(project, ["majority", "remote"], ladder.Remote(usd=0.000001))
        assert found.left_out[0].name == "remote" and seen == []


def test_answers_count_with_their_price_and_are_asked_for_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with fake(right) as (url, seen):
        project = asking(make("classify"), url)
        found, _ = ladder.run(project, ["majority", "remote"], ladder.Remote(usd=1.0))
        line = next(line for line in found.lines if line.rung.name == "remote")
        assert line.quality.value == 1.0 and len(seen) == 80
        assert line.rung.measured["usd_per_1k"].value == pytest.approx(1000 * (100 + 2 * 10) / 1e6, rel=0.05)
        ladder.run(project, ["majority", "remote"], ladder.Remote(usd=1.0))
        assert len(seen) == 80
    assert seen[0]["path"] == "/v1/chat/completions" and seen[0]["key"] == "Bearer secret-key"
    turns = seen[0]["messages"]
    assert turns[0]["role"] == "system" and "card" in turns[0]["content"] and len(turns) == 1 + 2 * 8 + 1
    written = "".join(path.read_text(errors="replace") for path in project.runs.glob("ladder/*/*.json"))
    assert "secret-key" not in written


def test_passing_faults_are_tried_again_and_nonsense_is_wrong(make: Make) -> None:
    def answer(body: dict[str, Any], n: int) -> tuple[int, Any]:
        if n == 1:
            return 503, {}
        if n == 3:
            return 200, {"nothing": "of use"}
        return said("no idea") if n % 2 else right(body, n)

    with fake(answer) as (url, seen):
        project = asking(make("classify"), url, at_once=1, examples=0)
        made = remote.run(project, make("classify").data, limit_usd=1.0)
    assert len(seen) == 82
    assert 0.3 < made.figures["metrics"]["accuracy"]["value"] < 0.7
    assert "name no label" in made.figures["notes"][0]


def test_a_server_that_refuses_or_never_answers_is_one_error(make: Make) -> None:
    made = make("classify")
    with fake(lambda body, n: (401, {"error": "bad key"})) as (url, seen):
        with pytest.raises(BadInput, match=r"status 401.*bad key"):
            remote.run(asking(made, url, examples=1), made.data, limit_usd=1.0)
        assert len(seen) == 1
    with fake(lambda body, n: (500, {})) as (url, _), pytest.raises(BadInput, match="none of 80 requests was answered"):
        remote.run(asking(made, url, examples=2), made.data, limit_usd=1.0)
    assert not list(made.project.runs.glob("ladder/.remote*.work"))


def test_it_stops_when_the_money_is_spent_and_without_prices_it_does_not_start(make: Make) -> None:
    made = make("classify")
    with fake(right) as (url, seen):
        with pytest.raises(BadInput, match="were spent after"):
            remote.run(asking(made, url, examples=3), made.data, limit_usd=0.001)
        assert len(seen) < 80
        with pytest.raises(BadSetting, match="not known"):
            remote.estimate(asking(made, url, usd_per_million_input=None), made.data)


def roomy(made: Made, path: Path) -> Path:
    """The chat model with a context that holds a prompt, as the server takes it."""
    small = folder.load(made.model)
    model = Model(replace(small.config, context=1024), "next", seed=None)
    model.load_state_dict(small.state_dict())
    about = folder.About(task="chat", head="next", context=1024, objective="sft", chat=True)
    folder.save(model.eval(), path, made.model, about)
    probes.record(model, Tokenizer.load(path), ["what is 1 plus one?"], path)
    return path


def test_our_own_server_is_a_rung(make: Make, tmp_path: Path) -> None:
    """Random weights say nonsense, and that is what the table says."""
    talker, desk = make("chat"), make("classify")
    free = {"usd_per_million_input": 0.0, "usd_per_million_output": 0.0, "examples": 0, "at_once": 2}
    model = roomy(talker, tmp_path / "teller")
    with served(talker.project.root, str(model)) as url:
        project = asking(desk, f"{url}/v1", model="teller", **free)
        found = remote.run(project, desk.data, limit_usd=0.0)
    assert found.figures["rows"] == 80 and found.figures["usd"] == 0
    assert found.figures["metrics"]["latency_p50_ms"]["value"] > 0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Lost card.", "lost_card"),
        ("the label is card", "card"),
        ("lost_card", "lost_card"),
        ("card or refund", None),
        ("discard", None),
        ("", None),
    ],
)
def test_the_label_in_an_answer(text: str, label: str | None) -> None:
    assert remote.label_in(text, ["card", "lost_card", "refund"]) == label
