"""The real command line as a user runs it, and a small project on real rows."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner, Result

from wyrmling.cli import app

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

# Small enough for a test: four intents of the shipped example, a tiny model, few passes.
SMALL = """
name = "support-desk"

[objective]
goal = "Send each customer message to the right team"
task = "classify"
accept = ["accuracy >= 0.3"]

[data.sources.tickets]
path = "tickets.csv"
text = "text"
label = "category"

[data.sources.handbook]
path = "handbook.md"

[data.split]
test = 0.3

[tokenizer]
vocab_size = 600

[model]
layers = 2
width = 64

[machine]
dtype = "float32"
threads = 2

[[train]]
name = "pretrain"
objective = "masked"
epochs = 2

[[train]]
name = "tune"
objective = "classify"
sources = ["tickets"]
epochs = 12
"""
INTENTS = ("card_arrival", "lost_or_stolen_card", "exchange_rate", "top_up_failed")


def wyrmling(*arguments: object, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would, in a process of its own."""
    command = [sys.executable, "-m", "wyrmling", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def ask(*arguments: object, cwd: Path | None = None) -> dict:
    """The JSON document that a verb prints."""
    return json.loads(wyrmling(*arguments, "--json", cwd=cwd).stdout)


def here(*arguments: object, cwd: Path | None = None, check: bool = True) -> Result:
    """The same in this process, where a new one would mostly import torch: for what is said, not for how it starts."""
    import torch

    threads = torch.get_num_threads()
    try:
        with contextlib.chdir(cwd or Path.cwd()):
            done = CliRunner().invoke(app, [*map(str, arguments)], prog_name="wyrmling")
    finally:
        torch.set_num_threads(threads)
    # A verb ends by an exit code, whatever happened; anything else is a traceback.
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert not check or done.exit_code == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


def ask_here(*arguments: object, cwd: Path | None = None) -> dict:
    """The JSON document that a verb prints, in this process."""
    return json.loads(here(*arguments, "--json", cwd=cwd).stdout)


def write_small_project(folder: Path) -> Path:
    """A project on a few hundred real rows of the support-desk example."""
    folder.mkdir(parents=True, exist_ok=True)
    example = EXAMPLES / "support-desk"
    tables = sorted(example.rglob("train.csv"))
    with tables[0].open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["category"] in INTENTS]
    with (folder / "tickets.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=["text", "category"])
        writer.writeheader()
        writer.writerows({"text": row["text"], "category": row["category"]} for row in rows)
    shutil.copyfile(
        min(example.rglob("*.md"), key=lambda p: (p.name == "README.md", p.as_posix())), folder / "handbook.md"
    )
    (folder / "wyrmling.toml").write_text(SMALL, encoding="utf-8")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(project: Path, model: str, *options: object) -> Iterator[str]:
    """The address of a running `wyrmling serve`, ready to answer."""
    port = free_port()
    command = [sys.executable, "-m", "wyrmling", "serve", "--project", str(project), "--model", model]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--quiet", *map(str, options)], stderr=subprocess.PIPE, text=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(process, address)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)
        assert process.stderr is not None
        process.stderr.close()


def wait_until_ready(process: subprocess.Popen[str], address: str) -> None:
    for _ in range(600):
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(f"the server stopped: {process.stderr.read()}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/readyz", timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError("the server did not get ready")
