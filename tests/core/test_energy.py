"""Energy: counters that wrap, are forbidden or mirror each other; sums, prices, memory."""

import ctypes
import mmap
import os
import subprocess
import sys
import time

import pytest

from wyrmling.core import counters, energy
from wyrmling.core.counters import Found, Sources
from wyrmling.core.energy import Meter, Tariff
from wyrmling.core.errors import BadSetting

NOTHING = Sources(Found(None, "no counters"), Found(None, "no boards"))
MAX_RANGE = 262_143_328_850


def zone(root, name, label, microjoules, max_range=MAX_RANGE):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(label + "\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{max_range}\n")
    return folder / "energy_uj"


def advance(counter, microjoules):
    """Let a fake counter run on as the real one does: around its range."""
    counter.write_text(f"{(int(counter.read_text()) + microjoules) % MAX_RANGE}\n")


def test_packages_and_their_memory_are_summed_and_what_lies_inside_is_not_counted_twice(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    dram = zone(tmp_path, "intel-rapl:0:1", "dram", 2_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 900_000_000)
    platform = zone(tmp_path, "intel-rapl:2", "psys", 77_000_000)
    mirrored = zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    rapl = counters.find_rapl(tmp_path).counter
    assert rapl.joules() == 0
    for counter, joules in ((first, 10), (core, 7), (dram, 3), (second, 20), (platform, 40), (mirrored, 10)):
        advance(counter, joules * 1_000_000)
    assert rapl.joules() == pytest.approx(33)
    assert rapl.what == "2 packages, dram"
    assert rapl.counts_memory


def test_the_platform_counts_only_where_no_package_is_listed(tmp_path):
    platform = zone(tmp_path, "intel-rapl:0", "psys", 10)
    rapl = counters.find_rapl(tmp_path).counter
    advance(platform, 4_000_000)
    assert rapl.joules() == pytest.approx(4)
    assert rapl.what == "psys"


def test_a_counter_that_wraps_goes_on_and_never_back(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", MAX_RANGE - 3_000_000)
    rapl = counters.find_rapl(tmp_path).counter
    readings = []
    for _ in range(3):
        advance(package, 2_000_000)
        readings.append(rapl.joules())
    assert readings == pytest.approx([2, 4, 6])


def test_dies_that_mirror_one_counter_count_once(tmp_path):
    one = zone(tmp_path, "intel-rapl:0", "package-0-die-0", 4_000_000_000_000, max_range=10**13)
    two = zone(tmp_path, "intel-rapl:1", "package-0-die-1", 4_000_000_000_000 + 300_000, max_range=10**13)
    rapl = counters.find_rapl(tmp_path).counter
    for counter in (one, two):
        counter.write_text(f"{int(counter.read_text()) + 8_000_000}\n")
    assert rapl.joules() == pytest.approx(8)


def test_a_forbidden_counter_is_no_counter_and_says_how_to_allow_it(tmp_path, monkeypatch):
    zone(tmp_path, "intel-rapl:0", "package-0", 1)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    # The tests may run as root, who may read everything: the refusal of the kernel is acted out.
    monkeypatch.setattr(counters, "_number", refuse)
    found = counters.find_rapl(tmp_path)
    assert found.counter is None
    assert "chmod" in found.why


@pytest.mark.parametrize("content", ["", "garbage\n"])
def test_an_unreadable_counter_is_no_counter(tmp_path, content):
    zone(tmp_path, "intel-rapl:0", "package-0", 1).write_text(content)
    assert counters.find_rapl(tmp_path).counter is None
    assert counters.find_rapl(tmp_path / "nowhere").counter is None


class FakeNvml:
    """The few calls of the NVIDIA library, with boards whose counter may be missing."""

    def __init__(self, millijoules, milliwatts):
        self.millijoules, self.milliwatts = millijoules, milliwatts

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = len(self.milliwatts)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index.value + 1
        return 0 if index.value < len(self.milliwatts) else 2

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):
        handle._obj.value = 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, value):
        found = self.millijoules[handle.value - 1]
        if found is None:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        value._obj.value = found
        return 0

    def nvmlDeviceGetPowerUsage(self, handle, value):
        value._obj.value = self.milliwatts[handle.value - 1]
        return 0


def test_boards_are_counted_by_their_counter_or_else_by_their_power(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    library, clock = FakeNvml([1_000_000, None], [300_000, 100_000]), iter([0.0, 0.0, 10.0, 20.0])
    nvml = counters.Nvml(library, clock=lambda: next(clock))
    library.millijoules[0] += 5_000
    assert nvml.joules() == pytest.approx(5 + 100 * 10)
    library.milliwatts[1] = 300_000
    assert nvml.joules() == pytest.approx(5 + 100 * 10 + 200 * 10)
    assert nvml.what == "2 GPU boards"


@pytest.mark.parametrize(("visible", "boards"), [("1", 1), ("", 0), ("0,1", 2), ("GPU-8e1c", 1)])
def test_only_visible_boards_are_counted(monkeypatch, visible, boards):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert counters.Nvml(FakeNvml([1, 1], [1, 1])).boards == boards


def test_without_a_driver_there_is_no_board_counter(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert counters.find_nvml().counter is None


class Falling:
    """A counter that gives 100 W."""

    what = "1 package"
    counts_memory = True

    def __init__(self):
        self.start = time.monotonic()

    def joules(self):
        return 100 * (time.monotonic() - self.start)


def test_the_energy_is_the_sum_of_its_parts_times_pue():
    with Meter(pue=1.5, sources=Sources(Found(Falling(), "RAPL"), Found(None, ""))) as meter:
        time.sleep(0.05)
    parts = meter.parts()
    assert [part.name for part in parts] == ["processor", "memory"]
    assert meter.cost().wh == pytest.approx(1.5 * sum(part.joules for part in parts) / 3600)
    assert parts[0].joules == pytest.approx(100 * meter.cost().seconds, rel=0.5)
    assert "rapl (1 package; idle power not subtracted)" in meter.cost().meter
    assert "PUE 1.5" in meter.cost().meter


def test_an_estimate_says_that_it_is_one_and_from_what():
    with Meter(sources=NOTHING) as meter:
        pass
    assert "estimated" in meter.cost().meter
    assert "idle" in meter.cost().meter
    with Meter(watts=65, sources=NOTHING) as meter:
        time.sleep(0.02)
    cost = meter.cost()
    assert cost.wh == pytest.approx(65 * cost.seconds / 3600)
    assert "machine.watts = 65" in cost.meter


def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_busy_seconds_of_the_processor_cost_what_a_thread_takes():
    with Meter(sources=NOTHING) as meter:
        spin(0.3)
    # 4 W for each thread's busy seconds, however many other programs share the machine.
    # Processor time is counted in ticks of 10 ms.
    assert meter.parts()[0].joules >= 4 * 0.27


def test_the_cost_can_be_read_while_the_work_goes_on_and_stands_still_after_it():
    with Meter(sources=NOTHING) as meter:
        first = meter.cost()
        time.sleep(0.05)
        second = meter.cost()
    assert 0 < first.seconds < second.seconds
    assert first.wh < second.wh
    end = meter.cost()
    time.sleep(0.05)
    assert meter.cost() == end


def test_money_is_rent_plus_electricity_and_co2_follows_the_grid():
    tariff = Tariff(usd_per_hour=3.0, usd_per_kwh=0.2, country="SWE")
    assert tariff.usd(1800, 2.0) == pytest.approx(1.5 + 0.4)
    assert tariff.kg_co2(2.0) == pytest.approx(2 * 41 / 1000)
    assert Tariff().kg_co2(1.0) == pytest.approx(0.475)


@pytest.mark.parametrize(
    ("country", "grams"),
    [("SWE", 41), ("FRA", 56), ("GBR", 238), ("USA", 369), ("DEU", 381), ("CHN", 582), ("IND", 713)],
)
def test_the_shipped_grid_table_has_the_published_values(country, grams):
    assert energy.grid_intensity(country) == grams


@pytest.mark.parametrize(("wrong", "near"), [("GER", "DEU"), ("USS", "USA"), ("UKK", "UKR")])
def test_an_unknown_country_is_refused_with_the_nearest_one_before_any_work(wrong, near):
    with pytest.raises(BadSetting, match=wrong) as refused:
        Meter(country=wrong)
    assert near in str(refused.value)


def test_peak_memory_is_that_of_the_block_and_reaches_the_meter_around_it():
    with Meter(sources=NOTHING) as outer:
        with mmap.mmap(-1, 200_000_000) as large:  # malloc may keep what it frees: model/memory.py tells it to
            large.write(b"x" * len(large))
        with Meter(sources=NOTHING) as inner:
            time.sleep(0.01)
    assert outer.cost().peak_memory_gb > 0.2
    if os.path.exists("/proc/self/clear_refs"):
        assert inner.cost().peak_memory_gb < outer.cost().peak_memory_gb - 0.15


def test_memory_and_time_of_children_count():
    code = "import time\nx = bytearray(150_000_000)\nwhile time.process_time() < 1.2: pass"
    with Meter(sources=NOTHING) as meter:
        before = meter.cost()
        subprocess.run([sys.executable, "-c", code], check=True)
    assert meter.cost().peak_memory_gb > before.peak_memory_gb + 0.12
    assert meter.parts()[0].joules >= 4 * 1.1


def test_asking_for_the_cost_is_cheap_enough_for_every_step():
    with Meter(sources=NOTHING) as meter:
        meter.cost()
        before = time.process_time()
        for _ in range(200):
            meter.cost()
        assert (time.process_time() - before) / 200 < 1e-3
