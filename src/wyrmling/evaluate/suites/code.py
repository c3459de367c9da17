"""Programs that a model wrote, run against tests in a process that can do little and not for long.

No network, no files but in a folder of its own that is gone afterwards, no environment, bounded time, memory and
output. That stops accidents and clumsy harm; against a program that attacks the kernel only a virtual machine helps.
Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
from typing import Literal

from wyrmling.core.errors import BadInput

SECONDS = 3.0
MEMORY_BYTES = 512 * 2**20
FILE_BYTES = 2**20
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000

Outcome = Literal["passed", "failed", "timed out"]


def run(program: str, *, seconds: float = SECONDS) -> Outcome:
    """Whether a program ends by itself, without an error, in time.

    Raises   BadInput where the system can't take the network away from a process
    """
    with tempfile.TemporaryDirectory(prefix="wyrmling-code-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            close_fds=True,
            preexec_fn=_lock_down,
        )
        try:
            return "passed" if process.wait(timeout=seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            return "timed out"
        finally:
            # What it started goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check() -> None:
    """Raises BadInput where programs can't be locked down here."""
    try:
        alone = run("import socket; socket.create_connection(('127.0.0.1', 9), 1)") == "failed" and run("") == "passed"
    except (OSError, subprocess.SubprocessError):
        alone = False
    if not alone:
        raise BadInput(
            "programs can't be cut off from the network on this system",
            where="--run-code",
            fix="use Linux with user namespaces, or score without --run-code",
        )


def _lock_down() -> None:
    """In the new process, before the program starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NET) != 0 and libc.unshare(_NEW_USER | _NEW_NET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, int(SECONDS) + 1),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
