"""How near forecasts come: six training runs, forecast by the closed form and after a few real steps, then run.

python benchmarks/forecast.py text      causal from scratch, sft full, sft lora, on the shipped stories and messages
python benchmarks/forecast.py labels    masked from scratch, classify full, classify probe, on the shipped messages

Each of the two makes a project in a temporary folder, and calls `wyrmling plan`, `wyrmling plan --calibrate` and
`wyrmling train` in processes of their own, as a user would. Printed are minutes and peak memory, forecast and actual.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent.parent / "examples"

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
TICKETS = f"""
[data.sources.tickets]
path = "{(EXAMPLES / "support-desk/data/train.csv").as_posix()}"
text = "text"
label = "category"
"""
PROJECTS = {
    "text": f"""
[objective]
task = "chat"
[data.sources.stories]
path = "{(EXAMPLES / "storyteller/data/stories.txt").as_posix()}"
separator = "<|endoftext|>"
[data.sources.asked]
path = "{(EXAMPLES / "support-desk/data/train.csv").as_posix()}"
prompt = "text"
response = "category"
[[train]]
name = "causal"
objective = "causal"
sources = ["stories"]
steps = 150
[[train]]
name = "sft"
objective = "sft"
sources = ["asked"]
steps = 150
[[train]]
name = "lora"
objective = "sft"
method = "lora"
sources = ["asked"]
steps = 150
""",
    "labels": f"""
[objective]
task = "classify"
{TICKETS}
[[train]]
name = "masked"
objective = "masked"
steps = 150
[[train]]
name = "full"
objective = "classify"
epochs = 3
[[train]]
name = "probe"
objective = "classify"
method = "probe"
epochs = 60
""",
}


def wyrmling(project: Path, *arguments: str) -> dict[str, Any]:
    """The JSON document that a verb prints, in a process of its own."""
    command = [sys.executable, "-m", "wyrmling", *arguments, "--project", str(project), "--json", "--quiet"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def compared(project: Path) -> list[dict[str, Any]]:
    """One row per run: forecasts and what happened."""
    wyrmling(project, "tokenizer")
    closed, calibrated = wyrmling(project, "plan"), wyrmling(project, "plan", "--calibrate")
    last = wyrmling(project, "train")
    rows = []
    for step in [*last["steps_before"], last]:
        actual = {"minutes": step["seconds"] / 60, "memory_gb": step["peak_memory_gb"], "kwh": step["wh"] / 1000}
        row: dict[str, Any] = {"run": step["name"], "steps": step["steps"]}
        for name, value in actual.items():
            row[name] = value
            for kind, plan in (("closed", closed), ("calibrated", calibrated)):
                row[f"{name}_{kind}"] = plan["stages"][f"train {step['name']}"][name]["value"] / value
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=PROJECTS)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        common = COMMON.format(layers=asked.layers, width=asked.width, threads=asked.threads)
        (project / "wyrmling.toml").write_text(common + PROJECTS[asked.which])
        rows = compared(project)
    print(f"{'run':<10} steps  minutes  closed  calibrated |    GB  closed  calibrated | Wh: closed  calibrated")
    for row in rows:
        print(
            f"{row['run']:<10} {row['steps']:>5} {row['minutes']:>8.2f} {row['minutes_closed']:>7.2f} "
            f"{row['minutes_calibrated']:>11.2f} | {row['memory_gb']:>5.2f} {row['memory_gb_closed']:>7.2f} "
            f"{row['memory_gb_calibrated']:>11.2f} | {row['kwh_closed']:>10.2f} {row['kwh_calibrated']:>11.2f}"
        )
    print("closed and calibrated: forecast over what happened")


if __name__ == "__main__":
    main()
