"""Fine-tuning jobs: through the official client from file to model, and through pauses, kills and restarts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shell import ROOT
from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.errors import WyrmlingError
from wyrmling.core.jobs import Jobs
from wyrmling.core.store import Store
from wyrmling.core.tables import File, Job
from wyrmling.core.uploads import Uploads
from wyrmling.serve import job_project
from wyrmling.serve.foreman import MAX_ATTEMPTS, Foreman
from wyrmling.serve.processes import is_alive
from wyrmling.serve.training_files import convert
from wyrmling.serve.workshop import Workshop, keep_file

WORDS = ("tea", "dragon", "hill", "cake", "river", "stone", "moon", "apple", "forest", "lamp", "cloud", "song", "boat")


@pytest.fixture
def project(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "wyrmling.toml").write_text(
        f'name = "desk"\ndatabase = "{database}"\n[objective]\ntask = "chat"\naccept = ["bpb <= 100"]\n'
        '[data.sources.all]\npath = "*.jsonl"\n[machine]\nusd_per_hour = 36.0\nwatts = 50.0\n'
    )
    return config.load(tmp_path)


def chats(count: int) -> bytes:
    def words(number: int) -> str:
        return " ".join(WORDS[(number * 7 + step * (number % 5 + 1)) % len(WORDS)] for step in range(4 + number % 6))

    rows = [[("user", f"{words(i)} {i}"), ("assistant", words(i * 3 + 1))] for i in range(count)]
    return b"\n".join(json.dumps({"messages": [{"role": r, "content": c} for r, c in row]}).encode() for row in rows)


def wait(check: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


# Where scripts/setup puts older majors of the official client; the newest is installed.
CLIENTS = {3: None, 1: ".venv/openai-1.109.1", 2: ".venv/openai-2.54.0"}


def converse(address: str, major: int, *job: str) -> str:
    """Run the conformance script with a major of the client; the id of its job."""
    folder = CLIENTS[major]
    found = {} if folder is None else {"PYTHONPATH": str(ROOT / folder)}
    command = [sys.executable, str(Path(__file__).with_name("conformance.py")), f"{address}/v1", "caller", *job]
    done = subprocess.run(command, env={**os.environ, **found}, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    version, _, made = done.stdout.rstrip().partition(": ok ")
    assert version.startswith(f"openai {major}.") and made.startswith("ftjob-")
    return made


def test_the_official_client_takes_a_file_to_a_model_that_answers(start, kitchen, project) -> None:
    store = Store.open(project.database_url)
    with start(
        kitchen.model("caller", "next", chat=True, seed=1, context=1024), project=project, store=store
    ) as server:
        made = converse(server.address, 3, "new")
        assert converse(server.address, 1, made) == made
        preferred = converse(server.address, 2)
        job = Jobs(store).find(made)
        tuned = store.resolve(job.registered)
        assert (tuned.verdict, tuned.aliases) == ("PASS", ("champion",)), "the project's own condition was met"
        assert "bpb" in tuned.metrics
        usage = {row.model: row for row in store.usage()}
        assert usage["caller"].model_digest != usage[f"ft:caller:desk:tea:{job.id[-8:]}"].model_digest == tuned.digest
        # 36 dollars an hour is a cent a second.
        assert job.usd > 0.01
        folder = project.root / "jobs" / job.id
        assert (folder.stat().st_mode & 0o777, (project.root / "files").stat().st_mode & 0o777) == (0o700, 0o700)
        settings = config.load(folder).settings
        assert (settings.seed, settings.train[0].epochs, settings.machine.usd_per_hour) == (7, 3.0, 36.0)
        assert settings.train[0].lr and settings.train[0].batch_tokens
        (step,) = config.load(project.root / "jobs" / preferred).settings.train
        assert (step.objective, step.preference.loss, step.preference.beta) == ("preference", "dpo", 0.5)


def test_a_job_outlives_the_server_and_its_worker(start, kitchen, project) -> None:
    store = Store.open(project.database_url)
    jobs = Jobs(store)
    folder = kitchen.model("talker", "next", chat=True, seed=1)
    with start(folder, project=project, store=store) as server:
        client = server.client()
        file = client.files.create(file=("tea.jsonl", chats(60)), purpose="fine-tune").id
        made = client.fine_tuning.jobs.create(model="talker", training_file=file, hyperparameters={"n_epochs": 200})
        wait(lambda: steps(jobs, made.id) or jobs.find(made.id).over)
        assert client.fine_tuning.jobs.pause(made.id).status == "running", "the API has no word for paused"
        wait(lambda: jobs.find(made.id).state == "paused")
        assert not is_alive(jobs.find(made.id).worker)
        done = max(steps(jobs, made.id))
        client.fine_tuning.jobs.resume(made.id)
        wait(lambda: is_alive(jobs.find(made.id).worker))
    worker = jobs.find(made.id).worker
    assert is_alive(worker), "stopping the server does not stop the job"
    wait(lambda: max(steps(jobs, made.id)) > done)
    os.kill(int(worker.partition(":")[0]), signal.SIGKILL)
    wait(lambda: not is_alive(worker))
    killed_at = max(steps(jobs, made.id))
    with start(folder, project=project, store=store) as server:
        wait(lambda: max(steps(jobs, made.id)) > killed_at)
        assert jobs.find(made.id).attempts >= 2
        server.client().fine_tuning.jobs.cancel(made.id)
        wait(lambda: jobs.find(made.id).state == "cancelled")
    found = steps(jobs, made.id)
    assert len(found) == len(set(found)), "no step is reported twice"
    messages = [event.message for event in jobs.events(made.id, limit=1000)[0]]
    assert messages[0] == "Fine-tuning job cancelled"
    assert messages.count("The job is paused; its work so far is saved") == 1
    assert jobs.find(made.id).usd > 0, "what was done so far is paid for"
    assert store.list_models() == []


def steps(jobs: Jobs, job_id: str) -> list[int]:
    """The steps whose loss was reported."""
    events, _ = jobs.events(job_id, limit=1000)
    return [event.data["step"] for event in events if event.data and "train_loss" in event.data]


def test_a_post_that_is_sent_again_makes_nothing_new(start, kitchen, project, database_url) -> None:
    store = Store.open(database_url)
    with start(kitchen.model("talker", "next", chat=True, seed=1), project=project, store=store) as server:
        again = {"x-stainless-retry-count": "1"}
        form = {"files": {"file": ("tea.jsonl", chats(3))}, "data": {"purpose": "fine-tune"}}
        file = server.post("/v1/files", **form).json()
        assert server.post("/v1/files", headers=again, **form).json() == file
        assert server.post("/v1/files", **form).json()["id"] != file["id"]
        body = {"model": "talker", "training_file": file["id"]}
        job = server.post("/v1/fine_tuning/jobs", body).json()
        repeated = server.post("/v1/fine_tuning/jobs", body, headers=again).json()
        assert repeated["id"] == job["id"]
        wait(lambda: server.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["status"] == "failed")
        error = server.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["error"]
        assert error["code"] == "invalid_training_file" and "3 examples, but at least 10" in error["message"]


def test_a_job_whose_process_dies_every_time_is_given_up(project) -> None:
    workshop = Workshop(project, Store.open(project.database_url))
    workshop.jobs.add(Job("ftjob-00000001", None, {"model": "m"}, "/nowhere", worker="1:0.0", attempts=MAX_ATTEMPTS))
    workshop.jobs.add(Job("ftjob-00000002", None, {"model": "m"}, "/nowhere", wanted="cancel"))
    foreman = Foreman(workshop, at_once=1)
    foreman.start()
    wait(lambda: not workshop.jobs.unfinished(), seconds=20)
    foreman.stop()
    lost, cancelled = workshop.jobs.find("ftjob-00000001"), workshop.jobs.find("ftjob-00000002")
    assert (lost.state, lost.error["code"], cancelled.state) == ("failed", "worker_lost", "cancelled")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'"\xff"', "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b'{"text": "tea"}', 'neither "messages" nor "prompt"'),
        (b'{"prompt": "tea", "completion": " "}', 'neither "messages" nor "prompt"'),
        (b'{"messages": "tea"}', "not a list"),
        (b'{"messages": [{"role": "king", "content": "tea"}]}', r"messages\[0\]\.role"),
        (b'{"messages": [{"role": "user", "content": 5}]}', r"messages\[0\]\.content is not a text"),
        (b'{"messages": [{"role": "user", "content": " "}]}', "is empty"),
        (b'{"messages": [{"role": "user", "content": "tea"}]}', "last message is not the assistant's"),
        (b'{"messages": [{"role": "assistant", "content": "tea", "weight": 0}]}', "weight"),
        (b'{"input": {}, "preferred_output": []}', "preference pair"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: bytes, why: str) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b'{"prompt": "a", "completion": "b"}\n\n' + line + b"\n")
    with pytest.raises(WyrmlingError, match=f"line 3: .*{why}"):
        convert(upload, tmp_path / "rows", "conversation")


def pair(better: object, worse: object, **asked: object) -> bytes:
    question = {"messages": [{"role": "user", "content": "tea?"}], **asked}
    sides = {
        name: [{"role": "assistant", "content": text}] if isinstance(text, str) else text
        for name, text in (("preferred_output", better), ("non_preferred_output", worse))
    }
    return json.dumps({"input": question, **sides}).encode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"prompt": "a", "completion": "b"}', "not a preference pair"),
        (pair("yes", "yes"), "the same"),
        (pair("yes", []), '"non_preferred_output" is not a list'),
        (pair([{"role": "user", "content": "yes"}], "no"), "preferred_output is not one message of the assistant"),
        (pair([{"role": "assistant", "content": "a"}] * 2, "no"), "preferred_output is not one message"),
        (pair("yes", "no", tools=[{"type": "function"}]), "input.tools"),
        (pair("yes", "no", messages=[]), '"input.messages" is not a list'),
    ],
)
def test_a_wrong_pair_is_named(tmp_path: Path, line: bytes, why: str) -> None:
    upload, rows = tmp_path / "upload", tmp_path / "rows"
    upload.write_bytes(pair("yes", "no") + b"\n\n" + line + b"\n")
    with pytest.raises(WyrmlingError, match=f"line 3: .*{why}"):
        convert(upload, rows, "pair")
    upload.write_bytes(pair("yes", "no"))
    assert convert(upload, rows, "pair") == 1
    turns = {name: [turn["content"] for turn in side] for name, side in json.loads(rows.read_text()).items()}
    assert turns == {"chosen": ["tea?", "yes"], "rejected": ["tea?", "no"]}


def test_a_classifier_learns_no_preferences(start, kitchen, project) -> None:
    with start(kitchen.model("sorter", "classes"), project=project) as server:
        form = {"files": {"file": ("p.jsonl", pair("a", "b"))}, "data": {"purpose": "fine-tune"}}
        body = {"model": "sorter", "training_file": server.post("/v1/files", **form).json()["id"]}
        refused = server.post("/v1/fine_tuning/jobs", body | {"method": {"type": "dpo"}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "method")


def test_rows_are_kept_as_they_were_sent(tmp_path: Path) -> None:
    upload, rows = tmp_path / "upload", tmp_path / "rows"
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "kind"},
        {"role": "user", "content": "tea 🍵?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "assistant", "content": "yes"},
    ]
    example = {"messages": messages, "tools": [{"type": "function"}]}
    upload.write_text(json.dumps(example) + '\n{"prompt": "a", "completion": "b"}\n')
    assert convert(upload, rows, "conversation") == 2
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    assert kept[0] == example
    assert kept[1] == {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_for_a_classifier_the_answer_is_the_label(kitchen, project, tmp_path: Path) -> None:
    uploads = Uploads(Store.open(project.database_url), tmp_path / "files")
    rows = [b'{"prompt": "where is my card", "completion": " refund "}'] * 12
    files = {name: keep_file(uploads, b"\n".join(rows), "f", "fine-tune", None) for name in ("training", "validation")}
    asked = {"model": "sorter", **{f"{name}_file": file.id for name, file in files.items()}}
    job = Job("ftjob-0000abcd", None, asked, str(kitchen.model("sorter", "classes")))
    assert job_project.write_rows(project, job, uploads) == 12
    job_project.write_project(project, job, 12)
    settings = config.load(job_project.folder_of(project, job)).settings
    row = json.loads((job_project.folder_of(project, job) / "training.jsonl").read_text().splitlines()[0])
    assert row == {"text": "where is my card", "label": "refund"}
    assert (settings.objective.task, settings.train[0].objective) == ("classify", "classify")
    assert settings.objective.accept == (), "conditions of another task are not asked"
    assert settings.data.sources["validation"].split == "test"


def test_names_of_models_say_where_they_come_from(project) -> None:
    job = Job("ftjob-00000000000000001234abcd", None, {"model": "desk:3", "suffix": "tea"}, "/base")
    assert job_project.model_name(project, job) == "ft:desk:desk:tea:1234abcd"
    assert job_project.registry_name(job) == "desk-tea-1234abcd"
    again = Job("ftjob-00000000000000005678abcd", None, {"model": "ft:desk:desk:tea:1234abcd"}, "/base")
    assert job_project.model_name(project, again) == "ft:desk:desk::5678abcd"


def test_files_that_are_expired_are_gone(project, tmp_path: Path) -> None:
    uploads = Uploads(Store.open(project.database_url), tmp_path / "files")
    old = keep_file(uploads, b"x", "f", "fine-tune", None, expires="2026-01-01T00:00:00+00:00")
    kept: File = keep_file(uploads, b"x", "f", "fine-tune", None)
    assert uploads.find(old.id, None) is None and uploads.path(old.id).exists()
    assert uploads.delete_expired() == 1
    assert not uploads.path(old.id).exists() and uploads.path(kept.id).exists()
    for name in ("file-cut-off", "notes"):
        (uploads.folder / name).write_bytes(b"x")
    assert uploads.delete_lost(60) == 0, "its row may still come"
    assert uploads.delete_lost(-1) == 1
    assert {path.name for path in uploads.folder.iterdir()} == {kept.id, "notes"}


def test_the_worker_needs_no_torch() -> None:
    code = "import sys, wyrmling.serve.worker, wyrmling.serve.foreman; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_server_outside_a_project_says_so(start, kitchen) -> None:
    with start(kitchen.model("talker", "next", chat=True, seed=1)) as server:
        for path in ("/v1/files", "/v1/fine_tuning/jobs"):
            answer = server.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_project")
