"""Kill training with SIGKILL at random instants, run it again each time, and compare the final weights.

    python benchmarks/resume.py [--kills 50] [--seed 0] [--runs causal sft classify ...]

Each run is a small project with one training step of that kind. It is trained once undisturbed and once with its share
of the kills: after each, the same command is run again. A kill comes at a random instant of the training itself, which
begins with the first checkpoint; there are checkpoints after every step, so many kills meet one that is being written.
The sha256 of model.safetensors must be that of the undisturbed run. Exits with 1 when one differs.
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
from pathlib import Path

PROJECT = """
name = "resume"
objective = {{ task = "answer" }}

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
    text = PROJECT.format(file="rows.jsonl", columns=COLUMNS[kind], objective=kind, steps=steps)
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


def undisturbed(root: Path) -> tuple[str, float]:
    """The final weights, and how long the training itself took."""
    process = train(root)
    while process.poll() is None and not newest(root):
        time.sleep(0.002)
    began = time.monotonic()
    end(process)
    return str(finished(root)), time.monotonic() - began


def killed_once(root: Path, after: float) -> str:
    """Start or go on, and kill so many seconds after training began; where that was, or why it was not."""
    before, process = newest(root), train(root)
    while process.poll() is None and newest(root) == before:
        time.sleep(0.002)
    time.sleep(after)
    if process.poll() is not None:
        end(process)
        return "the work was done before"
    process.kill()
    process.communicate()
    return f"SIGKILL after {newest(root)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", nargs="+", choices=list(ROWS), default=["causal", "sft", "preference"])
    options = parser.parse_args()
    chance = random.Random(options.seed)
    equal = met = 0
    with tempfile.TemporaryDirectory() as name:
        for number, kind in enumerate(options.runs):
            kills = options.kills // len(options.runs) + (number < options.kills % len(options.runs))
            whole, disturbed = Path(name) / f"{kind}-whole", Path(name) / f"{kind}-killed"
            project(whole, kind, options.steps)
            expected, took = undisturbed(whole)
            while kills > 0:
                # As many kills as fit into one training; what is left over meets another one.
                shutil.rmtree(disturbed, ignore_errors=True)
                project(disturbed, kind, options.steps)
                here = 0
                while kills > 0 and finished(disturbed) is None:
                    said = killed_once(disturbed, chance.uniform(0, 2 * took / max(kills, 4)))
                    print(f"{kind}: {said}", flush=True)
                    if said.startswith("SIGKILL"):
                        here, kills = here + 1, kills - 1
                if finished(disturbed) is None:
                    end(train(disturbed))
                same = finished(disturbed) == expected
                met, equal = met + here, equal + here * same
                print(f"{kind}: {here} kills, {'equal' if same else 'DIFFERENT'} ({expected[:16]})", flush=True)
    print(f"{equal} of {met} kills ended with the weights of an undisturbed run, bit for bit")
    return 0 if equal == met else 1


if __name__ == "__main__":
    sys.exit(main())
