"""Keys: what each may do, how much, and that one sees nothing of another's."""

from __future__ import annotations

import json
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import openai
import pytest

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.jobs import Jobs
from wyrmling.core.store import Store, Usage
from wyrmling.core.tables import ApiKey, Job
from wyrmling.serve import service
from wyrmling.serve.app import ROUTES
from wyrmling.serve.limits import Limits
from wyrmling.serve.openai import ApiError

ASK = {"model": "teller", "prompt": "tea", "max_tokens": 4}


@pytest.fixture
def project(tmp_path: Path, database: str) -> Project:
    (tmp_path / "wyrmling.toml").write_text(
        f'name = "desk"\ndatabase = "{database}"\n[objective]\ntask = "chat"\n[data.sources.all]\npath = "*.txt"\n'
    )
    return config.load(tmp_path)


@pytest.fixture
def store(project: Project) -> Store:
    return Store.open(project.database_url)


def test_a_key_may_do_what_its_scopes_say_and_nothing_else(start, kitchen, project, store) -> None:
    needed = {
        "/v1/completions": "infer", "/v1/chat/completions": "infer", "/v1/embeddings": "infer", "/v1/classify": "infer",
        "/v1/tag": "infer", "/v1/moderations": "infer", "/v1/feedback": "feedback", "/v1/models": None,
        "/metrics": None, "/livez": None, "/readyz": None, "/health": None, "/widget.js": None,
        "/openapi.json": None,
    }  # fmt: skip
    secrets = {scope: store.create_key(scope, scopes=[scope])[1] for scope in ("infer", "feedback", "files", "train")}
    with start(kitchen.model("teller", "next"), project=project, store=store, max_jobs=0) as server:
        for method, path, _ in ROUTES:
            if path.startswith("/v1/models/"):
                wanted = "train" if method == "DELETE" else None
            elif path.startswith(("/v1/files", "/v1/fine_tuning")):
                wanted = "files" if path.startswith("/v1/files") else "train"
            else:
                wanted = needed[path]
            for scope, secret in secrets.items():
                answer = server.ask(method, path, headers={"authorization": f"Bearer {secret}"})
                assert (answer.status_code == 403) == (wanted not in (None, scope)) or (
                    path == "/v1/fine_tuning/jobs" and answer.json()["error"]["code"] == "jobs_not_taken"
                ), (method, path, scope, answer.text)
        with pytest.raises(openai.PermissionDeniedError, match=r"scopes files, but infer is needed") as caught:
            server.client(secrets["files"]).completions.create(**ASK)
        assert caught.value.code == "missing_scope"
        admin = server.client(store.create_key("root", scopes=["admin"])[1])
        assert admin.completions.create(**ASK).choices


def test_one_key_sees_nothing_of_another(start, kitchen, project, store, database_url) -> None:
    my_key, mine = store.create_key("me", scopes=["admin"])
    _, yours = store.create_key("you", scopes=["admin"])
    with start(kitchen.model("teller", "next"), project=project, store=store, max_jobs=0) as server:
        me, you = server.client(mine), server.client(yours)
        file = me.files.create(file=b"x", purpose="fine-tune")
        jobs = Jobs(store)
        jobs.add(Job("ftjob-1", my_key.id, {"model": "m", "training_file": file.id}, "/base"))
        jobs.change("ftjob-1", state="succeeded", fine_tuned_model="ft:mine", registered="mine:1")
        assert me.files.retrieve(file.id) == file
        assert me.models.retrieve("ft:mine").id == "ft:mine"
        for ask in (
            lambda: you.files.retrieve(file.id),
            lambda: you.files.content(file.id),
            lambda: you.files.delete(file.id),
            lambda: you.fine_tuning.jobs.retrieve("ftjob-1"),
            lambda: you.fine_tuning.jobs.cancel("ftjob-1"),
            lambda: you.fine_tuning.jobs.list_events("ftjob-1"),
            lambda: you.models.retrieve("ft:mine"),
            lambda: you.models.delete("ft:mine"),
            lambda: you.completions.create(**ASK | {"model": "ft:mine"}),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()
        assert list(you.files.list()) == list(you.fine_tuning.jobs.list()) == []
        assert [model.id for model in you.models.list()] == ["teller"]


def test_requests_and_tokens_run_out_and_come_back(start, kitchen, store) -> None:
    _, few = store.create_key("few", requests_per_minute=2)
    _, short = store.create_key("short", tokens_per_minute=6)
    with start(kitchen.model("teller", "next"), store=store) as server:
        client = server.client(few)
        first = client.completions.with_raw_response.create(**ASK)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        client.completions.create(**ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(**ASK)
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 30
        assert client.models.list().data, "only requests that cost something are counted"
        used = server.client(short).completions.create(**ASK).usage.total_tokens
        assert used >= 6
        with pytest.raises(openai.RateLimitError, match="6 tokens a minute"):
            server.client(short).completions.create(**ASK)


def test_buckets_fill_with_time() -> None:
    now = [100.0]
    key = ApiKey("k", "n", "sk", "", None, requests_per_minute=60, tokens_per_minute=600)
    limits = Limits(Store.open("sqlite://"), clock=lambda: now[0])
    for _ in range(60):
        limits.admit(key)
    with pytest.raises(ApiError) as caught:
        limits.admit(key)
    assert caught.value.headers["retry-after"] == "1"
    now[0] += 1
    assert limits.admit(key)["x-ratelimit-remaining-requests"] == "0"
    limits.spend(key, 700)
    now[0] += 5
    with pytest.raises(ApiError, match=r"600 tokens a minute; try again in 5\.1 s") as caught:
        limits.admit(key)
    now[0] += 5.15
    assert limits.admit(key)["x-ratelimit-remaining-tokens"] == "1"
    now[0] += 3600
    assert limits.admit(key)["x-ratelimit-remaining-tokens"] == "600", "no more than a minute's worth is saved up"


def test_a_key_that_has_spent_its_money_waits_for_the_next_month(start, kitchen, store, database_url) -> None:
    key, secret = store.create_key("poor", usd_per_month=1.0)
    spent = Usage("a", "chat", "m", "d", 1, 1, 1.0, 0.0, "stop", "0", key_id=key.id, usd=0.99)
    store.add_usage(spent)
    with start(kitchen.model("teller", "next"), store=store) as server:
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key=secret)
        assert client.completions.create(**ASK).choices
        Jobs(store).add(Job("ftjob-1", key.id, {"model": "m"}, "/base", usd=0.02))
        before = time.monotonic()
        with pytest.raises(openai.RateLimitError, match="1 US dollars") as caught:
            client.completions.create(**ASK)
        assert time.monotonic() - before < 2, "the client does not try again"
        now = datetime.now(UTC)
        assert int(caught.value.response.headers["retry-after"]) <= (32 - now.day) * 86_400
        assert caught.value.code == "insufficient_quota"


def test_an_answer_costs_what_the_machine_costs(start, kitchen, store) -> None:
    with start(kitchen.model("teller", "next"), store=store) as server:
        answer = server.client().completions.create(**ASK)
        row = store.find_usage(answer.id)
        assert row.usd == pytest.approx(row.wh / 1000 * 0.15)
        assert row.usd > 0


def test_the_access_log_has_a_line_per_request_and_no_text(start, kitchen, project, store) -> None:
    key, secret = store.create_key("laptop")
    with start(kitchen.model("teller", "next"), project=project, store=store, access_log="access.jsonl") as server:
        answer = server.client(secret).completions.create(**ASK | {"prompt": "a secret dragon"})
        server.get("/v1/models?q=dragon")
        server.get("/dragon")
    text = (project.root / "access.jsonl").read_text()
    asked, denied, unknown = [json.loads(line) for line in text.splitlines()]
    assert (asked["answer"], asked["key"], asked["status"]) == (answer.id, key.id, 200)
    assert (asked["route"], asked["tokens"]) == ("/v1/completions", answer.usage.total_tokens)
    assert asked["ms"] > 0 and asked["bytes"] > 0 and asked["request"].startswith("req-")
    assert (denied["status"], unknown["status"], unknown["route"]) == (401, 401, "other")
    # Every field is known, and none of them is text of a user or of the model.
    fields = "time request key method route status bytes ms model answer tokens prompt_tokens completion_tokens finish"
    assert set(asked) == set(fields.split())
    for private in ("dragon", secret, secret[:12]):
        assert private not in text


def test_an_answer_that_takes_too_long_is_given_up(start, kitchen) -> None:
    never = {"logit_bias": {"0": 100}, "max_tokens": 100_000, "prompt": "tea"}
    with start(kitchen.model("teller", "next"), timeout_seconds=0.05) as server:
        client = server.client()
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="teller", **never)
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        loose = server.client(_strict_response_validation=False)
        with pytest.raises(openai.APIError, match="not finished within"):
            list(loose.completions.create(model="teller", **never, stream=True))
        deadline = time.monotonic() + 60
        while server.metric("vllm:num_requests_running"):
            assert time.monotonic() < deadline, "its place is not freed"


def test_a_client_that_sends_slowly_is_cut_off(start, kitchen, monkeypatch) -> None:
    monkeypatch.setattr(service, "BODY_SECONDS", 0.2)
    with start(kitchen.model("teller", "next")) as server:
        host, _, port = server.address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
            said = b"".join(iter(lambda: connection.recv(4096), b""))
        assert b" 408 " in said and b"request_timeout" in said


def test_bodies_and_files_have_a_largest_size(start, kitchen, project) -> None:
    with start(kitchen.model("teller", "next"), project=project, max_body_bytes=1000, max_upload_bytes=5000) as server:
        assert server.post("/v1/completions", ASK | {"user": "x" * 1000}).status_code == 413
        form = {"files": {"file": ("f", b"x" * 20_000)}, "data": {"purpose": "fine-tune"}}
        answer = server.post("/v1/files", **form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        form["files"] = {"file": ("f", b"x" * 5000)}
        assert server.post("/v1/files", **form).status_code == 200
        assert len(list((project.root / "files").iterdir())) == 1, "nothing is left of the one that was refused"


ODD_UPLOADS = [
    ({"data": {}}, 400),
    ({"data": {"purpose": "tea"}}, 400),
    ({"data": {"purpose": "fine-tune", "tea": "1"}}, 400),
    ({"data": {"purpose": "fine-tune", "expires_after[anchor]": "created_at"}}, 400),
    ({"data": {"purpose": "fine-tune", "expires_after[seconds]": "9" * 500}}, 400),
    ({"data": {"purpose": "fine-tune", "more": "x" * 5000}}, 400),
    ({"files": {"tea": ("f", b"x")}}, 400),
    ({"files": {"file": ("x\x00\n/../" + "n" * 2000, b"x")}}, 200),
    ({"files": {"file": ("n" * 50_000, b"x")}}, 400),
    ({"files": {"file": ("/etc/passwd", b"x")}}, 200),
]


def test_an_odd_upload_is_refused_or_harmless(start, kitchen, project) -> None:
    with start(kitchen.model("teller", "next"), project=project) as server:
        for change, status in ODD_UPLOADS:
            form = {"files": {"file": ("f", b"x")}, "data": {"purpose": "fine-tune"}} | change
            answer = server.post("/v1/files", **form)
            assert answer.status_code == status, (change, answer.text)
            if status == 200:
                assert answer.json()["filename"].isprintable() and len(answer.json()["filename"]) <= 1000
            else:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        for path, code in (
            ("/v1/files?limit=0", "invalid_value"),
            ("/v1/files?limit=x", "invalid_value"),
            ("/v1/files?order=up", "invalid_value"),
            ("/v1/files?after=file-none", "invalid_value"),
            ("/v1/files?tea=1", "unsupported_parameter"),
            ("/v1/fine_tuning/jobs?metadata=null", "unsupported_parameter"),
            ("/v1/files/..%2f..%2fetc%2fpasswd", "unknown_route"),
            ("/v1/files/wyrmling.toml", "file_not_found"),
        ):
            assert server.get(path).json()["error"]["code"] == code, path
        assert server.post("/v1/files", {"purpose": "fine-tune"}).json()["error"]["code"] == "invalid_content_type"
    kept = {path.name.partition(".")[0] for path in project.root.iterdir()}
    assert kept == {"files", "wyrmling"}, "names of uploads make no files"
