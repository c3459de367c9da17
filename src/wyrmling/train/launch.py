"""`wyrmling launch`: the same verb in several processes, on one node or many, under torch's launcher (torchrun).

Whatever ends one process ends all of them with one message: the first that was left (core/ranks.py). A signal is handed
on to every process; they finish their step, save, and the launcher ends with the code of an interruption.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core import hardware, ranks
from wyrmling.core.errors import Interrupted, UsageError, WyrmlingError

# Handed on to the processes. SIGUSR1 is what Slurm sends before a time limit, when asked to.
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
# Seconds that a step and its checkpoint may take after a signal, before the processes are killed.
GRACE_SECONDS = 600
# Seconds that the other nodes wait for the first, which may still be making data and tokens.
MEET_SECONDS = 24 * 3600
# Where schedulers tell a node its number: Slurm, and Kubernetes for indexed jobs.
NODE_NUMBERS = ("SLURM_NODEID", "JOB_COMPLETION_INDEX")


@dataclass(frozen=True)
class Nodes:
    """Where the processes run.

    processes   on each node
    count, number   of the nodes, and which of them this one is
    rendezvous  HOST:PORT of the first; None with one node
    restarts    how often all processes are started again, from the last checkpoint, after one of them died
    """

    processes: int
    count: int
    number: int
    rendezvous: str | None
    restarts: int = 0


def nodes_of(
    project: Project,
    *,
    processes: int | None = None,
    nodes: int | None = None,
    rendezvous: str | None = None,
    node: int | None = None,
    restarts: int = 0,
) -> Nodes:
    """What the command line says, else the project, else the machine.

    Raises   UsageError when several nodes have no place to meet or no numbers
    """
    asked = project.settings.launch
    count, meet = nodes or asked.nodes, rendezvous or asked.rendezvous
    gpus = len(hardware.machine().gpus) if hardware.device(project.settings.machine.device) == "cuda" else 0
    if count > 1 and meet is None:
        raise UsageError(f"{count} nodes need a place to meet", fix="give --rendezvous HOST:PORT of the first node")
    if count > 1 and node is None:
        told = next((os.environ[name] for name in NODE_NUMBERS if name in os.environ), None)
        if told is None:
            raise UsageError(f"which of the {count} nodes is this?", fix="give --node N, from 0 on")
        node = int(told)
    if (node or 0) >= count:
        raise UsageError(f"--node {node} is not one of {count} nodes", fix="count from 0")
    return Nodes(processes or asked.processes or max(1, gpus), count, node or 0, meet if count > 1 else None, restarts)


def launch(nodes: Nodes, arguments: list[str], *, silent: bool = False) -> None:
    """Run `wyrmling` with these arguments in every process, to the end.

    silent   what they answer is not printed
    Raises   the first error that a process left; Interrupted when they were stopped by a signal
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    signal: str | None = None
    with tempfile.TemporaryDirectory(prefix="wyrmling-launch-") as folder:
        os.environ[ranks.FOLDER] = folder
        # torch's launcher would leave each process one thread without saying so.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, hardware.threads() // nodes.processes)))
        try:
            elastic_launch(_config(nodes, Path(folder) / "out" if silent else None), sys.executable)(
                "-m", "wyrmling", *arguments
            )
        except SignalException as stopped:
            signal = stopped.sigval.name
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
            _raise_first(Path(folder))
            raise WyrmlingError(
                f"process {rank} ended with {how} and without a message",
                fix="look at the lines above; after SIGKILL, memory may have run out. The same command goes on from "
                "the last checkpoint",
            ) from failed
        finally:
            del os.environ[ranks.FOLDER]
        _raise_first(Path(folder))
    if signal is not None:
        raise Interrupted(f"stopped by {signal} before the first step", fix="run the same command again")


def _raise_first(folder: Path) -> None:
    if said := ranks.left_in(folder):
        raise said[0].error


def _config(nodes: Nodes, out: Path | None) -> Any:
    """out   where the processes' standard output goes; None: to ours"""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    logs = DefaultLogsSpecs() if out is None else DefaultLogsSpecs(log_dir=str(out), redirects=Std.OUT)
    alone = nodes.rendezvous is None
    return LaunchConfig(
        min_nodes=nodes.count,
        max_nodes=nodes.count,
        nproc_per_node=nodes.processes,
        run_id="wyrmling",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="127.0.0.1:0" if alone else nodes.rendezvous or "",
        rdzv_configs={} if alone else {"rank": nodes.number, "timeout": MEET_SECONDS},
        local_addr="127.0.0.1" if alone else None,
        max_restarts=nodes.restarts,
        monitor_interval=0.2,
        logs_specs=logs,
        signals_to_handle=SIGNALS,
        shutdown_timeout=GRACE_SECONDS,
    )


def project_in(arguments: list[str]) -> Project:
    """The project that a verb's own arguments name."""
    home, overrides, left = Path(), list[str](), iter(arguments)
    for word in left:
        name, equals, value = word.partition("=")
        if name not in ("--project", "--set"):
            continue
        value = value if equals else next(left, "")
        if name == "--project":
            home = Path(value)
        else:
            overrides.append(value)
    return config.load(home if home.parts else config.find_project(Path.cwd()), overrides)
