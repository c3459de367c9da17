"""Supervised fine-tuning beside TRL's SFTTrainer: the same random model, tokenizer, rows, epochs and rows per step.

    OMP_NUM_THREADS=1 python benchmarks/sft.py FOLDER --peer PYTHON [--rows 1100] [--rounds 1]

FOLDER   holds instruction-data.json (a list of {instruction, input, output})
PYTHON   the interpreter of an environment of its own with trl (`pip install trl==1.16.0`)

Each run is a process of its own that loads the model, prepares the rows, trains one epoch with AdamW on batches of
about 8 rows, and saves. "loop" is the time of all steps, from before the first to after the last, "process" that of
the whole program; tokens are real ones, without padding. Ratios are of processor time, which other programs on the
machine disturb least: give each run one thread. Peak memory is the kernel's record of the process. With several rounds,
in which all take turns, the last lines are the medians of the ratios.

wyrmling   as it is, with the data stage done before: it tokenises nothing here, the peer does, which "process" includes
defaults   SFTConfig as it comes: batches of 8 padded rows, bf16, gradient checkpointing
packed     the same with packing
float32    packed, without bf16 and without gradient checkpointing: what the peer's best could be where bf16 is slow
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROWS_PER_STEP, CONTEXT = 8, 512

PROJECT = """
name = "sft"
objective = {{ task = "answer" }}

[data.sources.rows]
path = "rows.jsonl"
prompt = "prompt"
response = "response"

[data.clean]
pii = "keep"

[data.dedup]
exact = false
near = false

[data.split]
val = 0.0
test = 0.0

[tokenizer]
vocab_size = 4096

[model]
size = "{size}"
context = {context}

[[train]]
name = "start"
objective = "causal"
steps = 1
lr = 1e-9

[[train]]
name = "tune"
objective = "sft"
epochs = 1
optimizer = "adamw"
lr = 2e-5
batch_tokens = {batch_tokens}
"""

PEER = """
import json, sys, time
began = time.monotonic()
import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer
model, rows, out, more = sys.argv[1:5]
rows = [json.loads(line) for line in open(rows)]
said = lambda role, text: [{"role": role, "content": text}]
rows = [{"prompt": said("user", r["prompt"]), "completion": said("assistant", r["response"])} for r in rows]
config = SFTConfig(
    output_dir=out, use_cpu=True, num_train_epochs=1, save_strategy="no", report_to="none", disable_tqdm=True,
    **json.loads(more),
)
trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows))
before = time.process_time()
done = trainer.train()
used = time.process_time() - before
trainer.save_model(out)
tokens = max(line.get("num_tokens", 0) for line in trainer.state.log_history)
peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) * 1024
print("RESULT", json.dumps({
    "tokens": tokens, "loop": done.metrics["train_runtime"], "loop_cpu": used, "steps": trainer.state.global_step,
    "peak": peak / 1e9, "loss": done.metrics["train_loss"],
}))
"""

OURS = """
import json, sys, time
from pathlib import Path
from wyrmling import config
from wyrmling.flow import stages
from wyrmling.train import course
training, clocks = course.steps, []
def timed(*arguments, **options):
    clocks.append((time.monotonic(), time.process_time()))
    for done in training(*arguments, **options):
        clocks.append((time.monotonic(), time.process_time()))
        yield done
course.steps = timed
made = stages.train(config.load(Path(sys.argv[1])), sys.argv[2])[-1]
peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) * 1024
print("RESULT", json.dumps({
    "tokens": made.figures["tokens"], "steps": made.figures["steps"], "peak": peak / 1e9,
    "loop": clocks[-1][0] - clocks[0][0], "loop_cpu": clocks[-1][1] - clocks[0][1], "loss": made.figures["loss"],
}))
"""

PEERS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "packed": {"packing": True, "max_length": CONTEXT},
    "float32": {"packing": True, "max_length": CONTEXT, "bf16": False, "gradient_checkpointing": False},
}


class Run(NamedTuple):
    """Times in seconds, those of the processor as `_cpu`; peak in GB."""

    tokens: int
    loop: float
    loop_cpu: float
    process: float
    process_cpu: float
    peak: float
    steps: int
    loss: float

    def line(self, name: str) -> str:
        return (
            f"{name:<9} {self.steps:>4} steps  {self.tokens:>7,} tokens  loop {self.loop_cpu:>6.1f} CPU s "
            f"({self.loop:.1f} s) {self.tokens / self.loop_cpu:>7,.0f} tokens/CPU s  process {self.process_cpu:>6.1f} "
            f"CPU s ({self.process:.1f} s) {self.tokens / self.process_cpu:>7,.0f} tokens/CPU s  "
            f"peak {self.peak:.2f} GB  loss {self.loss:.3f}"
        )


class Ratios(NamedTuple):
    """Our tokens per processor second over the peer's, and our memory over its."""

    loop: float
    process: float
    memory: float

    @staticmethod
    def of(ours: Run, peer: Run) -> Ratios:
        return Ratios(
            loop=ours.tokens / ours.loop_cpu / (peer.tokens / peer.loop_cpu),
            process=ours.tokens / ours.process_cpu / (peer.tokens / peer.process_cpu),
            memory=ours.peak / peer.peak,
        )

    def __str__(self) -> str:
        return f"ratios: loop {self.loop:.2f}, process {self.process:.2f}, peak memory {self.memory:.2f}"


def measured(command: list[str]) -> Run:
    began, before = time.monotonic(), _children_cpu()
    done = subprocess.run(command, capture_output=True, text=True)
    took, used = time.monotonic() - began, _children_cpu() - before
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    said = json.loads(found[1])
    return Run(said["tokens"], said["loop"], said["loop_cpu"], took, used, said["peak"], said["steps"], said["loss"])


def _children_cpu() -> float:
    """Processor seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows(folder: Path, count: int) -> list[dict[str, str]]:
    raw = json.loads((folder / "instruction-data.json").read_text(encoding="utf-8"))[:count]
    return [
        {"prompt": "\n\n".join(filter(None, (row["instruction"], row["input"]))), "response": row["output"]}
        for row in raw
    ]


def prepared(root: Path, material: list[dict[str, str]], size: str) -> Path:
    """The random model, trained for one step of next to no length; the project around it is ready for the other."""
    from wyrmling import config
    from wyrmling.flow import stages
    from wyrmling.tokenizer.tokens import TokenStore

    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in material), encoding="utf-8")
    file = root / "wyrmling.toml"
    file.write_text(PROJECT.format(size=size, context=CONTEXT, batch_tokens=1000))
    project = config.load(root)
    store = TokenStore.open(stages.tokenizer(project).path, "train")
    mean = float(store.rows["length"].mean())
    file.write_text(PROJECT.format(size=size, context=CONTEXT, batch_tokens=round(ROWS_PER_STEP * mean)))
    start = stages.train(config.load(root), "start")[-1]
    if len(store) != len(material):
        sys.exit(f"the data stage kept {len(store)} of {len(material)} rows: the two would not learn the same")
    print(f"{len(store)} rows of {mean:.0f} tokens, {start.figures['parameters']:,} weights")
    return start.path / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--rows", type=int, default=1100)
    parser.add_argument("--size", default="15M")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", action="append", choices=list(PEERS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = prepared(root, rows(options.folder, options.rows), options.size)
        found: dict[str, list[Ratios]] = {kind: [] for kind in options.only or PEERS}
        for _ in range(options.rounds):
            for done in (root / "runs" / "train").glob("tune-*"):
                shutil.rmtree(done)
            ours = measured([sys.executable, "-c", OURS, str(root), "tune"])
            print(ours.line("wyrmling"), flush=True)
            for kind, ratios in found.items():
                command = [options.peer, "-c", PEER, str(model), str(root / "rows.jsonl"), str(root / f"peer-{kind}")]
                peer = measured([*command, json.dumps(PEERS[kind])])
                ratios.append(Ratios.of(ours, peer))
                print(f"{peer.line(kind)}\n  {ratios[-1]}", flush=True)
        for kind, ratios in found.items():
            print(f"{kind}, medians of {len(ratios)}: {Ratios(*map(median, zip(*ratios, strict=True)))}")


if __name__ == "__main__":
    main()
