"""The machine: seen without torch, measured once, remembered."""

import json
import os
import subprocess
import sys
import time

import pytest

from wyrmling.core import hardware
from wyrmling.core.errors import BadSetting


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WYRMLING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hardware, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(hardware, "CPU_SIZE", 256)
    return tmp_path / "cache"


def test_a_clock_that_stands_still_for_a_moment_does_not_make_the_machine_infinitely_fast(cache):
    now = 0

    def clock():
        """Every thousandth of a second has passed at each second call, but at one of them none has."""
        nonlocal now
        now += 1
        return (now // 2 - (now // 2 > 4)) * 1e-3

    assert hardware._fast_seconds("cpu", lambda: None, clock) == pytest.approx(1e-3)


def test_looking_at_the_machine_does_not_import_torch():
    code = (
        "import sys; from wyrmling.core import hardware as h; "
        "h.machine(); h.threads(); h.device(); h.torch_version(); h.available_memory_gb(); "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_machine_has_what_any_machine_has():
    machine = hardware.machine()
    assert 1 <= machine.cores <= machine.threads
    assert 0 < hardware.available_memory_gb() <= machine.memory_gb
    assert machine.cpu and machine.platform and machine.id
    assert json.dumps(machine.as_dict())


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (4, 4), (8, 7), (64, 63)])
def test_one_core_is_left_free_above_four(monkeypatch, cores, threads):
    machine = hardware.Machine("cpu", cores, 2 * cores, 8, (), "Linux", "3.11")
    monkeypatch.setattr(hardware, "machine", lambda: machine)
    assert hardware.threads() == threads


def test_affinity_limits_the_threads():
    if not hasattr(os, "sched_setaffinity"):
        assert hardware.machine().threads == os.cpu_count()
        return
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from wyrmling.core import hardware as h; assert h.machine().threads == h.machine().cores == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rates_are_measured_once_and_then_read(cache):
    first = hardware.rates("cpu", use_threads=1)
    assert first.float32 > 1e8 and first.bfloat16 > 1e6 and first.copy > 1e8 and 0 < first.call < 1e-3
    (file,) = cache.glob("rates-*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"float32": 123.0, "busy": False}))
    assert hardware.rates("cpu", use_threads=1).float32 == 123.0


@pytest.mark.parametrize("content", ["", "{", '{"float32": 1}', "[]"])
def test_a_damaged_cache_is_measured_again(cache, content):
    hardware.rates("cpu", use_threads=1)
    (file,) = cache.glob("rates-*.json")
    file.write_text(content)
    assert hardware.rates("cpu", use_threads=1).float32 > 1e8


def test_a_probe_on_a_busy_machine_is_repeated_after_a_while(cache, monkeypatch):
    hardware.rates("cpu", use_threads=1)
    (file,) = cache.glob("rates-*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"float32": 123.0, "busy": True}))
    for age, another in ((60, False), (660, True)):
        monkeypatch.setattr(hardware, "_measured", {})
        os.utime(file, (time.time() - age,) * 2)
        assert (hardware.rates("cpu", use_threads=1).float32 != 123.0) is another
    assert json.loads(file.read_text())["float32"] != 123.0


def test_one_process_computes_with_one_answer(cache):
    first = hardware.rates("cpu", use_threads=1)
    (file,) = cache.glob("rates-*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"float32": 123.0, "busy": True}))
    assert hardware.rates("cpu", use_threads=1) == first
    file.unlink()
    assert hardware.rates("cpu", use_threads=1) == first


@pytest.mark.parametrize(("bfloat16", "chosen"), [(50e9, "float32"), (110e9, "float32"), (200e9, "bfloat16")])
def test_bfloat16_is_taken_only_where_it_is_clearly_faster(monkeypatch, bfloat16, chosen):
    gain = bfloat16 / 100e9
    rates = hardware.Rates("cpu", 2, float32=100e9, bfloat16=bfloat16, copy=1e10, call=1e-6, gain=gain, busy=False)
    monkeypatch.setattr(hardware, "rates", lambda on: rates)
    assert hardware.dtype("cpu") == chosen
    assert hardware.dtype("cpu", "float32") == "float32"


def test_boards_are_read_from_nvidia_smi(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771, 700.00'\necho 'Odd, Name, 1000, [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if sys.platform == "win32":
        assert hardware._gpus() == ()
        return
    first, second = hardware._gpus()
    assert (first.name, round(first.memory_gb), first.watts) == ("NVIDIA H200", 151, 700)
    assert (second.name, second.watts) == ("Odd, Name", 0)


def test_a_gpu_that_is_asked_for_and_not_there_is_refused_plainly():
    import torch

    hardware.require("cpu")
    if torch.cuda.is_available():
        hardware.require("cuda")
    else:
        with pytest.raises(BadSetting, match='the device "cuda" can\'t be used'):
            hardware.require("cuda")
