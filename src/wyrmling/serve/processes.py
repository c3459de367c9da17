"""Processes that outlive whoever started them, told apart by number and start time: numbers are used again."""

from __future__ import annotations

import contextlib

import psutil

# How long a process may take to save its work before it is killed.
STOP_SECONDS = 60.0


def identity(pid: int | None = None) -> str:
    """What a process is known by; None is this one."""
    process = psutil.Process(pid)
    return f"{process.pid}:{process.create_time():.2f}"


def is_alive(known: str | None) -> bool:
    """Whether the process that is known so still runs."""
    return known is not None and _find(known) is not None


def end(known: str) -> None:
    """Let a process save its work, and wait until it has ended. One that has ended already is no error."""
    process = _find(known)
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def _find(known: str) -> psutil.Process | None:
    pid, _, started = known.partition(":")
    try:
        process = psutil.Process(int(pid))
        same = f"{process.create_time():.2f}" == started and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return None
    return process if same else None
