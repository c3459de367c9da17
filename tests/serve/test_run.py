"""The server as a process: what it says, where it listens, how it stops."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.core.store import Store
from wyrmling.serve import run

PROJECT = """
name = "stories"
[objective]
task = "complete"
[data.sources.all]
path = "*.txt"
[serve]
port = 0
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")
    yield store
    store.close()


def test_a_port_in_use_is_named_with_the_remedy(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=rf"port {port} is in use(.|\n)*--port {port + 1}"):
            run.listen("127.0.0.1", port, store)
    run.listen("127.0.0.1", port, store).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_an_open_address_without_a_key_is_refused(store: Store, host: str) -> None:
    with pytest.raises(BadSetting, match=r"no API key(.|\n)*wyrmling keys create"):
        run.listen(host, 0, store)
    key, _ = store.create_key("gone")
    store.revoke_key(key.id)
    with pytest.raises(BadSetting, match="no API key"):
        run.listen(host, 0, store)


def test_an_open_address_with_a_key_needs_it_and_takes_any_host_name(kitchen, start, store: Store) -> None:
    _, secret = store.create_key("partner")
    with start(kitchen.model("teller", "next"), host="0.0.0.0", store=store) as server:
        headers = {"host": "models.example.org", "authorization": f"Bearer {secret}"}
        assert server.get("/v1/models", headers=headers).status_code == 200
        store.revoke_key(store.list_keys()[0].id)
        assert server.get("/v1/models", headers=headers).status_code == 401


def test_an_unknown_host_or_forbidden_port_is_named(store: Store) -> None:
    store.create_key("any")
    with pytest.raises(BadInput, match=r"can't listen on 192\.0\.2\.1"):
        run.listen("192.0.2.1", 0, store)
    with pytest.raises(BadSetting, match="no address of this machine"):
        run.listen("no-such-host.invalid", 0, store)


@pytest.fixture
def project(tmp_path: Path, kitchen) -> Path:
    from wyrmling.core.store import folder_digest

    (tmp_path / "wyrmling.toml").write_text(PROJECT)
    store = Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")
    folder = kitchen.model("teller", "next")
    store.register_model("stories", folder, folder_digest(folder), {})
    store.promote("stories")
    store.close()
    return tmp_path


def test_a_project_is_served_until_sigterm_and_the_printed_line_works(project: Path) -> None:
    code = (
        "from pathlib import Path; from wyrmling import config; from wyrmling.serve.run import serve; "
        "serve(config.load(Path('.')), 'stories')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    line = shlex.split(process.stdout.readline())
    assert line[0] == "curl"
    body = json.loads(line[line.index("-d") + 1]) | {"max_tokens": 5}
    import httpx2

    answer = httpx2.post(line[1], json=body)
    assert answer.json()["model"] == "stories"
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert process.wait(timeout=30) == 0
    assert time.monotonic() - started < 10
    said = process.stderr.read()
    assert "answers checked against the trained model's" in said and "listening on http://127.0.0.1:" in said
    assert "Traceback" not in said
    process.stdout.close()
    process.stderr.close()
    row = Store.open(f"sqlite:///{project / 'wyrmling.db'}").find_usage(answer.json()["id"])
    assert row is not None and row.completion_tokens == answer.json()["usage"]["completion_tokens"]
