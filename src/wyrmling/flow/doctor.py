"""`wyrmling doctor`: what this machine can do, what will be slow, what is missing, and the remedy for each."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import wyrmling
from wyrmling.config import Home, Project
from wyrmling.core import counters, hardware
from wyrmling.core.errors import UsageError, WyrmlingError

Status = Literal["ok", "slow", "optional", "missing"]
MARKS = {"ok": "ok  ", "slow": "slow", "optional": "-   ", "missing": "MISSING"}
LEAST_PYTHON = (3, 11)
# Below these, training the examples gets uncomfortable (the largest takes about 1 GB).
LEAST_MEMORY_GB, LEAST_DISK_GB = 2.0, 2.0
EXTRAS = {
    "transformers": ("hf", "checks of exported folders against transformers"),
    "huggingface_hub": ("hf", "models by hub id"),
    "optuna": ("tune", "wyrmling tune"),
    "tensorboard": ("tensorboard", 'train.NAME.track = ["tensorboard"]'),
    "pynvml": ("gpu", "nothing by itself: GPU energy is read through the driver"),
}
COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `missing` stops the work, `slow` and `optional` do not; `fix` is the remedy."""

    status: Status
    name: str
    what: str
    fix: str | None = None


def report(home: Home) -> tuple[dict[str, Any], str, int]:
    """Document, text and exit code (1 when something is missing) of all findings.

    home   the project folder; without one the nearest upward, if any
    """
    found = list(machine_findings())
    try:
        project = home.project()
    except WyrmlingError as error:
        # No project here is no fault; a project file that can't be read is.
        if home != Home() or not isinstance(error, UsageError):
            found.append(Finding("missing", "project", error.what, error.fix))
    else:
        found += project_findings(project)
    missing = any(finding.status == "missing" for finding in found)
    document = {"ok": not missing, "machine": hardware.machine().as_dict(), "findings": [asdict(f) for f in found]}
    return document, "\n".join(_lines(found)), 1 if missing else 0


def _lines(found: list[Finding]) -> Iterator[str]:
    width = max(len(finding.name) for finding in found) + 2
    for finding in found:
        yield f"{MARKS[finding.status]:<8}{finding.name:<{width}}{finding.what}"
        if finding.fix is not None:
            yield f"{'':<{8 + width}}{'do' if finding.status == 'missing' else 'if wanted'}: {finding.fix}"


def machine_findings() -> Iterator[Finding]:
    """What holds for this machine, whatever the project."""
    yield _python()
    yield _machine()
    yield _memory()
    yield from _torch()
    yield _compiler()
    yield from _energy()
    yield _cache()
    for package, (extra, use) in EXTRAS.items():
        if package != "pynvml" or hardware.machine().gpus:
            yield _extra(package, extra, use)


def project_findings(project: Project) -> Iterator[Finding]:
    """What holds for a project: its folder, sources, database and port."""
    yield Finding("ok", "project", f"{project.settings.name} in {project.root}")
    yield _writable(project.root)
    yield _disk(project.root)
    yield from _checked("sources", lambda: _sources(project))
    yield from _checked("database", lambda: _database(project))
    yield from _checked("machine", lambda: _prices(project))
    yield _port(project.settings.serve.host, project.settings.serve.port)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    about = f"Python {version}, wyrmling {wyrmling.__version__}"
    if sys.version_info >= LEAST_PYTHON:
        return Finding("ok", "python", about)
    return Finding("missing", "python", about, "install Python 3.11 or newer")


def _machine() -> Finding:
    machine = hardware.machine()
    cores = f"{machine.cpu}, {machine.cores} cores ({machine.threads} threads), {machine.platform}"
    return Finding("ok", "processor", f"{cores}; trains with {hardware.threads()} threads")


def _memory() -> Finding:
    free, whole = hardware.available_memory_gb(), hardware.machine().memory_gb
    text = f"{free:.1f} GB free of {whole:.1f} GB"
    if free >= LEAST_MEMORY_GB:
        return Finding("ok", "memory", text)
    return Finding("slow", "memory", text, "close other programs, or set a smaller train.NAME.micro_batch_tokens")


def _torch() -> Iterator[Finding]:
    version, gpus = hardware.torch_version(), hardware.machine().gpus
    if version is None:
        yield Finding("missing", "torch", "not installed", "pip install 'torch>=2.13'")
        return
    try:
        device = hardware.device()
        rates = hardware.rates(device)
        dtype = hardware.dtype(device)
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding("missing", "torch", f"{version} does not work: {error}", "install torch again: pip install torch")
        return
    slow = "" if dtype == "bfloat16" else "; bfloat16 gains nothing here"
    rate = f"{rates.float32 / 1e9:,.0f} GFLOP/s in float32, {rates.bfloat16 / 1e9:,.0f} in bfloat16"
    yield Finding("ok", "torch", f"{version} on {device}: {rate}; trains in {dtype}{slow}")
    if gpus and device == "cpu":
        names = ", ".join(gpu.name for gpu in gpus)
        yield Finding("slow", "gpu", f"{names} is not used by this build of torch", "install a CUDA build of torch")
    elif gpus:
        yield Finding("ok", "gpu", ", ".join(f"{gpu.name} ({gpu.memory_gb:.0f} GB)" for gpu in gpus))
        yield from idle_gpus(len(gpus))
    else:
        yield Finding("ok", "gpu", "none; everything runs on the processor, small models best")


def idle_gpus(gpus: int) -> Iterator[Finding]:
    """What to do with more GPUs than one process uses."""
    if gpus > 1:
        what = f"`wyrmling train` uses one of {gpus} GPUs"
        yield Finding("slow", "processes", what, f"wyrmling launch --processes {gpus} train")


def _compiler() -> Finding:
    found = next((name for name in COMPILERS if shutil.which(name)), None)
    if found is not None:
        return Finding("ok", "compiler", f"{found} is there")
    return Finding("optional", "compiler", "no C++ compiler, so no torch.compile; nothing here needs it")


def _energy() -> Iterator[Finding]:
    processor, boards = counters.sources()
    if processor.counter is not None:
        yield Finding("ok", "energy", f"measured by RAPL: {processor.counter.what}")
    else:
        fix = "set machine.watts in the project file to the power of the machine under load"
        yield Finding("optional", "energy", f"estimated: {processor.why}", fix)
    if hardware.machine().gpus and boards.counter is None:
        yield Finding("optional", "gpu energy", f"not measured: {boards.why}")


def _cache() -> Finding:
    folder = hardware.cache_folder()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if os.access(nearest, os.W_OK):
        return Finding("ok", "cache", f"measurements of this machine are kept in {folder}")
    return Finding("slow", "cache", f"{folder} can't be written", "set WYRMLING_CACHE to a folder that can")


def _extra(package: str, extra: str, use: str) -> Finding:
    try:
        return Finding("ok", package, metadata.version(package))
    except metadata.PackageNotFoundError:
        return Finding("optional", package, f"not installed; for {use}", f"pip install 'wyrmling[{extra}]'")


def _checked(name: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    """The finding of a check, or its error as one."""
    try:
        yield check()
    except WyrmlingError as error:
        yield Finding("missing", name, error.what, error.fix)


def _writable(root: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        return Finding("missing", "folder", f"{root} can't be written: {error.strerror}", f"chmod u+w {root}")
    return Finding("ok", "folder", "can be written")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 1e9
    if free >= LEAST_DISK_GB:
        return Finding("ok", "disk", f"{free:.0f} GB free")
    return Finding("slow", "disk", f"only {free:.2f} GB free", f"free some space; old results lie in {root / 'runs'}")


def _sources(project: Project) -> Finding:
    from wyrmling.data.origins import find_origin

    origins = [find_origin(name, source, project.root) for name, source in project.settings.data.sources.items()]
    files = [file for origin in origins for file, _ in origin.files]
    rows = sum(len(origin.rows) for origin in origins)
    size = sum(file.stat().st_size for file in files) / 1e6
    queried = f", {rows:,} rows from databases" if rows else ""
    return Finding("ok", "sources", f"{len(origins)} sources: {len(files)} files, {size:.1f} MB{queried}")


def _database(project: Project) -> Finding:
    from wyrmling.core.store import Store

    default = project.settings.database is None
    if default and not (project.root / "wyrmling.db").exists():
        return Finding("ok", "database", "wyrmling.db, made by the first run")
    with closing(Store.open(project.database_url)) as store:
        return Finding("ok", "database", f"answers; {len(store.list_models())} model versions")


def _prices(project: Project) -> Finding:
    tariff = project.meter().tariff
    where = project.settings.machine.country or "world average"
    price = f"${tariff.usd_per_hour:g} an hour, ${tariff.usd_per_kwh:g} a kWh"
    return Finding("ok", "prices", f"{price}, {tariff.g_co2_per_kwh:.0f} g CO2 a kWh ({where}), PUE {tariff.pue:g}")


def _port(host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        # As servers do: a port whose last connection is still closing counts as free.
        if sys.platform != "win32":
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            fix = "set another serve.port, or give --port to wyrmling serve"
            return Finding("slow", "port", f"{host}:{port} can't be used: {error.strerror or error}", fix)
    return Finding("ok", "port", f"{host}:{port} is free")
