"""Flip single bits in checkpoints of a real training step: is every one noticed, and is the checkpoint before it used?

    python benchmarks/damage.py [--flips 100] [--seed 0]

A small step is trained and interrupted, so that two checkpoints are there. Each flip takes a fresh copy of them and
changes one bit of one file of the newest, chosen at random by size; half of the flips are in the small files, which
would otherwise hardly ever be met. Exits with 1 when one was not noticed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wyrmling.train import checkpoint

SETTINGS = ("train.pretrain.save_every_seconds=0", "model.layers=2", "model.width=32")


def interrupted(root: Path) -> Path:
    """A project whose first step was stopped in the middle; the folder of its checkpoints."""
    wyrmling = [sys.executable, "-m", "wyrmling"]
    subprocess.run([*wyrmling, "init", str(root), "--example", "support-desk", "--quiet"], check=True)
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [*wyrmling, "train", "--project", str(root), "--step", "pretrain", "--quiet", *sets]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not any(root.glob("runs/train/.pretrain-*/checkpoints/step-0*5")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    if process.wait() != 75:
        sys.exit(f"the training step ended with {process.returncode} instead of 75")
    (found,) = root.glob("runs/train/.pretrain-*/checkpoints")
    return found


def flip(file: Path, chance: random.Random) -> int:
    content = bytearray(file.read_bytes())
    bit = chance.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return bit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    noticed = 0
    with tempfile.TemporaryDirectory() as name:
        whole = interrupted(Path(name) / "project")
        steps = sorted(path.name for path in whole.glob("step-*"))
        for number in range(options.flips):
            copy = Path(name) / "copy"
            shutil.copytree(whole, copy)
            files = sorted(path for path in (copy / steps[-1]).iterdir() if number % 2 or path.suffix == ".json")
            file = chance.choices(files, weights=[path.stat().st_size for path in files])[0]
            bit = flip(file, chance)
            with contextlib.redirect_stderr(io.StringIO()):
                state = checkpoint.load_newest(copy)
            good = state is not None and f"step-{state.step:08d}" == steps[-2]
            noticed += good
            if not good:
                print(f"NOT NOTICED: bit {bit} of {file.name}")
            shutil.rmtree(copy)
    print(f"{noticed} of {options.flips} flipped bits noticed, and the checkpoint before used")
    return 0 if noticed == options.flips else 1


if __name__ == "__main__":
    sys.exit(main())
