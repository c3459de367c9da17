"""Seconds, energy, peak memory, money and CO2 of a block of work.

Energy is read from counters where the machine has them and may be read, else estimated, and `Cost.meter` says which and
from what. It is the energy of the whole machine part: idle power is stated with it, not subtracted.
"""

from __future__ import annotations

import csv
import difflib
import math
import os
import threading
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from wyrmling.core import counters, ranks
from wyrmling.core.errors import BadSetting

# Estimates for machines without counters, as in codecarbon 3.3: an unknown processor takes 4 W per hardware thread and
# never less than a tenth of that; a memory module takes 5 W. One module per 16 GB is our assumption.
WATTS_PER_THREAD, IDLE_SHARE = 4.0, 0.10
WATTS_PER_MODULE, GB_PER_MODULE = 5.0, 16.0
# IEA 2019, as used by codecarbon when the country is not known.
WORLD_G_CO2_PER_KWH = 475.0
# codecarbon's table, commit b05965e of 2026-08-08 (MIT), from Our World in Data; each row says its year (2021 to 2023).
GRID = Path(__file__).with_name("grid.csv")
SAMPLE_SECONDS = 0.5
IDLE = "idle power not subtracted"
GB = 1e9


# The parts of a Cost that add up over several blocks of work; a peak and a meter do not.
SPENT = ("seconds", "wh", "usd", "kg_co2")


@dataclass(frozen=True)
class Cost:
    """What a block of work took. `meter` says how Wh were found: rapl, nvml or estimated, and from what."""

    seconds: float
    wh: float
    meter: str
    peak_memory_gb: float
    usd: float
    kg_co2: float
    cpu_seconds: float = 0.0
    """Processor time of all threads and children; of work that was taken up again, since then."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Part(NamedTuple):
    """The energy of one part of the machine, in joules, before PUE."""

    name: str
    joules: float
    how: str
    """rapl, nvml or estimated, and from what."""


@dataclass(frozen=True)
class Tariff:
    """What an hour and a kWh cost here, in money and CO2.

    usd_per_hour   rent of the machine
    usd_per_kwh    price of electricity
    country        ISO 3166 alpha-3 code of the grid; None is the world average
    pue            total power of the building over power of the computer
    Raises         BadSetting for a country that is not in the table, with the nearest one.
    """

    usd_per_hour: float = 0.0
    usd_per_kwh: float = 0.15
    country: str | None = None
    pue: float = 1.0

    def __post_init__(self) -> None:
        self.g_co2_per_kwh  # noqa: B018  an unknown country is refused here, not after the work

    @property
    def g_co2_per_kwh(self) -> float:
        """Grams of CO2 per kWh of the grid."""
        return WORLD_G_CO2_PER_KWH if self.country is None else grid_intensity(self.country)

    def usd(self, seconds: float, kwh: float) -> float:
        """Rent plus electricity. kwh: with PUE."""
        return seconds / 3600 * self.usd_per_hour + kwh * self.usd_per_kwh

    def kg_co2(self, kwh: float) -> float:
        """CO2 of that electricity. kwh: with PUE."""
        return kwh * self.g_co2_per_kwh / 1000


class Meter:
    """Measures the work between entering and leaving it; `cost()` also answers in between.

    watts      power of the whole machine under load, used when the processor's counters can't be read
    sources    the counters to read; None looks for those of this machine when the block begins
    The other arguments are those of `Tariff`. Meters may be nested.
    """

    def __init__(
        self,
        *,
        watts: float | None = None,
        usd_per_hour: float = 0.0,
        usd_per_kwh: float = 0.15,
        country: str | None = None,
        pue: float = 1.0,
        sources: counters.Sources | None = None,
    ) -> None:
        self.tariff = Tariff(usd_per_hour=usd_per_hour, usd_per_kwh=usd_per_kwh, country=country, pue=pue)
        self._watts, self._given_sources = watts, sources
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._running = False
        self._start = self._seconds = 0.0
        self._cpu_at_start = self._cpu_seconds = self._peak_gb = 0.0
        self._joules: dict[str, float] = {}
        self._joules_at: float | None = None

    def __enter__(self) -> Meter:
        self._sources = self._given_sources or counters.sources()
        self._joules, self._peak_gb, self._cpu_seconds, self._seconds = {}, 0.0, 0.0, 0.0
        self._joules_at = None
        _start_peak(self)
        self._start, self._cpu_at_start = time.monotonic(), _processes().cpu_seconds
        self._running, self._left = True, threading.Event()
        threading.Thread(target=self._watch, args=(self._left,), name="meter", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._sample()
        self._running = False
        _end_peak(self)

    def cost(self) -> Cost:
        """What the block has taken so far, or took."""
        if self._running:
            self._sample(at_least=SAMPLE_SECONDS)
        parts = self.parts()
        kwh = sum(part.joules for part in parts) / 3.6e6 * self.tariff.pue
        how = "; ".join(f"{part.name} {part.how}" for part in parts)
        return Cost(
            seconds=self._seconds,
            wh=kwh * 1000,
            meter=how + (f"; times PUE {self.tariff.pue:g}" if self.tariff.pue != 1 else ""),
            peak_memory_gb=self._peak_gb,
            usd=self.tariff.usd(self._seconds, kwh),
            kg_co2=self.tariff.kg_co2(kwh),
            cpu_seconds=self._cpu_seconds,
        )

    def parts(self) -> tuple[Part, ...]:
        """Energy of processor, memory and GPU boards; their sum times PUE is the energy of the block."""
        if not self._seconds:
            return ()
        processor, boards = self._sources
        if processor.counter is None and self._watts is not None:
            return (
                Part("machine", self._watts * self._seconds, f"estimated (machine.watts = {self._watts:g}, {IDLE})"),
            )
        parts = []
        if processor.counter is not None:
            parts.append(Part("processor", self._joules["processor"], f"rapl ({processor.counter.what}; {IDLE})"))
        else:
            parts.append(_estimated_processor(self._seconds, self._cpu_seconds))
        if not (isinstance(processor.counter, counters.Rapl) and processor.counter.counts_memory):
            watts, how = _memory_watts()
            parts.append(Part("memory", watts * self._seconds, f"estimated ({how})"))
        if boards.counter is not None:
            parts.append(Part("gpu", self._joules["gpu"], f"nvml ({boards.counter.what}; {IDLE})"))
        return tuple(parts)

    def _watch(self, left: threading.Event) -> None:
        """Sample while the block runs: counters wrap, children come and go."""
        while not left.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self, *, at_least: float = 0.0) -> None:
        """Read the clock, and the counters too when the last reading is `at_least` so many seconds old."""
        with self._lock:
            if not self._running:
                return
            self._seconds = time.monotonic() - self._start
            if self._joules_at is not None and self._seconds - self._joules_at < at_least:
                return
            # Looking at all processes takes 5 ms: too long for every step of a training run.
            self._joules_at = self._seconds
            now = _processes()
            # A child that ended without being waited for takes its seconds along: never fall back.
            self._cpu_seconds = max(self._cpu_seconds, now.cpu_seconds - self._cpu_at_start)
            self.note_peak(max(now.memory_gb, _own_peak_gb() if _peaks.exact else 0.0))
            for name, found in (("processor", self._sources.processor), ("gpu", self._sources.boards)):
                if found.counter is not None:
                    self._joules[name] = found.counter.joules()

    def note_peak(self, gb: float) -> None:
        """Take note that the process held this much memory during the block."""
        self._peak_gb = max(self._peak_gb, gb)


def full_load_watts(watts: float | None, *, gpu_watts: float = 0.0) -> tuple[float, str]:
    """Power of this machine at full load, and what the number comes from.

    watts      the user's number for the whole machine, which wins; None estimates
    gpu_watts  power limit of the GPU boards in use
    """
    if watts is not None:
        return watts, f"machine.watts = {watts:g}"
    threads = os.cpu_count() or 1
    memory, how = _memory_watts()
    total = WATTS_PER_THREAD * threads + memory + gpu_watts
    gpu = f", {gpu_watts:g} W of GPU boards" if gpu_watts else ""
    return total, f"{threads} threads at {WATTS_PER_THREAD:g} W, {how}{gpu}"


def _estimated_processor(seconds: float, cpu_seconds: float) -> Part:
    threads = os.cpu_count() or 1
    load = min(1.0, cpu_seconds / (seconds * threads))
    watts = WATTS_PER_THREAD * threads * max(IDLE_SHARE, load)
    how = f"{threads} threads at {WATTS_PER_THREAD:g} W, {load:.0%} load, idle {IDLE_SHARE:.0%} not subtracted"
    return Part("processor", watts * seconds, f"estimated ({how})")


@cache
def _memory_watts() -> tuple[float, str]:
    import psutil

    modules = math.ceil(psutil.virtual_memory().total / GB / GB_PER_MODULE)
    plural = "s" if modules > 1 else ""
    return modules * WATTS_PER_MODULE, f"{modules} memory module{plural} at {WATTS_PER_MODULE:g} W"


def grid_intensity(country: str) -> float:
    """Grams of CO2 per kWh of a country's grid, by ISO 3166 alpha-3 code. Raises BadSetting with the nearest code."""
    table = _grid()
    if country in table:
        return table[country].g_co2_per_kwh
    named = [iso for iso, row in table.items() if row.country.upper().startswith(country)]
    near = named or difflib.get_close_matches(country, table, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]} ({table[near[0]].country})?" if near else ""
    raise BadSetting(
        f"machine.country = {country!r}: no grid with this code{hint}",
        where="machine.country",
        fix="use an ISO 3166 alpha-3 code such as DEU or USA, or leave it out for the world average",
    )


class _Grid(NamedTuple):
    country: str
    g_co2_per_kwh: float


@cache
def _grid() -> dict[str, _Grid]:
    with GRID.open(encoding="utf-8", newline="") as handle:
        return {row["iso"]: _Grid(row["country"], float(row["g_co2_per_kwh"])) for row in csv.DictReader(handle)}


class _Processes(NamedTuple):
    memory_gb: float
    cpu_seconds: float


def _processes() -> _Processes:
    """Resident memory and processor time of this process and its living children, and the time of ended ones.

    Where several processes were launched together, of all of them on this node: one of them meters for all.
    Pages that parent and child share are counted in both.
    """
    import psutil

    own = os.times()
    cpu = own.user + own.system + own.children_user + own.children_system
    me = psutil.Process()
    memory = me.memory_info().rss
    family = (me.parent() or me) if ranks.launched() else me
    for child in family.children(recursive=True):
        if child == me:
            continue
        try:
            memory += child.memory_info().rss
            times = child.cpu_times()
        except psutil.Error:
            continue  # it ended just now
        cpu += times.user + times.system
    return _Processes(memory / GB, cpu)


class _Peaks:
    """The kernel's record of this process's largest memory, begun anew for every meter."""

    def __init__(self) -> None:
        self.meters: list[Meter] = []
        self.exact = False
        self.lock = threading.Lock()


_peaks = _Peaks()


def _start_peak(meter: Meter) -> None:
    """Begin the record anew, telling the meters around this one what it said so far."""
    with _peaks.lock:
        if _peaks.exact:
            for outer in _peaks.meters:
                outer.note_peak(_own_peak_gb())
        _peaks.meters.append(meter)
        try:
            # 5 resets VmHWM of this process (Linux, proc(5)); elsewhere the samples have to do.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            _peaks.exact = True
        except OSError:
            _peaks.exact = False


def _end_peak(meter: Meter) -> None:
    with _peaks.lock:
        if _peaks.exact:
            for other in _peaks.meters:
                other.note_peak(_own_peak_gb())
        _peaks.meters.remove(meter)


def _own_peak_gb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / GB
    return 0.0
