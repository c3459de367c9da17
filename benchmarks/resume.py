"""Kill training with SIGKILL at random instants, run it again each time, and compare the final weights.

    python benchmarks/resume.py [--kills 50] [--seed 0] [--runs causal sft classify ...]

Each run is a small project with one training step of that kind. It is trained once undisturbed, and again from the same
data and tokens with its share of the kills: after each, the same command is run again. A kill comes at a random instant
of the training itself, which begins with the first checkpoint of the attempt and ends when the model folder is in its
place; there are checkpoints after every step, so many kills meet one that is being written. The sha256 of
model.safetensors must be that of the undisturbed run. Prints a table; exits with 1 when one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = """
name = "resume"
objective = {{ task = "{task}" }}

[data.sources.rows]
path = "{file}"
{columns}

[data.clean]
pii = "keep"

[data.dedup]
near = false

[tokenizer]
vocab_size = 400

[model]
layers = 2
width = 64
context = 64

[machine]
threads = 1

[[train]]
name = "s"
objective = "{objective}"
steps = {steps}
batch_tokens = 400
dropout = 0.1
evaluate_every = 20
save_every_seconds = 0
"""

THINGS = ("card", "parcel", "refund", "password", "invoice", "ticket")
PEOPLE = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Frances", "John", "Kathleen", "Niklaus")
PLACES = ("London", "Boston", "Vienna", "Zurich", "Austin", "Turin", "Oslo", "Lisbon")
WHO_WHAT_WHERE = [(who, what, PLACES[i % 8]) for i, who in enumerate(PEOPLE) for what in THINGS]

# The rows of each run, as its file and the columns that say what they are.
ROWS = {
    "causal": [{"text": f"{who} took the {what} to {where} and back again."} for who, what, where in WHO_WHAT_WHERE],
    "masked": [{"text": f"{who} lost a {what} in {where} last week."} for who, what, where in WHO_WHAT_WHERE],
    "sft": [
        {"question": f"Where is the {what} of {who}?", "answer": f"The {what} of {who} is in {where}."}
        for who, what, where in WHO_WHAT_WHERE
    ],
    "classify": [{"text": f"{who} asks for the {what}", "team": what} for who, what, _ in WHO_WHAT_WHERE],
    "preference": [
        {"prompt": f"Where is the {what} of {who}?", "chosen": f"In {where}.", "rejected": f"I lost the {what}."}
        for who, what, where in WHO_WHAT_WHERE
    ],
}
TASKS = {"causal": "complete", "masked": "complete", "sft": "answer", "classify": "classify", "preference": "answer"}
COLUMNS = {
    "causal": 'text = "text"',
    "masked": 'text = "text"',
    "sft": 'prompt = "question"\nresponse = "answer"',
    "classify": 'text = "text"\nlabel = "team"',
    "preference": 'prompt = "prompt"\nchosen = "chosen"\nrejected = "rejected"',
}


def project(root: Path, kind: str, steps: int) -> None:
    root.mkdir()
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]), encoding="utf-8")
    text = PROJECT.format(file="rows.jsonl", columns=COLUMNS[kind], task=TASKS[kind], objective=kind, steps=steps)
    (root / "wyrmling.toml").write_text(text, encoding="utf-8")


def train(root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wyrmling", "train", "--project", str(root), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(root: Path) -> str | None:
    """sha256 of the final weights; None while there are none."""
    found = list(root.glob("runs/train/s-*/model/model.safetensors"))
    return hashlib.sha256(found[0].read_bytes()).hexdigest() if found else None


def newest(root: Path) -> str:
    return max((path.name for path in root.glob("runs/train/.s-*/checkpoints/step-*")), default="")


def end(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"training ended with {process.returncode}:\n{said.decode()}")


def until(process: subprocess.Popen[bytes], true: Callable[[], bool]) -> None:
    while process.poll() is None and not true():
        time.sleep(0.005)


def undisturbed(root: Path) -> tuple[str, float]:
    """The final weights, and how long the training itself took."""
    process = train(root)
    until(process, lambda: newest(root) != "")
    began = time.monotonic()
    end(process)
    return str(finished(root)), time.monotonic() - began


def killed(root: Path, after: float) -> bool:
    """Start or go on, and kill so many seconds after training began; False when the work was done before."""
    before, process = newest(root), train(root)
    until(process, lambda: newest(root) != before)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    end(process)
    return False


def compare(kind: str, kills: int, steps: int, folder: Path, chance: random.Random) -> int:
    """How many of the kills ended with the weights of the undisturbed run; prints a row of the table."""
    whole, disturbed = folder / f"{kind}-whole", folder / f"{kind}-killed"
    project(whole, kind, steps)
    expected, took = undisturbed(whole)
    left, equal, trainings = kills, 0, 0
    while left:
        # As many as fit into one training; what is left over meets another one.
        shutil.rmtree(disturbed, ignore_errors=True)
        shutil.copytree(whole, disturbed, ignore=shutil.ignore_patterns("train"))
        planned, here, trainings = left, 0, trainings + 1
        while here < planned and finished(disturbed) is None:
            here += killed(disturbed, chance.uniform(0, 2 * took / (planned + 1)))
        if finished(disturbed) is None:
            end(train(disturbed))
        left, equal = left - here, equal + here * (finished(disturbed) == expected)
    print(f"| {kind} | {steps} | {took:.1f} | {trainings} | {kills} | {equal} | {expected[:16]} |", flush=True)
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", nargs="+", choices=list(ROWS), default=["causal", "sft", "preference"])
    asked = parser.parse_args()
    chance, equal = random.Random(asked.seed), 0
    print("| objective | steps | seconds undisturbed | trainings killed | kills | equal | sha256 of the weights |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        for number, kind in enumerate(asked.runs):
            kills = asked.kills // len(asked.runs) + (number < asked.kills % len(asked.runs))
            equal += compare(kind, kills, asked.steps, Path(name), chance)
    print(f"\n{equal} of {asked.kills} kills ended with the weights of an undisturbed run, bit for bit")
    return 0 if equal == asked.kills else 1


if __name__ == "__main__":
    sys.exit(main())
