"""Training behind an API: price, consent, one job however often it is killed, the verdict. The provider is our own."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.conftest import Kitchen, Running, running
from wyrmling import config
from wyrmling.config import Project, Serve
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.core.jobs import Jobs
from wyrmling.core.store import Store
from wyrmling.evaluate import chat_api, remote_model, tasks
from wyrmling.flow import models, remote_plan, run, stages
from wyrmling.serve.loaded import find
from wyrmling.train import remote

TOPICS = {"card": ("lost", "blocked", "new"), "refund": ("money", "return", "wait"), "tea": ("green", "black", "hot")}
WORDS = (
    "river",
    "stone",
    "moon",
    "apple",
    "forest",
    "lamp",
    "cloud",
    "song",
    "boat",
    "garden",
    "bird",
    "paper",
    "chair",
)
PROVIDER = 'name = "provider"\n[objective]\ntask = "chat"\n[data.sources.all]\npath = "*.jsonl"\n'
DESK = """
name = "desk"
[objective]
task = "classify"
accept = ["accuracy >= 0.2"]
[data.sources.tickets]
path = "tickets.jsonl"
text = "text"
label = "team"
[data.split]
test = 0.2
val = 0.1
[evaluate]
resamples = 100
[model]
base = "openai:caller"
[model.remote]
url = "{url}"
key = "DESK_KEY"
usd_per_million_training = 1000.0
[[train]]
name = "tune"
objective = "classify"
epochs = 4
"""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of ours that takes fine-tuning jobs for a small chat model."""
    root = tmp_path_factory.mktemp("provider")
    (root / "wyrmling.toml").write_text(PROVIDER)
    project = config.load(root)
    store = Store.open(project.database_url)
    folder = Kitchen(root).model("caller", "next", chat=True, seed=1, context=1024)
    with running(find(folder, store), store, Serve(), project=project) as server:
        yield server


def desk(folder: Path, url: str, *, each: int = 30) -> Project:
    """Texts of three topics, no two alike. each: of one topic"""
    draw = random.Random(0)
    rows = [
        {"text": f"{draw.choice(words)} {topic} {' '.join(draw.choices(WORDS, k=6))}", "team": topic}
        for topic, words in TOPICS.items()
        for _ in range(each)
    ]
    (folder / "tickets.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "wyrmling.toml").write_text(DESK.format(url=url))
    return config.load(folder)


def rows_of(data: Artifact, split: str) -> int:
    return len(tasks.read_split(data, "classify", split))


def jobs_of(server: Running) -> list[str]:
    workshop = server.service.need_workshop()
    return [job.id for job in Jobs(workshop.jobs.store).page(None, after=None, limit=100, metadata={})[0]]


def test_a_killed_training_follows_its_one_job_to_a_verdict(
    provider: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    project = desk(tmp_path, f"{provider.address}/v1")
    document, text = remote_plan.answer(project)
    assert document["remote"]["training_usd"] > 0 and "x 4 epochs at $1000 per million" in text
    with pytest.raises(UsageError, match=r"training openai:caller would send .* cost about \$"):
        run.run(project)
    assert provider.get("/v1/files").json()["data"] == [] and jobs_of(provider) == []

    command = [sys.executable, "-m", "wyrmling", "train", "--project", str(tmp_path), "--spend", "100"]
    training = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "runs" / "train"
    while not any(json.loads(file.read_text())["job"] for file in state.glob(".tune-*.work/job.json")):
        assert training.poll() is None, training.stderr
        time.sleep(0.02)
    training.send_signal(signal.SIGTERM)
    assert "goes on, and so does its price" in training.communicate()[1] and training.returncode == 75
    (job,) = jobs_of(provider)
    again = subprocess.Popen(command[:-2], stderr=subprocess.PIPE, text=True)
    assert again.stderr is not None
    assert any(f"following the job {job}" in line for line in again.stderr)
    again.kill()
    again.communicate()

    # The price was agreed to before the job; what asking costs on this machine is nothing, but has to be agreed to.
    trained = stages.train(project)
    with pytest.raises(UsageError, match=r"asking .* would send"):
        stages.evaluate(project)
    done = run.run(project, limit_usd=0.0)
    assert jobs_of(provider) == [job]
    found = json.loads((trained[0].path / "model" / "remote.json").read_text())
    theirs = provider.get(f"/v1/fine_tuning/jobs/{job}").json()
    assert (found["job"], found["model"], found["tokens"]) == (
        job,
        theirs["fine_tuned_model"],
        theirs["trained_tokens"],
    )
    assert theirs["hyperparameters"]["n_epochs"] == 4 and theirs["validation_file"]
    assert found["usd"] == pytest.approx(found["tokens"] / 1000) and trained[0].cost["usd"] >= found["usd"]
    assert {"accuracy", "macro_f1", "latency_p50_ms"} <= set(done.evaluation.figures["metrics"])
    assert set(done.evaluation.figures["baselines"]) >= {"majority", "tfidf"}
    assert done.evaluation.figures["rows"] == rows_of(done.data, "test") > 10
    assert f"{found['model']} behind" in done.text() and done.evaluation.figures["paid_usd"] == 0
    listed, line = models.listing(project)
    assert listed["models"][0]["remote"] and "(remote)" in line and done.decision.record.version == 1
    with pytest.raises(UsageError, match="its weights are not here") as refused:
        models.resolve(project, "desk:1")
    assert f"--engine {provider.address}" in str(refused.value.fix)

    content = provider.get(f"/v1/files/{theirs['training_file']}/content").text.splitlines()
    talks = [json.loads(row)["messages"] for row in content]
    assert len(talks) == rows_of(done.data, "train")
    assert all([one["role"] for one in talk] == ["user", "assistant"] for talk in talks)
    assert all(talk[1]["content"] in talk[0]["content"] for talk in talks), "the label is the answer"


def test_a_job_that_fails_says_why_and_the_next_one_asks_again(provider: Running, tmp_path: Path) -> None:
    project, before = desk(tmp_path, f"{provider.address}/v1", each=4), jobs_of(provider)
    with pytest.raises(BadInput, match=r"has failed: .* at least 10"):
        stages.train(project, limit_usd=100.0)
    with pytest.raises(UsageError, match="cost about"):
        stages.train(project)
    assert len(jobs_of(provider)) == len(before) + 1


def test_answers_of_a_model_behind_an_api_are_compared_in_words(provider: Running, tmp_path: Path) -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=8)) for _ in range(50)]
    rows = [{"prompt": text, "response": f"{text} tea"} for text in texts]
    (tmp_path / "talks.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "wyrmling.toml").write_text(
        'name = "talks"\n[objective]\ntask = "answer"\naccept = ["token_f1 >= 0.9"]\n[data.sources.all]\n'
        'path = "talks.jsonl"\nprompt = "prompt"\nresponse = "response"\n'
        "[data.split]\ntest = 0.4\n[evaluate]\nanswers = 6\nanswer_tokens = 8\nresamples = 100\n"
        f'[model]\nbase = "openai:caller"\nremote = {{ url = "{provider.address}/v1" }}\n'
    )
    model = tmp_path / "theirs"
    model.mkdir()
    about = {"url": f"{provider.address}/v1", "model": "caller", "base": "openai:caller"}
    (model / "remote.json").write_text(json.dumps(about | {"job": "ftjob-1", "tokens": 0, "usd": 0.0}))
    made = stages.evaluate(config.load(tmp_path), str(model), limit_usd=0.0)
    assert (made.figures["main"], made.figures["rows"], made.figures["verdict"]["status"]) == ("token_f1", 6, "FAIL")
    assert (
        made.figures["metrics"]["token_f1"]["n"] == 6 and "token_f1" in made.figures["baselines"]["bm25"]["difference"]
    )


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (["train.tune.method=lora"], "train.tune.method"),
        (["train.tune.epochs=1.5"], "train.tune.epochs"),
        (["model.layers=2"], "model.layers"),
        (["model.remote.url=https://api.example.com/v1", "model.remote.usd_per_million_training="], "model.remote"),
        (['objective.accept=["log_loss <= 1"]'], "objective.accept"),
    ],
)
def test_what_an_api_cannot_do_is_refused_before_anything_is_sent(
    tmp_path: Path, settings: list[str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_api.Api, "_send", None)
    project = desk(tmp_path, "http://127.0.0.1:1/v1")
    if settings[0].startswith("model.remote.url"):
        (tmp_path / "wyrmling.toml").write_text(
            DESK.replace("usd_per_million_training = 1000.0\n", "").format(url="https://api.example.com/v1")
        )
        project = config.load(tmp_path)
    else:
        project = project.with_settings(settings)
    with pytest.raises(BadSetting) as refused:
        stages.train(project, limit_usd=9.0)
    assert where in str(refused.value.where)


def test_an_address_of_another_machine_is_not_free(tmp_path: Path) -> None:
    project = desk(tmp_path, "https://api.example.com/v1")
    assert remote.price(project, 1000, 10).usd == pytest.approx(4.0)
    assert [remote_model.cents(usd) for usd in (0.0, 0.0149, 0.02)] == ["0.00", "0.02", "0.02"]
    with pytest.raises(BadSetting, match="what the remote model costs is not known"):
        run.run(project, limit_usd=100.0)
