"""Engines that are programs of their own. Their commands are stood in for by scripts that are given the same flags."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import openai
import psutil
import pytest

import shell
from wyrmling.config import Home
from wyrmling.core.errors import UsageError, WyrmlingError
from wyrmling.flow import engines
from wyrmling.model.sampling import Sampling
from wyrmling.serve import started
from wyrmling.serve.answer import Talker

# `vllm serve FOLDER ...`: writes down who it is and what it was told, then answers with the model of the folder.
VLLM = """
import os, sys
from pathlib import Path
here = Path(__file__).parent
(here / "vllm.told").write_text("\\n".join(sys.argv[1:]))
(here / "vllm.pid").write_text(str(os.getpid()))
port = sys.argv[sys.argv.index("--port") + 1]
os.execv(sys.executable, [sys.executable, "-m", "wyrmling", "serve", "--model", sys.argv[2], "--port", port])
"""
OPTIMUM = """
import shutil, sys
from pathlib import Path
shutil.copytree(sys.argv[sys.argv.index("--model") + 1], sys.argv[-1])
(Path(sys.argv[-1]) / "told").write_text(" ".join(sys.argv[1:3]))
"""
OVMS = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v3/models" else 404)
        self.end_headers()
        self.wfile.write(open(flags["--model_path"] + "/told", "rb").read())
HTTPServer((flags["--rest_bind_address"], int(flags["--rest_port"])), Handler).serve_forever()
"""
DYING = """
print("loading")
print("out of memory: 3 GB wanted")
raise SystemExit(3)
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, the first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def program(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!{sys.executable}{text}")
    file.chmod(0o755)


def test_vllm_answers_behind_the_front_and_ends_with_it(kitchen, path: Path, tmp_path: Path) -> None:
    folder = kitchen.model("teller", "next")
    program(path, "vllm", VLLM)
    port = shell.free_port()
    command = [
        sys.executable,
        "-m",
        "wyrmling",
        "serve",
        "--model",
        str(folder),
        "--engine",
        "vllm",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        shell.wait_until_ready(server, f"http://127.0.0.1:{port}")
        told = (path / "vllm.told").read_text().split("\n")
        assert told[0] == "serve" and told[2:6] == ["--served-model-name", folder.name, "--host", "127.0.0.1"]
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        answer = client.completions.create(model=folder.name, prompt="a little dragon", max_tokens=8, temperature=0)
        assert answer.choices[0].text == Talker(folder).complete("a little dragon", Sampling(8, temperature=0)).text
    finally:
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=60)
    assert server.returncode == 0 and "vllm: starting at http://127.0.0.1:" in said
    assert not psutil.pid_exists(int((path / "vllm.pid").read_text()))


def test_openvino_gets_the_model_in_its_own_format(path: Path, tmp_path: Path) -> None:
    model, work = tmp_path / "model", tmp_path / "work"
    for folder in (model, work):
        folder.mkdir()
    program(path, "optimum-cli", OPTIMUM)
    program(path, "ovms", OVMS)
    # What other tests have started, a database server for one, is not meant.
    others = {child.pid for child in psutil.Process().children()}
    with started.running("openvino", model, "teller", sequences=4, work=work) as address:
        assert address.endswith("/v3")
        assert urllib.request.urlopen(f"{address}/models").read() == b"export openvino"
        (child,) = (child for child in psutil.Process().children() if child.pid not in others)
    assert not child.is_running()


def test_the_end_of_the_log_of_an_engine_that_dies_is_shown(path: Path, tmp_path: Path) -> None:
    program(path, "vllm", DYING)
    with (
        pytest.raises(WyrmlingError, match=r"vllm ended with code 3 before it answered\nloading\nout of memory: 3 GB"),
        started.running("vllm", tmp_path, "teller", sequences=4, work=tmp_path),
    ):
        pass
    program(path, "optimum-cli", DYING)
    program(path, "ovms", OVMS)
    with (
        pytest.raises(WyrmlingError, match=r"optimum-cli ended with code 3"),
        started.running("openvino", tmp_path, "teller", sequences=4, work=tmp_path),
    ):
        pass


def test_what_is_missing_is_named_with_how_to_get_it(kitchen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kitchen.model("teller", "next")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for engine, command in (("vllm", "vllm"), ("openvino", "ovms")):
        with pytest.raises(UsageError, match=rf"needs {command}, which is not on PATH(.|\n)*pip install"):
            engines.serve(Home(), str(folder), engine)
    with pytest.raises(UsageError, match="rounds weights by its own settings"):
        engines.serve(Home(), str(folder), "vllm", quantize="int8")
