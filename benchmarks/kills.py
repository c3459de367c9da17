"""Kill `wyrmling data` with SIGKILL at random instants, workers and all, run it again each time, and compare.

    python benchmarks/kills.py FOLDER [FOLDER ...] [--kills 20] [--workers 2] [--seed 0]

The folders are read once undisturbed. Then the stage is started and killed again and again, each time from what the
last one left; when one comes through, its artifact is compared and removed, and the next starts afresh. Id and sha256
of every file must be equal. Exits with 1 when they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = """name = "kills"
[objective]
task = "complete"
{sources}
[data.clean]
profile = "manuals"
[machine]
workers = {workers}
"""
SOURCE = '[data.sources.s{number}]\npath = "{path}/**/*"\n'


def start(project: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wyrmling", "data", "--project", str(project), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def made(project: Path) -> dict[str, str]:
    """The id of the artifact and the sha256 of its files; the manifest itself says when it was made."""
    (folder,) = project.glob("runs/data/[!.]*")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    return {"id": manifest["id"], **{name: file["sha256"] for name, file in manifest["files"].items()}}


def comes_through(project: Path, seconds: float) -> bool:
    """Run the stage for so long, then kill it and its workers; True when it was done before."""
    running = start(project)
    try:
        if running.wait(timeout=seconds):
            sys.exit(f"it ended with {running.returncode}")
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as place:
        project = Path(place)
        sources = "".join(SOURCE.format(number=n, path=path.resolve()) for n, path in enumerate(asked.folders))
        (project / "wyrmling.toml").write_text(PROJECT.format(sources=sources, workers=asked.workers))
        started = time.monotonic()
        comes_through(project, 1e6)
        whole, expected = time.monotonic() - started, made(project)
        print(f"undisturbed: {whole:.1f} s, {len(expected) - 1} files, id {expected['id']}", flush=True)
        shutil.rmtree(project / "runs")
        killed = compared = different = 0
        while killed < asked.kills or not compared:
            # At most half of the time: most runs are killed more than once.
            if comes_through(project, chance.uniform(0, 0.5) * whole if killed < asked.kills else 1e6):
                compared += 1
                different += made(project) != expected
                shutil.rmtree(project / "runs")
            else:
                killed += 1
        print(f"{killed} kills; {compared} runs came through, {different} of them with another id or other bytes")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
