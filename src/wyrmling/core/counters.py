"""Energy counters of the machine: processors (RAPL, through sysfs) and NVIDIA boards (NVML, through its C library).

A counter answers joules since it was opened. It knows nothing of prices, and reads whole packages and boards: what
other programs use at the same time is counted too, and idle power is not subtracted.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

POWERCAP = Path("/sys/class/powercap")
# Two dies that show one and the same counter agree to this much (codecarbon issue 1274).
MIRROR_SHARE, MIRROR_MICROJOULES = 1e-6, 1_000_000


class Counter(Protocol):
    """Something that counts energy."""

    @property
    def what(self) -> str:
        """What is counted, for the reader: "2 packages, dram"."""

    def joules(self) -> float:
        """Joules since the counter was opened; never falls. Call it more often than the counter wraps (minutes)."""


class Found(NamedTuple):
    """A counter, or None and the reason why there is none."""

    counter: Counter | None
    why: str


class Sources(NamedTuple):
    """Where the energy of this machine can be read."""

    processor: Found
    boards: Found


def sources(powercap: Path = POWERCAP) -> Sources:
    """The energy counters of this machine, newly opened."""
    return Sources(processor=find_rapl(powercap), boards=find_nvml())


@dataclass
class _Zone:
    """One RAPL domain: a counter in microjoules that starts again from 0 after `wraps_at`."""

    name: str
    path: Path
    wraps_at: int
    first: int
    last: int
    counted: int = 0

    @classmethod
    def open(cls, path: Path) -> _Zone:
        reading = _number(path / "energy_uj")
        return cls(
            name=(path / "name").read_text(encoding="ascii").strip(),
            path=path,
            wraps_at=_number(path / "max_energy_range_uj"),
            first=reading,
            last=reading,
        )

    def advance(self) -> int:
        """Microjoules since opening. A reading that fell has wrapped once; the difference is never negative."""
        reading = _number(self.path / "energy_uj")
        gone = reading - self.last if reading >= self.last else reading + self.wraps_at - self.last
        self.counted += max(0, gone)
        self.last = reading
        return self.counted


class Rapl:
    """Running average power limit counters of Intel and AMD processors.

    Packages are summed, with their separate memory (dram) domains; psys, the whole platform, only where no package is
    listed. core and uncore lie inside the package. Domains of intel-rapl-mmio repeat those of intel-rapl.
    """

    def __init__(self, zones: list[_Zone]) -> None:
        self._zones = zones

    @property
    def what(self) -> str:
        packages = sum(zone.name.startswith("package") for zone in self._zones)
        names = [f"{packages} package{'s' if packages > 1 else ''}"] if packages else []
        names += sorted({zone.name for zone in self._zones if not zone.name.startswith("package")})
        return ", ".join(names)

    @property
    def counts_memory(self) -> bool:
        """True when the energy of the memory modules is part of the sum."""
        return any(zone.name in ("dram", "psys") for zone in self._zones)

    def joules(self) -> float:
        return sum(zone.advance() for zone in self._zones) / 1e6


def find_rapl(powercap: Path = POWERCAP) -> Found:
    """The processors' counters, or the reason why they can't be read."""
    folders = sorted(powercap.glob("intel-rapl:*")) if powercap.is_dir() else []
    tops = [folder for folder in folders if folder.name.count(":") == 1]
    if not tops:
        return Found(None, "this machine shows no RAPL counters, as is common in virtual machines")
    try:
        named = [(folder, (folder / "name").read_text(encoding="ascii").strip()) for folder in tops]
        packages = [folder for folder, name in named if name.startswith("package")]
        chosen = packages or [folder for folder, name in named if name == "psys"]
        zones: list[_Zone] = []
        for zone in map(_Zone.open, chosen):
            if any(_mirrors(zone, other) for other in zones):
                continue
            zones.append(zone)
        for package in [zone.path for zone in zones] if packages else []:
            zones += [zone for zone in map(_Zone.open, _inside(package, folders)) if zone.name == "dram"]
    except PermissionError:
        return Found(None, f"RAPL counters may not be read; allow it with: sudo chmod -R a+r {powercap}/intel-rapl:*")
    except (OSError, ValueError) as error:
        return Found(None, f"RAPL counters can't be read: {error}")
    if not zones:
        return Found(None, "RAPL lists neither a package nor the platform")
    return Found(Rapl(zones), "RAPL")


def _inside(package: Path, folders: list[Path]) -> list[Path]:
    return [folder for folder in folders if folder.name.startswith(package.name + ":")]


def _mirrors(one: _Zone, other: _Zone) -> bool:
    return abs(one.first - other.first) <= max(MIRROR_MICROJOULES, MIRROR_SHARE * max(one.first, other.first))


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


@dataclass
class _Board:
    handle: ctypes.c_void_p
    first_millijoules: int | None
    """None: the board has no energy counter (before Volta), its power is integrated."""
    joules: float = 0.0
    seen_at: float = 0.0
    watts: float = 0.0


class Nvml:
    """Energy of the NVIDIA boards this process may see: whole boards, shared or not."""

    def __init__(self, library: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._library, self._clock = library, clock
        self._boards = [self._open(handle) for handle in _visible(library)]

    @property
    def what(self) -> str:
        return f"{len(self._boards)} GPU board{'s' if len(self._boards) > 1 else ''}"

    @property
    def boards(self) -> int:
        return len(self._boards)

    def joules(self) -> float:
        return sum(self._advance(board) for board in self._boards)

    def _open(self, handle: ctypes.c_void_p) -> _Board:
        watts = (_ask(self._library.nvmlDeviceGetPowerUsage, handle, ctypes.c_uint()) or 0) / 1000
        counted = _ask(self._library.nvmlDeviceGetTotalEnergyConsumption, handle, ctypes.c_ulonglong())
        return _Board(handle, counted, seen_at=self._clock(), watts=watts)

    def _advance(self, board: _Board) -> float:
        if board.first_millijoules is not None:
            counted = _ask(self._library.nvmlDeviceGetTotalEnergyConsumption, board.handle, ctypes.c_ulonglong())
            if counted is not None:
                board.joules = max(board.joules, (counted - board.first_millijoules) / 1000)
            return board.joules
        now = self._clock()
        milliwatts = _ask(self._library.nvmlDeviceGetPowerUsage, board.handle, ctypes.c_uint())
        watts = board.watts if milliwatts is None else milliwatts / 1000
        board.joules += (now - board.seen_at) * (watts + board.watts) / 2
        board.seen_at, board.watts = now, watts
        return board.joules


def find_nvml(library: Any = None) -> Found:
    """The counter of the NVIDIA boards, or the reason why there is none.

    library   a loaded NVML; None looks for the driver's own.
    """
    if library is None:
        name = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
        try:
            library = ctypes.CDLL(name)
        except OSError:
            return Found(None, "no NVIDIA driver")
    if library.nvmlInit_v2() != 0:
        return Found(None, "the NVIDIA driver is there, but NVML does not start")
    counter = Nvml(library)
    return Found(counter, "NVML") if counter.boards else Found(None, "no NVIDIA board is visible")


def _visible(library: Any) -> list[ctypes.c_void_p]:
    """Handles of the boards that CUDA_VISIBLE_DEVICES leaves visible; numbers and UUIDs are understood."""
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count.value)] if allowed is None else [n.strip() for n in allowed.split(",")]
    handles = []
    for name in filter(None, names):
        handle = ctypes.c_void_p()
        if name.isdigit():
            status = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(name)), ctypes.byref(handle))
        else:
            status = library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
        if status == 0:
            handles.append(handle)
    return handles


def _ask(function: Any, handle: ctypes.c_void_p, into: Any) -> int | None:
    """The number an NVML call gives, or None when the board can't answer it."""
    return int(into.value) if function(handle, ctypes.byref(into)) == 0 else None
