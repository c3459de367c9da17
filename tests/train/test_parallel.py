"""Any number of processes trains the same model, and goes on from what any other number left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from train import several
from train.several import STEPS, STOP, Training, Way
from train.small import Small
from wyrmling import config
from wyrmling.config import Launch
from wyrmling.tokenizer import run as tokenizer
from wyrmling.train import run, shards
from wyrmling.train.team import Team

# Sums of float32 in another order.
SAME = 1e-6
TESTS = Path(__file__).parent.parent


def started(*arguments: object) -> None:
    """several.py with these arguments."""
    command = [sys.executable, several.__file__, *map(str, arguments)]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[Way, Any]:
    """The same in one process, by what is learned."""
    found = {}
    for way in dict.fromkeys(map(in_one, several.WAYS.values())):
        training = Training(Team(), way, reference=tmp_path_factory.mktemp("one"))
        figures = training.run(1, STEPS)
        weights = {name: w.clone() for name, w in training.weights().items()}
        found[way] = {"figures": figures, "look": training.look(), "weights": weights}
    return found


def in_one(way: Way) -> Way:
    """The same in one process."""
    return way._replace(launch=Launch())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What four processes wrote down, and what two, and one in which FSDP cuts nothing, made of their checkpoints."""
    out = tmp_path_factory.mktemp("ranks")
    started(out, "train:4", "resume:2", "resume:1")
    names = ("train-4", "resume-2", "resume-1")
    return out, {name: json.loads((out / f"{name}.json").read_text()) for name in names}


@pytest.mark.parametrize("way", several.WAYS)
def test_four_processes_learn_the_same_from_the_same_rows(told, alone, way):
    mine, one = told[1]["train-4"][way], alone[in_one(several.WAYS[way])]
    for got, wanted in zip(mine["figures"], one["figures"], strict=True):
        assert got[:3] == pytest.approx(wanted[:3], rel=SAME)
        assert got[3:] == wanted[3:]
    assert mine["look"] == pytest.approx(one["look"], rel=SAME)
    for name, weights in one["weights"].items():
        assert torch.allclose(torch.tensor(mine["weights"][name]), weights, atol=1e-5), name


def test_fsdp_in_bfloat16_is_the_same_but_for_rounding(told, alone):
    figures = told[1]["train-4"]["bfloat16"], alone[Way(Launch())]["figures"]
    losses, wanted = ([step[0] for step in steps] for steps in figures)
    assert losses == pytest.approx(wanted, rel=5e-3)
    assert losses != pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("way", several.SAVED)
def test_another_number_of_processes_goes_on_from_a_checkpoint(told, alone, way):
    same = in_one(several.WAYS[several.SAVED[way]])
    one = Training(Team(), same, reference=told[0] / several.SAVED[way])
    resumed = one.run(one.load(told[0] / way) + 1, STEPS)
    for figures in (told[1]["resume-2"][way], told[1]["resume-1"][way], resumed):
        for got, wanted in zip(figures, alone[same]["figures"][STOP:], strict=True):
            assert got[:3] == pytest.approx(wanted[:3], rel=SAME)


def test_a_cut_checkpoint_of_which_a_byte_changed_is_not_used(told, tmp_path, capsys):
    folder = told[0] / "fsdp"
    (file,) = folder.glob("step-*/optimizer-00003.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    broken = tmp_path / file.parent.name
    broken.mkdir()
    for one in file.parent.iterdir():
        (broken / one.name).write_bytes(bytes(content) if one.name == file.name else one.read_bytes())
    assert shards.load_newest(tmp_path, Team(), base="") is None
    assert file.name in capsys.readouterr().err


CAUSAL = (
    "train=[{name='pretrain', objective='causal', sources=['stories'], steps=80, batch_tokens=300, "
    "evaluate_every=40, micro_batch_tokens=80}]"
)


def own_project(small: Small, root: Path) -> Path:
    """The small project in a folder of its own, with the rows that are there already."""
    shutil.copytree(small.project.root, root, ignore=shutil.ignore_patterns("train", "evaluate"))
    return root


def test_a_run_stopped_in_two_processes_is_finished_by_one(small, tmp_path):
    """SIGTERM ends it with 75 and one message, everything saved; the steps are those of a process that did all."""
    root = own_project(small, tmp_path / "two")
    verb = ["train", "--project", str(root), "--json", "--set", CAUSAL, "--set", "launch.strategy='fsdp'"]
    command = [sys.executable, "-m", "wyrmling", "launch", "--processes", "2", *verb]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    began = time.monotonic()
    while not any(file.stat().st_size for file in root.glob("runs/train/.*.work/steps.jsonl")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - began < 120
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert json.loads(out)["error"]["message"].startswith("stopped by SIGTERM after step")
    assert err.count("stopped by SIGTERM") == 1
    assert len(list(root.glob("runs/train/.*.work/checkpoints/step-*/model-0000[01].safetensors"))) >= 2
    project = config.load(root, [CAUSAL])
    one = small.with_settings(CAUSAL, root=tmp_path / "one")
    tokens = tokenizer.run(project, small.data)
    made, alone = (run.run(p, small.data, tokens, p.steps[0], None) for p in (project, one))
    lines = [map(json.loads, (one.path / "steps.jsonl").read_text().splitlines()) for one in (made, alone)]
    losses = [[line["loss"] for line in one if "loss" in line] for one in lines]
    assert len(losses[0]) == len(losses[1]) == 80
    assert losses[0][:20] == pytest.approx(losses[1][:20], rel=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert made.figures["tokens"] == alone.figures["tokens"]
