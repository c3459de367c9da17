"""Supervised fine-tuning beside TRL's SFTTrainer: the same random model, tokenizer, rows and epochs.

    OMP_NUM_THREADS=1 python benchmarks/sft.py FOLDER --peer PYTHON [--rows 1000] [--rounds 1]

FOLDER   holds instruction-data.json (a list of {instruction, input, output}), whose last 100 rows are not trained on
PYTHON   the interpreter of an environment of its own with trl (`pip install trl==1.16.0`)

Each run is a process of its own that loads the model, prepares the rows, trains one epoch with AdamW, and saves. "loop"
is the time of all steps, from before the first to after the last, "process" that of the whole program; tokens are real
ones, without padding. Ratios are of processor time, which other programs on the machine disturb least when each run
has one thread, and by the clock, which counts with several. Peak memory is the kernel's record of the process. The loss
on the rows not trained on, of answer tokens, is computed by transformers. With several rounds, in which all take turns,
the last lines are the medians of the ratios.

wyrmling   batches of about 8 rows and SFTTrainer's learning rate, all else as it is; the data stage is done before: it
           tokenises nothing here, the peer does, which "process" includes
derived    the same with batch and rate as wyrmling derives them
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
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROWS_PER_STEP, CONTEXT, HELD_OUT = 8, 512, 100

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
{numbers}
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
    "peak": peak / 1e9, "loss": done.metrics["train_loss"], "model": out,
}))
"""

# Nats per answer token of each model folder.
JUDGE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
rows = [json.loads(line) for line in open(sys.argv[1])]
for folder in sys.argv[2:]:
    tokenizer, total, count = AutoTokenizer.from_pretrained(folder), 0.0, 0
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for row in rows:
        asked = [{"role": "user", "content": row["prompt"]}]
        said = asked + [{"role": "assistant", "content": row["response"]}]
        template = lambda talk, **more: tokenizer.apply_chat_template(talk, tokenize=False, **more)
        # Up to the mark that ends the answer: what a template writes after it is no part of it.
        ids, prompt = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (template(said).rstrip(), template(asked, add_generation_prompt=True))
        )
        with torch.inference_mode():
            scores = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        answer = torch.tensor(ids[len(prompt) :])
        total -= float(scores.gather(1, answer[:, None]).sum())
        count += len(answer)
    print("RESULT", json.dumps(total / count))
"""

# `wyrmling train`, with clocks around its loop.
OURS = """
import contextlib, io, json, sys, time
from wyrmling.cli import main
from wyrmling.train import course
training, clocks = course.steps, []
def timed(*arguments, **options):
    clocks.append((time.monotonic(), time.process_time()))
    for done in training(*arguments, **options):
        clocks.append((time.monotonic(), time.process_time()))
        yield done
course.steps = timed
sys.argv[1:] = ["train", "--project", sys.argv[1], "--json", "--quiet"]
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
made = json.loads(out.getvalue())
print("RESULT", json.dumps({
    "tokens": made["tokens"], "steps": made["steps"], "peak": made["peak_memory_gb"], "loss": made["loss"],
    "loop": clocks[-1][0] - clocks[0][0], "loop_cpu": clocks[-1][1] - clocks[0][1], "model": made["model"],
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
    model: str

    def line(self, name: str) -> str:
        return (
            f"{name:<9} {self.steps:>4} steps  {self.tokens:>7,} tokens  loop {self.loop_cpu:>6.1f} CPU s "
            f"({self.loop:.1f} s) {self.tokens / self.loop_cpu:>7,.0f} tokens/CPU s  process {self.process_cpu:>6.1f} "
            f"CPU s ({self.process:.1f} s) {self.tokens / self.process_cpu:>7,.0f} tokens/CPU s  "
            f"peak {self.peak:.2f} GB  loss {self.loss:.3f}"
        )


class Ratios(NamedTuple):
    """Our tokens per processor second over the peer's, the same by the clock, and our memory over its."""

    loop: float
    process: float
    loop_by_clock: float
    process_by_clock: float
    memory: float

    @staticmethod
    def of(ours: Run, peer: Run) -> Ratios:
        tokens = ours.tokens / peer.tokens
        return Ratios(
            loop=tokens * peer.loop_cpu / ours.loop_cpu,
            process=tokens * peer.process_cpu / ours.process_cpu,
            loop_by_clock=tokens * peer.loop / ours.loop,
            process_by_clock=tokens * peer.process / ours.process,
            memory=ours.peak / peer.peak,
        )

    def __str__(self) -> str:
        return (
            f"ratios: loop {self.loop:.2f} ({self.loop_by_clock:.2f} by the clock), process {self.process:.2f} "
            f"({self.process_by_clock:.2f}), peak memory {self.memory:.2f}"
        )


def measured(command: list[str]) -> Run:
    began, before = time.monotonic(), _children_cpu()
    done = subprocess.run(command, capture_output=True, text=True)
    took, used = time.monotonic() - began, _children_cpu() - before
    (said,) = _results(command, done)
    return Run(process=took, process_cpu=used, **said)


def _results(command: list[str], done: subprocess.CompletedProcess[str]) -> list[Any]:
    """What a program said in lines of its own."""
    found = re.findall(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return [json.loads(one) for one in found]


def judged(peer: str, material: Path, models: list[str]) -> list[float]:
    """Nats per answer token of the rows in a file, by transformers."""
    command = [peer, "-c", JUDGE, str(material), *models]
    return _results(command, subprocess.run(command, capture_output=True, text=True))


def _children_cpu() -> float:
    """Processor seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows(folder: Path) -> list[dict[str, str]]:
    raw = json.loads((folder / "instruction-data.json").read_text(encoding="utf-8"))
    return [
        {"prompt": "\n\n".join(filter(None, (row["instruction"], row["input"]))), "response": row["output"]}
        for row in raw
    ]


def write_rows(path: Path, material: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in material), encoding="utf-8")


def prepared(root: Path, material: list[dict[str, str]], size: str) -> dict[str, Path]:
    """A project for each way of ours, with the random model ready: trained for one step of next to no length."""
    from wyrmling import config
    from wyrmling.flow import stages
    from wyrmling.tokenizer.tokens import TokenStore

    ours = {name: root / name for name in ("wyrmling", "derived")}
    first = ours["wyrmling"]
    first.mkdir()
    write_rows(first / "rows.jsonl", material)
    text = partial(PROJECT.format, size=size, context=CONTEXT)
    (first / "wyrmling.toml").write_text(text(numbers=""))
    project = config.load(first)
    store = TokenStore.open(stages.tokenizer(project).path, "train")
    mean = float(store.rows["length"].mean())
    start = stages.train(project, "start")[-1]
    if len(store) != len(material):
        sys.exit(f"the data stage kept {len(store)} of {len(material)} rows: the two would not learn the same")
    print(f"{len(store)} rows of {mean:.0f} tokens, {start.figures['parameters']:,} weights")
    shutil.copytree(first, ours["derived"])
    numbers = f"lr = 2e-5\nbatch_tokens = {round(ROWS_PER_STEP * mean)}"
    (first / "wyrmling.toml").write_text(text(numbers=numbers))
    shutil.copytree(start.path / "model", root / "start")
    return ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--size", default="15M")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", action="append", choices=list(PEERS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root, material = Path(name), rows(options.folder)
        projects = prepared(root, material[:-HELD_OUT][: options.rows], options.size)
        found: dict[tuple[str, str], list[Ratios]] = {}
        for _ in range(options.rounds):
            done: dict[str, Run] = {}
            for ours, project in projects.items():
                for trained in (project / "runs" / "train").glob("tune-*"):
                    shutil.rmtree(trained)
                done[ours] = measured([sys.executable, "-c", OURS, str(project)])
                print(done[ours].line(ours), flush=True)
            for kind in options.only or PEERS:
                trained_on = root / "wyrmling" / "rows.jsonl"
                command = [options.peer, "-c", PEER, str(root / "start"), str(trained_on), str(root / f"peer-{kind}")]
                done[kind] = measured([*command, json.dumps(PEERS[kind])])
                print(done[kind].line(kind), flush=True)
                for ours in projects:
                    found.setdefault((ours, kind), []).append(Ratios.of(done[ours], done[kind]))
                    print(f"  {ours}, {found[ours, kind][-1]}", flush=True)
        write_rows(root / "held-out.jsonl", material[-HELD_OUT:])
        folders = {"start": str(root / "start")} | {name: run.model for name, run in done.items()}
        losses = judged(options.peer, root / "held-out.jsonl", list(folders.values()))
        print("loss on rows not trained on:", ", ".join(f"{n} {v:.3f}" for n, v in zip(folders, losses, strict=True)))
        for (ours, kind), ratios in found.items():
            print(f"{ours} beside {kind}, medians of {len(ratios)}: {Ratios(*map(median, zip(*ratios, strict=True)))}")


if __name__ == "__main__":
    main()
