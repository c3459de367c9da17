"""Kill `wyrmling run` with SIGKILL at random instants, run it again each time, and compare the final weights.

    python benchmarks/resume.py [--kills 10] [--seed 0] [--set train.tune.epochs=2 ...] [--example support-desk]

The project runs once undisturbed and once with the kills; the sha256 of every model.safetensors must be equal.
Exits with 1 when they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(project: Path, overrides: list[str]) -> list[str]:
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "wyrmling", "train", "--project", str(project), "--quiet", *sets]


def weights(project: Path) -> dict[str, str]:
    """sha256 of each training step's weights, by step."""
    files = sorted(project.glob("runs/train/*/model/model.safetensors"))
    return {file.parent.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", default="support-desk")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, disturbed = Path(folder) / "undisturbed", Path(folder) / "disturbed"
        init = [sys.executable, "-m", "wyrmling", "init", str(undisturbed), "--example", options.example, "--quiet"]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(undisturbed, disturbed)
        # Frequent checkpoints, so that a kill meets a save in progress too. The setting does not change the weights.
        overrides = [*options.overrides, *options_for_frequent_saves(undisturbed)]
        started = time.monotonic()
        subprocess.run(command(undisturbed, overrides), check=True, stdout=subprocess.DEVNULL)
        whole = time.monotonic() - started
        print(f"undisturbed: {whole:.1f} s", flush=True)
        for kill in range(options.kills):
            after = chance.uniform(0.02, 0.35) * whole
            process = subprocess.Popen(command(disturbed, overrides), stdout=subprocess.DEVNULL)
            try:
                process.wait(timeout=after)
                print(f"kill {kill + 1}: the work was done before {after:.1f} s", flush=True)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                print(f"kill {kill + 1}: SIGKILL after {after:.1f} s", flush=True)
        subprocess.run(command(disturbed, overrides), check=True, stdout=subprocess.DEVNULL)
        expected, got = weights(undisturbed), weights(disturbed)
    for name in sorted(expected | got):
        print(f"{name}  {expected.get(name, 'missing')[:16]}  {got.get(name, 'missing')[:16]}")
    same = bool(expected) and expected == got
    print("equal, bit for bit" if same else "DIFFERENT")
    return 0 if same else 1


def options_for_frequent_saves(project: Path) -> list[str]:
    from wyrmling import config

    return [f"train.{step.name}.save_every_seconds=1" for step in config.load(project).steps]


if __name__ == "__main__":
    sys.exit(main())
