"""How much memory and time the data stage takes for a corpus that is larger than memory should be.

python benchmarks/scale.py [--gb 2] [--engine processes|ray] [--workers N] [--stages data,tokenizer]

Makes a synthetic corpus of JSON Lines (2 KB documents of words with the frequencies of natural text, 2 % of them exact
and 2 % near copies, some with addresses), runs the stages by the command line, and watches the resident memory of all
their processes. Prints one JSON line per stage; the corpus and the results are deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

WORDS_PER_DOCUMENT = 330
TOML = """name = "scale"
[objective]
task = "complete"
[data.sources.corpus]
path = "corpus.jsonl"
[data.clean]
profile = "manuals"
"""


def make_corpus(path: Path, n_bytes: int) -> int:
    """Write the corpus; the number of documents."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlcumwfgypbvkxjqz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 10), p=_zipf(26))) for _ in range(60_000)]
    share = _zipf(len(words))
    held: list[str] = []
    documents = size = 0
    with path.open("w", encoding="utf-8") as file:
        while size < n_bytes:
            for chosen in rng.choice(len(words), (500, WORDS_PER_DOCUMENT), p=share):
                text = _prose([words[k] for k in chosen])
                dice = random.Random(documents).random()
                if held and dice < 0.02:
                    text = held[documents % len(held)]
                elif held and dice < 0.04:
                    text = held[documents % len(held)].replace("the end", "an end") + " One more sentence ends it."
                elif dice < 0.06:
                    text += f" Write to person{documents}@example.org for more."
                if len(held) < 2_000:
                    held.append(text)
                size += file.write(json.dumps({"text": text}) + "\n")
                documents += 1
    return documents


def _zipf(count: int) -> np.ndarray:
    weights = 1 / np.arange(1, count + 1)
    return weights / weights.sum()


def _prose(words: list[str]) -> str:
    sentences = [" ".join(words[k : k + 15]).capitalize() + "." for k in range(0, len(words), 15)]
    return "\n\n".join(" ".join(sentences[k : k + 6]) for k in range(0, len(sentences), 6))


def watch(command: list[str]) -> dict[str, float]:
    """Seconds, CPU-seconds and the largest resident memory of the command and all its processes, in GB."""
    started = time.monotonic()
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    root = psutil.Process(run.pid)
    peak = peak_private = 0
    cpu: dict[int, float] = {}
    while run.poll() is None:
        total = private = 0
        try:
            for process in [root, *root.children(recursive=True)]:
                memory = process.memory_info()
                total += memory.rss
                private += memory.rss - memory.shared
                times = process.cpu_times()
                cpu[process.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            pass
        peak, peak_private = max(peak, total), max(peak_private, private)
        time.sleep(0.1)
    if run.returncode:
        sys.exit(f"{command} ended with {run.returncode}")
    seconds = time.monotonic() - started
    return {
        "seconds": seconds,
        "cpu_seconds": sum(cpu.values()),
        "peak_gb": peak / 1e9,
        "private_gb": peak_private / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--engine", default="processes")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--stages", default="data,tokenizer")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wyrmling-scale-"))
    try:
        (folder / "wyrmling.toml").write_text(TOML)
        documents = make_corpus(folder / "corpus.jsonl", round(asked.gb * 1e9))
        settings = ["--set", f'machine.engine="{asked.engine}"']
        settings += ["--set", f"machine.workers={asked.workers}"] if asked.workers else []
        for stage in asked.stages.split(","):
            found = watch([sys.executable, "-m", "wyrmling", stage, "--project", str(folder), "--json", *settings])
            rate = asked.gb * 1e3 / found["cpu_seconds"]
            numbers = {name: round(value, 2) for name, value in found.items()}
            print(json.dumps({"stage": stage, "documents": documents, **numbers, "mb_per_cpu_second": round(rate, 2)}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
