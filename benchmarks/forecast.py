"""How near forecasts come: six training runs, forecast in three ways, then run.

python benchmarks/forecast.py text      causal from scratch, sft full, sft lora, on the shipped stories and messages
python benchmarks/forecast.py labels    masked from scratch, classify full, on the shipped messages
python benchmarks/forecast.py pairs     preference (DPO) from scratch, messages with a right and a wrong category

Each makes a project in a temporary folder, and calls `wyrmling plan`, the same with `--simulate` and `--calibrate`, and
`wyrmling train` in processes of their own, as a user would. Printed are minutes and peak memory, and each forecast over
what happened; with `--rounds` for each round, each from nothing, and the medians. A forecast is for a machine that does
nothing else; so with one thread it is compared with the processor time of the run.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

EXAMPLES = Path(__file__).parent.parent / "examples"
MESSAGES = EXAMPLES / "support-desk/data/train.csv"

COMMON = """
name = "forecast"
[machine]
threads = {threads}
[tokenizer]
vocab_size = 2048
[model]
layers = {layers}
width = {width}
[data.split]
val = 0.05
"""
PROJECTS = {
    "text": f"""
[objective]
task = "chat"
[data.sources.stories]
path = "{(EXAMPLES / "storyteller/data/stories.txt").as_posix()}"
separator = "<|endoftext|>"
[data.sources.asked]
path = "{MESSAGES.as_posix()}"
prompt = "text"
response = "category"
[[train]]
name = "causal"
objective = "causal"
sources = ["stories"]
steps = 50
[[train]]
name = "sft"
objective = "sft"
sources = ["asked"]
steps = 100
[[train]]
name = "lora"
objective = "sft"
method = "lora"
sources = ["asked"]
steps = 100
""",
    "labels": f"""
[objective]
task = "classify"
[data.sources.tickets]
path = "{MESSAGES.as_posix()}"
text = "text"
label = "category"
[[train]]
name = "masked"
objective = "masked"
steps = 150
[[train]]
name = "full"
objective = "classify"
steps = 150
""",
    "pairs": """
[objective]
task = "chat"
[data.sources.pairs]
path = "pairs.jsonl"
[[train]]
name = "preference"
objective = "preference"
steps = 100
""",
}


def write_pairs(path: Path) -> None:
    """Each message with its category, and with that of a message 100 rows on as the worse answer."""
    with MESSAGES.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    with path.open("w", encoding="utf-8") as out:
        for row, other in zip(rows, rows[100:] + rows[:100], strict=True):
            if row["category"] != other["category"]:
                pair = {"prompt": row["text"], "chosen": row["category"], "rejected": other["category"]}
                out.write(json.dumps(pair) + "\n")


def wyrmling(project: Path, *arguments: str) -> dict[str, Any]:
    """The JSON document that a verb prints, in a process of its own."""
    command = [sys.executable, "-m", "wyrmling", *arguments, "--project", str(project), "--json", "--quiet"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def compared(project: Path, *, threads: int) -> list[dict[str, Any]]:
    """One row per run: forecasts and what happened."""
    wyrmling(project, "tokenizer")
    plans = {
        "closed": wyrmling(project, "plan"),
        "simulated": wyrmling(project, "plan", "--simulate"),
        "calibrated": wyrmling(project, "plan", "--calibrate"),
    }
    last = wyrmling(project, "train")
    rows = []
    for step in [*last["steps_before"], last]:
        took = {"minutes": step["seconds"] / 60, "memory_gb": step["peak_memory_gb"]}
        row: dict[str, Any] = {
            "run": step["name"],
            "steps": step["steps"],
            "processor": step["cpu_seconds"] / 60,
            **took,
        }
        if threads == 1:
            took["minutes"] = row["processor"]
        for kind, plan in plans.items():
            said = plan["stages"][f"train {step['name']}"]
            row[kind] = {name: said[name]["value"] / value for name, value in took.items()}
        rows.append(row)
    return rows


HEADS = ("run", "steps", "minutes", "of a core", "closed form", "real steps")
HEADS += ("peak GB", "closed form", "simulated", "real steps")


def figures(row: dict[str, Any]) -> list[float]:
    """The columns after run and steps."""
    closed, simulated, calibrated = (row[kind] for kind in ("closed", "simulated", "calibrated"))
    times = (row["minutes"], row["processor"], closed["minutes"], calibrated["minutes"])
    return [*times, row["memory_gb"], closed["memory_gb"], simulated["memory_gb"], calibrated["memory_gb"]]


def show(row: dict[str, Any], values: list[float]) -> None:
    print(f"| {row['run']} | {row['steps']} | {' | '.join(f'{value:.2f}' for value in values)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=PROJECTS, nargs="+")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    common = COMMON.format(layers=asked.layers, width=asked.width, threads=asked.threads)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    found: dict[str, list[dict[str, Any]]] = {}
    for which in asked.which * asked.rounds:
        with tempfile.TemporaryDirectory() as folder:
            project = Path(folder)
            (project / "wyrmling.toml").write_text(common + PROJECTS[which])
            if which == "pairs":
                write_pairs(project / "pairs.jsonl")
            for row in compared(project, threads=asked.threads):
                found.setdefault(row["run"], []).append(row)
                show(row, figures(row))
    if asked.rounds > 1:
        print(f"medians of {asked.rounds}:")
        for rows in found.values():
            show(rows[0], [median(values) for values in zip(*map(figures, rows), strict=True)])


if __name__ == "__main__":
    main()
