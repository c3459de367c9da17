"""BLiMP on a model that was trained here from scratch, beside the published n-gram and LSTM.

    python benchmarks/blimp.py DATA [--out blimp] [--epochs 1] [--size 4M] [--limit N]

DATA is the folder with blimp/ (BLiMP.zip and models_summary.jsonl of alexwarstadt/blimp) and the running text: books/,
tinystories_sample/, wikitext2/, wiki_demo/, c4_demo/ and state_union/, about 20 MB together. What is there is read as
paragraphs and learned by the stages data, tokenizer and train; the pairs are unpacked and scored by
`wyrmling suite blimp`. One core of an AMD EPYC takes about 20 minutes for a pass and 5 for the 67,000 pairs. All is
kept under --out, and training that was interrupted goes on. Prints Markdown: what was learned, in how much processor
time, and accuracies as a whole and by phenomenon. --limit scores the first pairs of each of the 67 contrasts only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from wyrmling import config
from wyrmling.core.artifact import Artifact
from wyrmling.evaluate.suites import run as suites
from wyrmling.evaluate.suites.definition import find
from wyrmling.flow import stages

PEERS = {"ngram": "5-gram", "lstm": "LSTM", "txl": "Transformer-XL", "gpt2": "GPT-2"}

PROJECT = """
name = "blimp"
[objective]
task = "complete"
[data.sources.text]
path = "text.jsonl"
text = "text"
[data.clean]
pii = "keep"
[data.dedup]
near = false
[data.split]
val = 0.01
test = 0.01
[tokenizer]
vocab_size = {vocabulary}
[model]
size = "{size}"
context = 128
[[train]]
name = "pretrain"
objective = "causal"
epochs = {epochs}
batch_tokens = 8192
"""


def texts(data: Path) -> Iterator[str]:
    """Every running text of the shared folder, in a form where an empty line parts paragraphs."""
    for file in sorted((data / "books").glob("*.txt")):
        yield file.read_text(encoding="utf-8", errors="replace")
    yield from _read(data / "tinystories_sample" / "tinystories_sample_2MiB.txt").split("<|endoftext|>")
    for name in ("valid.txt", "test.txt"):
        # Words are apart from their punctuation there, and headings between equals signs.
        text = re.sub(r" @(\S)@ ", r"\1", _read(data / "wikitext2" / name))
        text = re.sub(r" ([.,;:!?)%]|'s\b|n't\b)", r"\1", text).replace("( ", "(")
        yield "\n\n".join(line for line in text.splitlines() if "<unk>" not in line and not line.startswith(" ="))
    yield _read(data / "wiki_demo" / "wiki_demo.txt").replace("\n", "\n\n")
    for line in _read(data / "c4_demo" / "c4_demo.jsonl").splitlines():
        yield json.loads(line)["text"].replace("\n", "\n\n")
    for file in sorted((data / "state_union").glob("*.zip")):
        with zipfile.ZipFile(file) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".txt"):
                    yield archive.read(name).decode("utf-8", errors="replace").replace("\n", "\n\n")


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def paragraphs(data: Path) -> Iterator[str]:
    """Paragraphs without the line breaks within; headings and other lines without a sentence's end are left out."""
    for text in texts(data):
        for part in re.split(r"\n\s*\n", text):
            paragraph = " ".join(part.split())
            if len(paragraph) >= 20 and re.search(r"[.!?][\"')]*$", paragraph):
                yield paragraph


def train(data: Path, out: Path, asked: argparse.Namespace) -> Artifact:
    """The training step's artifact."""
    out.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps({"text": text}, ensure_ascii=False) for text in paragraphs(data))
    (out / "text.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    text = PROJECT.format(vocabulary=asked.vocabulary, size=asked.size, epochs=asked.epochs)
    (out / config.PROJECT_FILE).write_text(text, encoding="utf-8")
    return stages.train(config.load(out))[-1]


def pairs(data: Path, out: Path) -> Path:
    """The folder with the 67 files of pairs, unpacked."""
    with zipfile.ZipFile(data / "blimp" / "BLiMP.zip") as archive:
        archive.extractall(out, [name for name in archive.namelist() if name.endswith(".jsonl")])
    return out / "data"


def published(data: Path) -> list[Mapping[str, Any]]:
    """The paper's accuracies of the 67 contrasts; the file's other rows are means of them."""
    rows = [json.loads(line) for line in _read(data / "blimp" / "models_summary.jsonl").splitlines() if line.strip()]
    return [row for row in rows if row["UID"] != "overall"]


def table(found: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> str:
    """Accuracies in percent; each row the mean over its contrasts, as in the paper."""
    ours = {name: 100 * one["value"] for name, one in found["groups"].items()}
    lines = [
        f"| phenomenon | contrasts | ours | {' | '.join(PEERS.values())} |",
        "|---|---:|---:" + "|---:" * len(PEERS) + "|",
    ]
    of_family: dict[str, list[Mapping[str, Any]]] = {"overall": rows}
    for row in sorted(rows, key=lambda row: str(row["linguistics_term"])):
        of_family.setdefault(str(row["linguistics_term"]).replace("_", " "), []).append(row)
    for name, some in of_family.items():
        means = [fmean(ours[row["UID"]] for row in some), *(100 * fmean(row[peer] for row in some) for peer in PEERS)]
        lines.append(f"| {name} | {len(some)} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    return "\n".join(lines)


def _cpu_minutes() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    return sum(os.times()[:4]) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("blimp"))
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--size", default="4M")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--limit", type=int)
    asked = parser.parse_args()
    began, cpu = time.monotonic(), _cpu_minutes()
    made = train(asked.data, asked.out, asked)
    trained, minutes = _cpu_minutes() - cpu, (time.monotonic() - began) / 60
    found = suites.run(find("blimp"), made.path / "model", pairs(asked.data, asked.out), limit=asked.limit)
    scored = _cpu_minutes() - cpu - trained
    figures, whole = stages.train_document(made), found["metrics"]["choice"]
    print(f"{figures['tokens']:,} tokens in {figures['steps']:,} steps, loss {figures['loss']:.3f} nats per token.")
    print(f"Data, tokenizer and training: {trained:.1f} processor minutes, {minutes:.1f} by the clock.")
    print(f"{found['items']:,} pairs: {scored:.1f} processor minutes.\n")
    print(f"Overall {100 * whole['value']:.2f} ({100 * whole['low']:.2f} to {100 * whole['high']:.2f})\n")
    print(table(found, published(asked.data)))


if __name__ == "__main__":
    main()
