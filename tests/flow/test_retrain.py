"""The whole loop on real messages: serve, say what was wrong, accept, retrain, roll back. Small, and nothing faked."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shell import EXAMPLES, INTENTS, ask_here, here, served
from wyrmling import config
from wyrmling.core.errors import UsageError
from wyrmling.core.reviews import Reviews
from wyrmling.core.store import Store, Usage, folder_digest
from wyrmling.core.tables import Decided
from wyrmling.feedback.ratings import prompt_hash, prompt_text, rate
from wyrmling.flow import canary, drift, retrain, watch

# A few hundred test rows know little: wide margins, so that the test is about the loop.
LOOSE = """
[retrain]
margin = 0.2
slice_margin = 0.5
new_failures = 0.5
min_feedback = 40

[feedback]
regression_share = 0.2

[evaluate]
baselines = false
"""


def messages() -> list[tuple[str, str]]:
    """Real messages that the small project never saw: the official test file."""
    with (EXAMPLES / "support-desk" / "data" / "test.csv").open(newline="", encoding="utf-8") as handle:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(handle) if row["category"] in INTENTS]
    random.Random(0).shuffle(rows)
    return rows


@pytest.fixture
def folder(small_project: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "support-desk"
    shutil.copytree(small_project, copied)
    settings = copied / "wyrmling.toml"
    # Few passes do: what is tested is not how good the model gets.
    settings.write_text(settings.read_text().replace("epochs = 12", "epochs = 4") + LOOSE)
    return copied


def post(address: str, path: str, body: dict) -> dict:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def version(address: str) -> int:
    with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
        return json.load(answer)["version"]


def eventually(address: str, wanted: int) -> None:
    until = time.monotonic() + 30
    while version(address) != wanted:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_corrections_over_http_become_the_champion_and_one_command_goes_back(folder: Path) -> None:
    failures: list[Exception] = []
    stop = threading.Event()
    with served(folder, "support-desk") as address:
        for number, (text, label) in enumerate(messages()[:60]):
            user = f"user {number % 7}"
            answer = post(address, "/v1/classify", {"model": "support-desk", "input": text, "user": user})
            right = answer["data"][0]["label"] == label
            said = {"rating": "up"} if right else {"rating": "down", "correction": label}
            post(address, "/v1/feedback", {"id": answer["id"], "prompt": text, "user": user, **said})
        assert ask_here("feedback", "accept", "--all", "--project", folder)["counts"]["unused"] == 60

        def keep_asking() -> None:
            while not stop.is_set():
                try:
                    post(address, "/v1/classify", {"model": "support-desk", "input": "where is my card"})
                except Exception as error:
                    failures.append(error)
                stop.wait(0.05)

        asker = threading.Thread(target=keep_asking)
        asker.start()
        found = ask_here("retrain", "--project", folder)
        assert found["verdict"] == "PROMOTE", found
        assert found["model"] == "support-desk:2" and found["aliases"] == ["champion"]
        assert found["feedback"]["examples"] + found["feedback"]["regression"] == 60
        assert {c["name"] for c in found["conditions"]} >= {
            "macro_f1",
            "parts",
            "regressions",
            "feedback",
            "contamination",
        }
        eventually(address, 2)
        assert ask_here("models", "rollback", "--project", folder)["version"] == 1
        eventually(address, 1)
        stop.set()
        asker.join()
        assert failures == []
        post(address, "/v1/classify", {"model": "support-desk", "input": "where is my card"})

    # The same again changes nothing: the decision was taken, and a person went back since.
    again = here("retrain", "--project", folder)
    assert "support-desk:2 was promoted before" in again.stdout
    waiting = here("retrain", "--when-needed", "--project", folder)
    assert "not needed: 0 of 40" in waiting.stdout
    with closing(Store.open(config.load(folder).database_url)) as store:
        assert store.resolve("support-desk").version == 1
        digests = [usage.model_digest for usage in store.usage()]
        assert {digests[0], digests[-1]} == {store.resolve("support-desk:1").digest}
        # Lineage: from a row that was learned to the answer it came from.
        (file,) = (folder / "runs" / "feedback").glob("*/examples.jsonl")
        line = json.loads(file.read_text().splitlines()[0])
        assert store.find_usage(line["answer_id"]) is not None
        why = ask_here("data", "why", f"{file.relative_to(folder).as_posix()}:1", "--project", folder)
        assert why is not None


def say(project: config.Project, wrong: float) -> None:
    """Feedback on answers of the champion, accepted; a share of it names another label than the right one."""
    draw = random.Random(1)
    with closing(Store.open(project.database_url)) as store:
        champion = store.resolve("support-desk")
        for number, (text, label) in enumerate(messages()[:80]):
            prompt = prompt_text([text])
            answer_id = f"cls-{number}"
            row = (answer_id, "classify", "support-desk", champion.digest, 5, 0, 1.0, 0.0, "stop", prompt_hash(prompt))
            store.add_usage(Usage(*row, prompt=prompt, labels=[label]))
            others = [other for other in INTENTS if other != label]
            rate(store, answer_id, correction=draw.choice(others) if draw.random() < wrong else label)
        reviews = Reviews(store)
        reviews.decide([said.feedback.id for said in reviews.find()], "accepted")


def test_a_watch_trains_from_the_champion_and_holds_wrong_corrections(folder: Path) -> None:
    settings = folder / "wyrmling.toml"
    settings.write_text(settings.read_text().replace("[retrain]", '[retrain]\nstart = "champion"'))
    project = config.load(folder)
    say(project, wrong=0.6)
    command = [sys.executable, "-m", "wyrmling", "retrain", "--watch", "--poll", "0.2", "--project", str(folder)]
    watching = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with closing(Store.open(project.database_url)) as store:
        until = time.monotonic() + 200
        while not (decisions := Reviews(store).decisions("support-desk")):
            assert watching.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        # Nothing calls for a second one.
        time.sleep(1.0)
        watching.terminate()
        _, told = watching.communicate(timeout=30)
        assert Reviews(store).decisions("support-desk") == decisions
        (decided,) = decisions
        assert (decided.verdict, decided.version, decided.champion) == ("HOLD", 2, 1)
        assert "support-desk:1 stays the champion; feedback:" in decided.why
        assert any(line.startswith("FAIL") and " feedback:" in line for line in decided.lines)
        assert store.resolve("support-desk").version == 1
        assert Reviews(store).counts()["unused"] == 0
    assert "training again: 80 accepted feedback" in told and "training starts from support-desk:1" in told


def test_the_champion_gives_the_scores_it_was_registered_with(folder: Path) -> None:
    project = config.load(folder)
    with closing(Store.open(project.database_url)) as store:
        champion = store.resolve("support-desk")
    again = drift.replayed(project, champion)
    assert not again.alarm and again.current == pytest.approx(champion.metrics["macro_f1"])
    other = replace(champion, metrics={"macro_f1": champion.metrics["macro_f1"] - 0.01})
    assert drift.replayed(project, other).alarm


def test_a_trunk_that_is_asked_for_must_be_there(folder: Path) -> None:
    project = config.load(folder, ["retrain.start=trunk"])
    with closing(Store.open(project.database_url)) as store:
        champion = store.resolve("support-desk")
    start = retrain.start_of(project, champion)
    shutil.rmtree(start.folder.parent)
    with pytest.raises(UsageError, match="support-desk:1 has no trunk here"):
        retrain.start_of(project, champion)
    assert retrain.start_of(config.load(folder), champion).folder == champion.path


def test_frozen_rows_are_in_no_training_row(folder: Path) -> None:
    import pyarrow.parquet as pq

    project = config.load(folder)
    say(project, wrong=0.0)
    with closing(Store.open(project.database_url)) as store:
        from wyrmling.feedback import collect

        feedback = collect.run(project, Reviews(store).find(status="accepted"))
        start = retrain.start_of(project, store.resolve("support-desk"))
    assert start.trunk and start.folder.parent.name.startswith("pretrain-") and "trunk of support-desk:1" in start.why
    mixed = retrain.mixed_project(project, feedback)
    assert [step.sources for step in mixed.steps] == [None, ("tickets", retrain.SOURCE)]
    from wyrmling.data import run as data

    rows = pq.read_table(data.run(mixed).path / "examples.parquet").to_pylist()
    learned = {row["text"] for row in rows if row["source"] == retrain.SOURCE}
    frozen = {json.loads(line)["text"] for line in (feedback.path / collect.REGRESSION).read_text().splitlines()}
    assert learned and frozen and not learned & frozen
    assert {row["split"] for row in rows if row["source"] == retrain.SOURCE} == {"train"}


def test_with_a_canary_the_challenger_waits_for_its_answers(folder: Path) -> None:
    project = config.load(folder, ["serve.canary=0.2", "retrain.canary_answers=20"])
    with closing(Store.open(project.database_url)) as store:
        champion = store.resolve("support-desk")
        # The pretrained trunk stands for a challenger: only its digest matters here.
        trunk = retrain.start_of(project, champion).folder
        digest = folder_digest(trunk)
        store.register_model("support-desk", trunk, digest, {}, "PASS")
        reviews = Reviews(store)
        reviews.log(Decided("support-desk", "PROMOTE", 2, 1, "better", []))

        def answer(model: str, count: int, minded: int) -> None:
            for number in range(count):
                name = f"cls-{model[:4]}-{len(store.usage())}"
                store.add_usage(Usage(name, "classify", "support-desk", model, 1, 0, 1.0, 0.0, "stop", "0"))
                if number < minded:
                    rate(store, name, rating="down")

        answer(champion.digest, 80, 4)
        answer(digest, 10, 0)
        assert canary.judge(project)[2] == 4
        assert watch._on_trial(project)
        answer(digest, 15, 15)
        document, text, code = canary.judge(project)
        assert (code, document["verdict"]) == (3, "HOLD") and "60.0% of 25 were minded" in text
        assert "challenger" not in store.pointed("support-desk")
        store.challenge("support-desk:2")
        reviews.log(Decided("support-desk", "PROMOTE", 2, 1, "again", []))
        answer(champion.digest, 80, 4)
        answer(digest, 40, 2)
        assert canary.judge(project)[2] == 0
        assert store.resolve("support-desk").version == 2
        assert [one.verdict for one in reviews.decisions("support-desk")][-1] == "PROMOTE"


def test_what_calls_for_another_training(folder: Path) -> None:
    project = config.load(folder)
    assert watch.reasons(project) == []
    say(project, wrong=0.0)
    assert "80 accepted feedback that no training has used" in watch.reasons(project)[0]
    with closing(Store.open(project.database_url)) as store:
        reviews = Reviews(store)
        reviews.mark_used([said.feedback.id for said in reviews.find()], "x")
        reviews.keep_drift("drift", {"alarms": ["labels"]})
    assert [reason.split(":")[0] for reason in watch.reasons(project)] == ["drift was found at " + _hour(0)]
    long_ago = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    assert watch.period("7d") < datetime.now(UTC) - datetime.fromisoformat(long_ago)
    every = watch.with_period(project, "1h")
    assert not any("older than" in reason for reason in watch.reasons(every))
    with closing(Store.open(project.database_url)) as store, store.writing() as connection:
        from wyrmling.core import tables

        connection.execute(tables.models.update().values(created=long_ago))
    assert any("older than 1h" in reason for reason in watch.reasons(every))


def _hour(hours: int) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).isoformat()[:13]
