"""doctor: what is there, what is slow, what is missing, each with a remedy; the right exit code."""

import json
import os
import socket

import pytest

from shell import write_small_project
from wyrmling import config
from wyrmling.config import Home
from wyrmling.core import hardware
from wyrmling.core.hardware import Gpu, Machine
from wyrmling.flow import doctor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_small_project(tmp_path_factory.mktemp("doctor") / "desk")


def found(folder, *overrides):
    project = config.load(folder, list(overrides))
    return {finding.name: finding for finding in doctor.project_findings(project)}


def test_a_sound_project_on_a_sound_machine_has_nothing_missing(folder):
    document, text, code = doctor.report(Home(folder))
    assert code == 0 and document["ok"]
    names = {finding["name"] for finding in document["findings"]}
    assert {"python", "torch", "memory", "energy", "folder", "sources", "database", "port"} <= names
    assert json.dumps(document)
    assert all(name in text for name in names)


def test_without_a_project_the_machine_is_still_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document, _, code = doctor.report(Home())
    assert code == 0
    assert "sources" not in {finding["name"] for finding in document["findings"]}


def test_a_broken_project_file_is_missing_something(tmp_path):
    (tmp_path / "wyrmling.toml").write_text("name = ")
    document, text, code = doctor.report(Home(tmp_path))
    assert code == 1 and not document["ok"]
    assert "MISSING" in text


def test_gpus_that_one_process_leaves_idle_are_named_with_the_command_that_uses_them():
    assert list(doctor.idle_gpus(1)) == []
    (finding,) = doctor.idle_gpus(8)
    assert finding.status == "slow" and finding.fix == "wyrmling launch --processes 8 train"


def test_a_missing_source_is_named_with_its_remedy(folder):
    finding = found(folder, 'data.sources.tickets.path="gone.csv"')["sources"]
    assert finding.status == "missing"
    assert "gone.csv" in finding.what and finding.fix


def test_a_database_that_does_not_answer_is_missing(folder):
    finding = found(folder, 'database="sqlite:////no/such/folder/x.db"')["database"]
    assert finding.status == "missing" and finding.fix


def test_an_unknown_country_is_found_before_the_run(folder):
    assert found(folder, 'machine.country="XXX"')["machine"].status == "missing"


def test_a_port_in_use_is_said_with_another_way(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = found(folder, f"serve.port={port}")["port"]
    assert finding.status == "slow"
    assert str(port) in finding.what and "--port" in finding.fix


def test_a_folder_that_can_not_be_written_is_missing(folder, monkeypatch):
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        folder.chmod(0o555)
        try:
            assert found(folder)["folder"].status == "missing"
        finally:
            folder.chmod(0o755)
        return

    # Root may write everywhere: the refusal of the system is acted out.
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert found(folder)["folder"].status == "missing"


def machine_with(monkeypatch, *, gpus=(), torch="2.13.0+cpu"):
    monkeypatch.setattr(hardware, "machine", lambda: Machine("cpu", 4, 8, 16, gpus, "Linux", "3.11"))
    monkeypatch.setattr(hardware, "torch_version", lambda: torch)
    rates = hardware.Rates("cpu", 4, 1e11, 1e9, 1e10, 1e-6, gain=0.01, busy=False)
    monkeypatch.setattr(hardware, "rates", lambda on: rates)
    return {finding.name: finding for finding in doctor.machine_findings()}


def test_without_torch_the_install_line_is_named(monkeypatch):
    finding = machine_with(monkeypatch, torch=None)["torch"]
    assert finding.status == "missing" and "pip install" in finding.fix


def test_a_board_that_this_torch_can_not_use_is_said(monkeypatch):
    findings = machine_with(monkeypatch, gpus=(Gpu("NVIDIA L4", 24, 72),))
    assert findings["gpu"].status == "slow" and "NVIDIA L4" in findings["gpu"].what


def test_without_a_compiler_work_goes_on(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    finding = machine_with(monkeypatch)["compiler"]
    assert finding.status == "optional" and "torch.compile" in finding.what


def test_too_little_memory_is_slow(monkeypatch):
    monkeypatch.setattr(hardware, "available_memory_gb", lambda: 0.5)
    assert machine_with(monkeypatch)["memory"].status == "slow"
