"""Where the first seconds go: help, `import torch`, and a whole 10-step fine-tune of a small model on 40 rows.

    python benchmarks/start.py [--runs 5]

Prints the median of each, and the ratio of the fine-tune to `import torch` plus its own steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = """
name = "first-minute"
[objective]
task = "classify"
[data.sources.rows]
path = "rows.csv"
text = "text"
label = "label"
[tokenizer]
vocab_size = 300
[model]
layers = 2
width = 64
[[train]]
name = "tune"
objective = "classify"
steps = 10
"""


def seconds(command: list[str], runs: int) -> float:
    """Median wall seconds of a whole process."""
    times = []
    for _ in range(runs):
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.monotonic() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    wyrmling = [sys.executable, "-m", "wyrmling"]
    print(f"wyrmling --help          {seconds([*wyrmling, '--help'], runs):6.2f} s")
    torch = seconds([sys.executable, "-c", "import torch"], runs)
    print(f"import torch             {torch:6.2f} s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "wyrmling.toml").write_text(PROJECT, encoding="utf-8")
        topics = [("refund", "money"), ("card", "plastic")]
        rows = [f"{topics[i % 2][0]} question number {i},{topics[i % 2][1]}" for i in range(40)]
        (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
        tokens = seconds([*wyrmling, "tokenizer", "--project", name], 1)
        print(f"data and tokenizer       {tokens:6.2f} s")
        times, steps = [], []
        for seed in range(runs):
            started = time.monotonic()
            command = [*wyrmling, "train", "--project", name, "--json", "--set", f"train.tune.lr=0.0{seed + 1}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            times.append(time.monotonic() - started)
            model = Path(json.loads(done.stdout)["model"])
            logged = [json.loads(line) for line in (model.parent / "steps.jsonl").read_text().splitlines()]
            steps.append(max(row["seconds"] for row in logged if "seconds" in row))
    whole, inside = statistics.median(times), statistics.median(steps)
    print(f"10-step fine-tune        {whole:6.2f} s, of which the steps {inside:.2f} s")
    print(f"ratio to import torch + steps  {whole / (torch + inside):.2f}")


if __name__ == "__main__":
    main()
