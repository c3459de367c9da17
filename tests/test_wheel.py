"""What is published: the wheel holds the examples and works without the checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from shell import ROOT, write_small_project


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the wheel, laid out as pip does; built from a copy, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("src", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def wyrmling(installed: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "wyrmling", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=installed.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_wheel_is_what_runs(installed):
    code = "import wyrmling; print(wyrmling.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(installed))


def test_the_wheel_carries_every_file_of_the_package_and_the_examples(installed):
    for folder, inside in ((ROOT / "src" / "wyrmling", "wyrmling"), (ROOT / "examples", "wyrmling/examples")):
        for file in folder.rglob("*"):
            if (
                file.is_file()
                and not {"__pycache__", "runs"} & set(file.parts)
                and not file.name.startswith("wyrmling.db")
            ):
                assert (installed / inside / file.relative_to(folder)).is_file(), file
    licences = list(installed.glob("wyrmling-*.dist-info/licenses/LICENSE"))
    assert len(licences) == 1


def test_the_wheel_makes_and_runs_an_example(installed, tmp_path):
    wyrmling(installed, "init", tmp_path / "stories", "--example", "storyteller")
    wyrmling(installed, "data", "--project", tmp_path / "stories", "--quiet")


def test_the_same_project_in_another_folder_gives_the_same_weights(installed, small_project, tmp_path):
    again = write_small_project(tmp_path / "again")
    wyrmling(installed, "run", "--project", again, "--quiet")
    assert len(weights(small_project)) == 2 and weights(again) == weights(small_project)


def weights(project: Path) -> list[str]:
    files = project.glob("runs/train/*/model/model.safetensors")
    return sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
