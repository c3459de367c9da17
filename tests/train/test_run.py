"""The train stage end to end on a small project: it learns, it goes on after a kill, it says what it did."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.small import Small
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact, digest, file_digest
from wyrmling.core.errors import BadSetting, NothingToLearn
from wyrmling.model import folder, probes
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.train import run


def train(project: Project, small: Small, only: str | None = None) -> list[Artifact]:
    return run.run_all(project, small.data, small.tokens, only=only)


def one_step(objective: str, source: str, small: Small, root: Path, *settings: str) -> Artifact:
    step = [f'{{name="s", objective="{objective}", sources=["{source}"]}}']
    project = small.with_settings(f"train=[{step[0]}]", *(f"train.s.{text}" for text in settings), root=root)
    return train(project, small)[-1]


@pytest.mark.parametrize(
    ("objective", "source", "steps", "floor"),
    [
        # A tenth of the words is hidden from these two, sometimes the one that decides.
        ("classify", "tickets", 60, 0.3),
        ("tag", "names", 60, 0.3),
        ("sft", "chats", 300, 0.05),
        # The person, the city and the thing of a story can't be foreseen.
        ("causal", "stories", 150, 0.5),
        ("masked", "stories", 250, 0.7),
    ],
)
def test_forty_rows_are_learned_by_heart(
    objective: str, source: str, steps: int, floor: float, small: Small, tmp_path: Path
) -> None:
    quick = ["batch_tokens=400", f"steps={steps}", "dropout=0.0", "evaluate_every=1000"]
    made = one_step(objective, source, small, tmp_path, *quick)
    assert made.figures["loss"] < floor
    assert made.figures["steps"] == steps
    assert 0 < made.figures["wh_per_1k_tokens"] * made.figures["tokens"] / 1000 <= made.cost["wh"]
    assert made.figures["val"]["loss"] < 2
    about = folder.about(made.path)
    assert about is not None and about.objective == objective
    # the folder gives the recorded answers, with its own tokenizer
    replayed = probes.replay(made.path, tokenizer=Tokenizer.load(made.path / "model"))
    assert replayed.max_abs < 1e-5 and replayed.probes > 0


def test_steps_follow_each_other_and_are_found_the_second_time(small: Small, tmp_path: Path) -> None:
    project = small.with_settings("train.pretrain.steps=3", "train.tune.steps=3", root=tmp_path)
    made = train(project, small)
    assert [one.manifest["name"] for one in made] == ["pretrain", "tune"]
    assert [folder.load(one.path).head_name for one in made] == ["masked", "classes"]
    assert made[1].manifest["inputs"]["model.safetensors"] == file_digest(made[0].path / "model" / "model.safetensors")
    assert sorted(path.name for path in made[0].path.iterdir()) == [
        "finished.json",
        "manifest.json",
        "model",
        "steps.jsonl",
    ]
    assert set(made[0].manifest["forecast"]) == {"minutes", "memory_gb", "usd", "kwh", "kg_co2", "flops"}
    again = train(project, small)
    assert all(one.reused for one in again) and [one.id for one in again] == [one.id for one in made]
    changed = train(small.with_settings("train.pretrain.steps=3", "train.tune.steps=2", root=tmp_path), small)
    assert [one.reused for one in changed] == [True, False]
    slower = train(
        small.with_settings(
            "train.pretrain.steps=3", "train.tune.steps=3", "train.tune.save_every_seconds=0", root=tmp_path
        ),
        small,
    )
    assert all(one.reused for one in slower)


def test_the_same_inputs_give_the_same_bytes(small: Small, tmp_path: Path) -> None:
    made = [
        one_step("classify", "tickets", small, tmp_path / name, "steps=5", "batch_tokens=200") for name in ("a", "b")
    ]
    files = [one.manifest["files"] for one in made]
    for name in files[0]:
        if name.startswith("model/"):
            assert files[0][name] == files[1][name], name


def test_micro_batches_give_the_same_model(small: Small, tmp_path: Path) -> None:
    base = ("steps=6", "batch_tokens=300", "dropout=0.0")
    whole, parts = (
        one_step("masked", "stories", small, tmp_path, *base, f"micro_batch_tokens={micro}") for micro in (300, 40)
    )
    one, two = (folder.load(made.path).state_dict() for made in (whole, parts))
    # float32 sums in another order; in six steps weights move by a hundred times as much
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-3


@pytest.mark.parametrize(("task", "metric"), [("classify", "recall"), ("tag", "f1")])
def test_a_condition_on_a_label_that_there_is_not_is_found_before_training(
    task: str, metric: str, small: Small, tmp_path: Path
) -> None:
    source = {"classify": "tickets", "tag": "names"}[task]
    project = small.with_settings(
        f'train=[{{name="s", objective="{task}", sources=["{source}"]}}]',
        f"objective.task={task}",
        f"objective.accept=['{metric}[nosuch] >= 0.5']",
        root=tmp_path,
    )
    with pytest.raises(BadSetting, match=r"there is no label 'nosuch'(.|\n)*known: "):
        train(project, small)
    assert not (project.runs / "train").exists()


def test_steps_are_logged_one_per_line(small: Small, tmp_path: Path) -> None:
    made = one_step("classify", "tickets", small, tmp_path, "steps=6", "evaluate_every=3")
    lines = [json.loads(line) for line in (made.path / "steps.jsonl").read_text().splitlines()]
    steps, looks = [line for line in lines if "loss" in line], [line for line in lines if "val" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in looks] == [3, 6]
    assert {"loss", "lr", "tokens", "seconds", "wh", "grad_norm"} <= set(steps[0])
    assert {"accuracy", "macro_f1", "loss"} == set(looks[0]["val"])
    assert steps[-1]["tokens"] == made.figures["tokens"]


def test_only_the_head_moves_when_probing(small: Small, tmp_path: Path) -> None:
    text = '[{name="a", objective="masked", sources=["stories"]}, {name="b", objective="classify", method="probe"}]'
    project = small.with_settings(f"train={text}", "train.a.steps=2", "train.b.steps=4", root=tmp_path)
    before, after = (folder.load(made.path).body.state_dict() for made in train(project, small))
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy"])
def test_patience_ends_the_run_at_the_best_look(small: Small, tmp_path: Path, metric: str) -> None:
    """Best by the metric that objective.accept names."""
    step = '{name="s", objective="classify", sources=["tickets"], steps=40, evaluate_every=1, patience=3, lr=1e-9}'
    accept = json.dumps([f"{metric} >= 0.5", "latency_p95_ms <= 1e9"])
    project = small.with_settings(
        f"train=[{step}]", 'objective.task="classify"', f"objective.accept={accept}", root=tmp_path
    )
    made = train(project, small)[-1]
    assert made.figures["objective"] == digest(project.settings.objective.model_dump(mode="json"))
    assert made.figures["stopped"] == "patience" or made.figures["steps"] == 40
    looks = [json.loads(line) for line in (made.path / "steps.jsonl").read_text().splitlines() if '"val"' in line]
    best = max(line["val"][metric] for line in looks)
    assert made.figures["val"][metric] == best


@pytest.mark.parametrize("limit", ["hours=0.0001", "usd=1e-9", "kwh=1e-7"])
def test_a_used_up_budget_stops_cleanly(
    limit: str, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = small.with_settings(
        "train.pretrain.steps=5000", "train.tune.steps=5000", f"objective.budget.{limit}", root=tmp_path
    )
    made = train(project, small)
    assert [one.figures["stopped"] for one in made] == ["budget", "budget"]
    assert all(1 <= one.figures["steps"] < 5000 for one in made)
    assert f"budget.{limit.partition('=')[0]} is used up" in capsys.readouterr().err


def test_bad_material_leaves_nothing_behind(small: Small, tmp_path: Path) -> None:
    with pytest.raises(NothingToLearn, match="no training row fits"):
        one_step("tag", "chats", small, tmp_path)
    assert not list(tmp_path.glob("runs/train/s-*"))


def test_a_base_that_is_not_there_is_an_error(small: Small, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="nowhere"):
        train(small.with_settings("model.base=nowhere", root=tmp_path), small)


# The command line as a user runs it, killed at different instants.
STEPS = 30
SETTINGS = [
    "--set",
    f"train.pretrain.steps={STEPS}",
    "--set",
    "train.pretrain.save_every_seconds=0",
    "--set",
    "train.pretrain.batch_tokens=300",
    "--set",
    "train.pretrain.dropout=0.1",
    "--set",
    "train.pretrain.evaluate_every=7",
]


def start(root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wyrmling", "train", "--project", str(root), "--step", "pretrain", *SETTINGS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def checkpoints(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("runs/train/.pretrain-*/checkpoints/step-*") if path.suffix != ".tmp")


def weights(root: Path) -> str:
    (path,) = root.glob("runs/train/pretrain-*/model/model.safetensors")
    return file_digest(path)


def wait_for(root: Path, process: subprocess.Popen[bytes], step: int) -> None:
    while process.poll() is None and not any(name >= f"step-{step:08d}" for name in checkpoints(root)):
        time.sleep(0.002)


def test_killed_and_stopped_runs_end_with_the_bits_of_an_undisturbed_one(small: Small, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for root in (undisturbed, killed):
        shutil.copytree(small.project.root, root)
    whole = start(undisturbed)

    process = start(killed)
    wait_for(killed, process, 4)
    process.kill()
    process.communicate()
    assert checkpoints(killed) and not list(killed.glob("runs/train/pretrain-*"))

    process = start(killed)
    wait_for(killed, process, 12)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75, said.decode()
    assert b"going on after step" in said and b"stopped by SIGTERM" in said

    # the newest checkpoint is damaged; the one before it is used
    newest = killed / "runs" / "train"
    (path,) = newest.glob(f".pretrain-*/checkpoints/{checkpoints(killed)[-1]}/model.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    process = start(killed)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    assert b"cannot be used" in said
    _, said = whole.communicate()
    assert whole.returncode == 0, said.decode()
    assert weights(killed) == weights(undisturbed)
    (log,) = killed.glob("runs/train/pretrain-*/steps.jsonl")
    logged = [json.loads(line)["step"] for line in log.read_text().splitlines() if '"loss": ' in line and "lr" in line]
    assert logged == list(range(1, STEPS + 1))
    # Energy is that of all attempts: it never falls.
    energy = [json.loads(line)["wh"] for line in log.read_text().splitlines() if '"wh"' in line]
    assert energy == sorted(energy) and energy[0] < energy[-1]


def test_training_never_imports_the_compiler_or_other_heavy_libraries(small: Small, tmp_path: Path) -> None:
    root = tmp_path / "light"
    shutil.copytree(small.project.root, root)
    code = (
        "import sys; from wyrmling.cli import main; sys.argv = sys.argv[:1] + sys.argv[2:]\n"
        "try: main()\n"
        "finally: print([m for m in ('torch._dynamo', 'torch._inductor', 'sympy', 'transformers', 'sklearn')"
        " if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "-", "train", "--project", str(root), "--step", "pretrain"]
    done = subprocess.run([*command, "--set", "train.pretrain.steps=2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("[]"), done.stderr[-300:]
