"""What this machine has and how fast it multiplies: cores, memory, GPUs, and a short timed probe kept per machine.

Nothing here imports torch until a rate is asked for that was not measured before.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from wyrmling.core import ranks
from wyrmling.core.artifact import write_durably
from wyrmling.core.errors import BadSetting

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
GB = 1e9
# bfloat16 has to be this much faster in the probe to be worth its rounding; where it is emulated it is far slower.
BF16_GAIN = 1.2
PROBE_VERSION = 2
SMALL_SIZE, CPU_SIZE, GPU_SIZE = 256, 1024, 8192
PROBE_SECONDS = 0.25
# So long a probe that was taken on a busy machine has to do, also for other processes.
BUSY_PROBE_SECONDS = 600.0


@dataclass(frozen=True)
class Gpu:
    """A GPU board: its name, memory in GB and power limit in watts (0: not told)."""

    name: str
    memory_gb: float
    watts: float


@dataclass(frozen=True)
class Machine:
    """The part of the machine that this process may use: limits of containers and affinity are respected."""

    cpu: str
    cores: int
    """Physical cores."""
    threads: int
    """Hardware threads."""
    memory_gb: float
    gpus: tuple[Gpu, ...]
    platform: str
    python: str

    @property
    def id(self) -> str:
        """A short text that names this kind of machine, for keeping what was measured on it."""
        gpus = " + ".join(gpu.name for gpu in self.gpus) or "no GPU"
        return f"{self.cpu}, {self.cores} cores, {self.memory_gb:.0f} GB, {gpus}, {self.platform}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rates:
    """How fast a device works, from a short probe.

    float32, bfloat16  multiply-adds of large matrices, in FLOP/s (two per multiply-add)
    copy               bytes per second of reading and writing memory
    call               seconds that one small operation takes to start
    gain               bfloat16 over float32; on a CPU by the processor time of one thread, so that the choice of
                       arithmetic does not depend on what else runs: the same training must compute the same twice
    """

    device: Device
    threads: int
    float32: float
    bfloat16: float
    copy: float
    call: float
    gain: float
    busy: bool
    """True when other programs were using the machine meanwhile; such a probe is repeated after ten minutes."""

    def of(self, dtype: Dtype) -> float:
        """FLOP/s in this arithmetic."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


@cache
def machine() -> Machine:
    """This machine, looked at once per process."""
    import psutil

    threads = _usable_threads()
    cores = psutil.cpu_count(logical=False) or threads
    return Machine(
        cpu=_cpu_name(),
        cores=max(1, min(cores, threads)),
        threads=threads,
        memory_gb=min(psutil.virtual_memory().total, _container_memory_bytes()) / GB,
        gpus=_gpus(),
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def available_memory_gb() -> float:
    """Memory that could be taken now without swapping, in GB."""
    import psutil

    return min(float(psutil.virtual_memory().available), _container_memory_bytes()) / GB


def threads() -> int:
    """CPU threads to compute with: the physical cores, one of them left to the rest above four.

    Processes that were launched together share them.
    """
    cores = machine().cores
    return max(1, (cores - 1 if cores > 4 else cores) // ranks.local_world())


def device(wanted: Device | None = None) -> Device:
    """Where to compute: `wanted`, else cuda when a board and a torch build for it are there."""
    if wanted is not None:
        return wanted
    return "cuda" if machine().gpus and torch_version() is not None and not _is_cpu_build() else "cpu"


def require(on: str) -> None:
    """Raises BadSetting when torch can't compute on this device here."""
    import torch

    if on == "cuda" and not torch.cuda.is_available():
        why = f"torch {torch_version()} is built for CPUs" if _is_cpu_build() else "torch finds no GPU"
        raise BadSetting(
            f'the device "cuda" can\'t be used: {why}',
            where="machine.device",
            fix='set machine.device = "cpu", or install torch for CUDA on a machine with a GPU',
        )


def dtype(on: Device, wanted: Dtype | None = None) -> Dtype:
    """Arithmetic of the matrix products: `wanted`, else bfloat16 where the probe finds it faster."""
    if wanted is not None:
        return wanted
    measured = rates(on)
    return "bfloat16" if measured.gain > BF16_GAIN else "float32"


def torch_version() -> str | None:
    """The installed torch, with its build (2.13.0+cpu), without importing it; None when there is none."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def _is_cpu_build() -> bool:
    return "+cpu" in (torch_version() or "")


def cache_folder() -> Path:
    """Where this user's measurements are kept: WYRMLING_CACHE, else the platform's folder for caches."""
    if "WYRMLING_CACHE" in os.environ:
        return Path(os.environ["WYRMLING_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "wyrmling"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "wyrmling"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wyrmling"


# What this process measured or took on a busy machine, by the file: it computes with one answer to its end.
_measured: dict[Path, Rates] = {}


def rates(on: Device = "cpu", *, use_threads: int | None = None) -> Rates:
    """How fast this machine multiplies, measured in about a second the first time and read from the cache after.

    use_threads   CPU threads; None is `threads()`
    A cache that can't be written costs only the second; nothing else depends on it.
    """
    count = use_threads or threads()
    path = cache_folder() / f"rates-{_probe_key(on, count)}.json"
    with suppress(OSError, ValueError, TypeError):
        kept = Rates(**json.loads(path.read_text(encoding="utf-8")))
        if not kept.busy:
            return kept
        if time.time() - path.stat().st_mtime < BUSY_PROBE_SECONDS:
            return _measured.setdefault(path, kept)
    if path in _measured:
        return _measured[path]
    measured = _measured[path] = _measure(on, count)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(asdict(measured)).encode())
    return measured


def _probe_key(on: Device, count: int) -> str:
    text = f"{machine().id}|{torch_version()}|{on}|{count}|{PROBE_VERSION}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _measure(on: Device, count: int) -> Rates:
    import psutil
    import torch

    # The load of the last minute, other programs' included; one core of it may be our own.
    busy = on == "cpu" and psutil.getloadavg()[0] > machine().threads
    before, kinds = torch.get_num_threads(), (torch.float32, torch.bfloat16)
    torch.set_num_threads(count)
    try:
        with torch.inference_mode():
            together = [] if busy else [_matmul_rate(on, kind) for kind in kinds]
            copy, call = _copy_rate(on), _call_seconds(on)
            torch.set_num_threads(1)
            alone = [_matmul_rate(on, kind, time.thread_time) for kind in kinds] if on == "cpu" else together
            # Threads that wait for one that has no core say nothing of what they could do.
            float32, bfloat16 = together or [count * rate for rate in alone]
            return Rates(on, count, float32, bfloat16, copy, call, gain=alone[1] / alone[0], busy=busy)
    finally:
        torch.set_num_threads(before)


def _matmul_rate(on: Device, kind: Any, clock: Callable[[], float] = time.perf_counter) -> float:
    import torch

    def rate(size: int) -> float:
        a, b, out = (torch.ones(size, size, device=on, dtype=kind) for _ in range(3))
        return 2 * size**3 / _fast_seconds(on, lambda: torch.matmul(a, b, out=out), clock)

    # Emulated bfloat16 is a hundred times slower: a small product already says so.
    small, size = rate(SMALL_SIZE), CPU_SIZE if on == "cpu" else GPU_SIZE
    return small if 2 * size**3 / small > PROBE_SECONDS else rate(size)


def _copy_rate(on: Device) -> float:
    import torch

    # 64 MB: larger than the last cache of most processors.
    a = torch.ones(16_000_000, device=on)
    b = torch.empty_like(a)
    return float(2 * a.nbytes) / _fast_seconds(on, lambda: b.copy_(a))


def _call_seconds(on: Device) -> float:
    import torch

    a = torch.ones(8, device=on)

    def many() -> None:
        for _ in range(200):
            a.mul_(1.0)

    return _fast_seconds(on, many) / 200


def _fast_seconds(on: Device, work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """What a tenth of the runs that fit into the probe's time stay within, after one to warm up.

    Not the shortest: a processor clock may stand still for a moment, so that one run in thousands takes no time.
    """
    import torch

    def timed() -> float:
        start = clock()
        work()
        if on == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    timed()
    until, runs = time.perf_counter() + PROBE_SECONDS, [timed()]
    while time.perf_counter() < until:
        runs.append(timed())
    return sorted(runs)[len(runs) // 10]


def _usable_threads() -> int:
    """Hardware threads left by affinity and by the CPU quota of a container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return count


def _container_memory_bytes() -> float:
    """The memory limit of the container; infinite without one."""
    limit = float("inf")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limit = min(limit, int(Path(file).read_text(encoding="ascii")))
    return limit


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[Gpu, ...]:
    """The NVIDIA boards that nvidia-smi lists; none when it is not there or does not answer."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,power.limit", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(_gpu(line) for line in done.stdout.splitlines() if line.count(",") >= 2)


def _gpu(line: str) -> Gpu:
    name, mebibytes, watts = (part.strip() for part in line.rsplit(",", 2))
    return Gpu(name, _number(mebibytes) * 2**20 / GB, _number(watts))


def _number(text: str) -> float:
    """The number, or 0 where the board says [N/A]."""
    try:
        return float(text)
    except ValueError:
        return 0.0
