"""Servers of other engines that are started on a model's folder, kept beside this process, and ended with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from wyrmling.core.errors import UsageError, WyrmlingError
from wyrmling.core.log import say

# Seconds between two looks at whether it answers, and after which one that was asked to end is killed.
LOOK, END = 0.5, 15.0
SHOWN_LINES = 20
# They send nothing to anybody, and fetch nothing.
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Program:
    """A server with the OpenAI API that is a program of its own.

    serve    its command line; {folder}, {name}, {port} and {sequences} are filled in
    convert  what makes, from a Hugging Face {folder}, the folder {out} that it reads. None: it reads the former
    base     the path of its API
    get      how to get it
    """

    serve: tuple[str, ...]
    base: str
    get: str
    convert: tuple[str, ...] | None = None


PROGRAMS = {
    "vllm": Program(
        serve=(
            *("vllm", "serve", "{folder}", "--served-model-name", "{name}", "--host", "127.0.0.1", "--port", "{port}"),
            *("--max-num-seqs", "{sequences}"),
        ),
        base="/v1",
        get="pip install vllm, into this environment or another one whose bin folder is on PATH",
    ),
    "openvino": Program(
        serve=(
            *("ovms", "--rest_port", "{port}", "--rest_bind_address", "127.0.0.1", "--model_name", "{name}"),
            *("--model_path", "{folder}", "--task", "text_generation", "--max_num_seqs", "{sequences}"),
        ),
        base="/v3",
        get='the OpenVINO Model Server (ovms) and pip install "optimum-intel[openvino]", both on PATH',
        convert=(
            *("optimum-cli", "export", "openvino", "--model", "{folder}", "--task", "text-generation-with-past"),
            "{out}",
        ),
    ),
}  # fmt: skip


def check_installed(engine: str) -> None:
    """Raise UsageError, with how to get it, when a program of an engine is not on PATH."""
    program = PROGRAMS[engine]
    for command in (program.serve, program.convert):
        if command is not None and shutil.which(command[0]) is None:
            raise UsageError(f"the engine {engine} needs {command[0]}, which is not on PATH", fix=f"get {program.get}")


@contextlib.contextmanager
def running(engine: str, folder: Path, name: str, *, sequences: int, work: Path) -> Iterator[str]:
    """The URL of an engine's API that answers for a model, until the block is left.

    engine     one of PROGRAMS
    folder     of the model, as transformers reads it
    sequences  how many are answered at a time
    work       an empty folder for its log, and for what is converted
    Raises     UsageError when it is not installed; WyrmlingError with the end of its log when it ends before it answers
    """
    check_installed(engine)
    program, log = PROGRAMS[engine], work / f"{engine}.log"
    if program.convert is not None:
        out = work / engine
        say(f"{engine}: converting the model")
        with log.open("wb") as output:
            done = _start(_filled(program.convert, folder=folder, out=out), output.fileno()).wait()
        if done != 0:
            raise _ended(engine, program.convert[0], done, log)
        folder = out
    port = _free_port()
    address = f"http://127.0.0.1:{port}{program.base}"
    say(f"{engine}: starting at {address}; what it says is in {log}")
    with log.open("ab") as output:
        server = _start(
            _filled(program.serve, folder=folder, name=name, port=port, sequences=sequences), output.fileno()
        )
    # Until requests are answered, SIGTERM would leave the other server behind.
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        while not _answers(address):
            if (code := server.poll()) is not None:
                raise _ended(engine, program.serve[0], code, log)
            time.sleep(LOOK)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(END)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _filled(command: Sequence[str], **parts: object) -> list[str]:
    return [word.format(**parts) for word in command]


def _start(command: list[str], output: int) -> subprocess.Popen[bytes]:
    # In a session of its own: an interrupt from the keyboard is for this process, which finishes its requests first.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **ENVIRONMENT},
        start_new_session=True,
    )


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/models", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _ended(engine: str, command: str, code: int, log: Path) -> WyrmlingError:
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    return WyrmlingError("\n".join([f"{engine}: {command} ended with code {code} before it answered", *last]))
