"""The tokenizer stage beside `tokenizers`: training, encoding, and the memory of the whole stage on a large corpus.

    python benchmarks/tokenizer.py DIR [--rounds 3] [--gigabytes 2] [--work /tmp]

DIR     a folder with text files; whatever is UTF-8 in it is read
train   20 MB of it to 32,768 tokens: CPU seconds of `bpe.train`, conversion and check included, and of the BPE trainer
        of tokenizers with the same pattern
encode  all of it: CPU seconds of `bulk.encoder` and of `encode_batch_fast`, and whether all ids are equal
memory  with --gigabytes: a corpus of that size, made of DIR with one word in 25 replaced by random letters, taken
        through the stage in a process of its own. The corpus is deleted afterwards.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from wyrmling import config
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.records import EXAMPLE_SCHEMA
from wyrmling.tokenizer import bpe, bulk, folder, run
from wyrmling.tokenizer.examples import batches
from wyrmling.tokenizer.tokenizer import Tokenizer

TRAIN_BYTES, VOCAB_SIZE, DOCUMENT_CHARS = 20_000_000, 32_768, 10_000
ROW_GROUP_CHARS = 32_000_000


def read(directory: Path) -> list[str]:
    """The UTF-8 text of every file, in documents of 10,000 characters."""
    documents = []
    for path in sorted(directory.rglob("*")):
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
        except (UnicodeDecodeError, OSError):
            continue
        if "\x00" not in text:
            documents += [text[at : at + DOCUMENT_CHARS] for at in range(0, len(text), DOCUMENT_CHARS)]
    return documents


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def compare(name: str, rounds: int, ours: Callable[[], Any], theirs: Callable[[], Any], megabytes: float) -> Any:
    """Print CPU seconds of both and the median of their ratios, taken round by round; what `ours` gave."""
    pairs = []
    for _ in range(rounds):
        (a, result), (b, _) = cpu_seconds(ours), cpu_seconds(theirs)
        pairs.append((a, b))
    own, other = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    ratio = statistics.median(b / a for a, b in pairs)
    print(
        f"{name:<7} {megabytes:5.1f} MB   wyrmling {own:6.2f} CPU-s ({megabytes / own:5.1f} MB/s)   "
        f"tokenizers {other:6.2f} CPU-s ({megabytes / other:5.1f} MB/s)   ratio {ratio:.1f}"
    )
    return result


def size_of(documents: list[str]) -> float:
    return sum(len(text.encode()) for text in documents) / 1e6


def train(documents: list[str], rounds: int) -> bpe.Vocabulary:
    size, corpus = 0, []
    # Drawn from the whole folder, so that no one source decides.
    for text in random.Random(0).sample(documents, len(documents)):
        if size >= TRAIN_BYTES:
            break
        size += len(text.encode())
        corpus.append(text)

    def theirs() -> None:
        learner = tokenizers.Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(bpe.word_pattern(bpe.Settings(), VOCAB_SIZE)), behavior="isolated")
        learner.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        learner.train_from_iterator(
            corpus,
            trainers.BpeTrainer(
                vocab_size=VOCAB_SIZE - len(bpe.SPECIALS),
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )

    vocabulary: bpe.Vocabulary = compare("train", rounds, lambda: bpe.train(corpus, VOCAB_SIZE), theirs, size / 1e6)
    assert vocabulary.trainer == "rustbpe"
    return vocabulary


def encode(documents: list[str], vocabulary: bpe.Vocabulary, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder.write(Path(place), vocabulary, ends=False)
        tokenizer = Tokenizer.load(Path(place))
        hf = tokenizers.Tokenizer.from_file(str(Path(place) / "tokenizer.json"))
        hf.encode_special_tokens = True
        encoder = bulk.encoder(Path(place), tokenizer, documents[:200], [""] * 200)
        parts = [documents[at : at + 400] for at in range(0, len(documents), 400)]

        def ours() -> list[bulk.Flat]:
            return [encoder.encode(part) for part in parts]

        def theirs() -> list[list[tokenizers.Encoding]]:
            return [hf.encode_batch_fast(part, add_special_tokens=False) for part in parts]

        compare("encode", rounds, ours, lambda: theirs() and None, size_of(documents))
        different = 0
        for flat, encodings in zip(ours(), theirs(), strict=True):
            different += sum(
                not np.array_equal(flat.ids[a:b], encoding.ids)
                for a, b, encoding in zip(flat.offsets, flat.offsets[1:], encodings, strict=False)
            )
        print(f"        {encoder.library}: {different} of {len(documents):,} documents have other ids")


def rows(documents: list[str], n_bytes: int) -> Iterator[dict[str, Any]]:
    """Documents again and again, each time with other random words."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzäöé"
    made = number = 0
    while made < n_bytes:
        for document in documents:
            words = document[: draw.randint(500, 8000)].split(" ")
            for at in range(0, len(words), 25):
                words[at] = "".join(draw.choices(letters, k=draw.randint(4, 10)))
            text = " ".join(words)
            made += len(text.encode())
            row = dict.fromkeys(EXAMPLE_SCHEMA.names) | {"kind": "document", "source": f"s{number % 3}", "text": text}
            row |= {"row_id": hashlib.sha256(str(number).encode()).hexdigest()[:16], "origin": f"made/{number}.txt"}
            yield row | {"split": ("val", "test")[number % 2] if number % 20 < 2 else "train"}
            number += 1
            if made >= n_bytes:
                return


def corpus(project: config.Project, documents: list[str], n_bytes: int) -> Artifact:
    key = Key("data", "large", inputs={}, settings={"bytes": n_bytes}, version=1)
    with artifact.create(project.runs, key, project.meter()) as draft:
        (draft.path / "labels.json").write_text('{"labels": [], "tags": []}', encoding="utf-8")
        with pq.ParquetWriter(draft.path / "examples.parquet", EXAMPLE_SCHEMA, compression="zstd") as writer:
            for group in batches(rows(documents, n_bytes), max_rows=100_000, max_chars=ROW_GROUP_CHARS):
                writer.write_table(pa.Table.from_pylist(group, schema=EXAMPLE_SCHEMA))
    return draft.done


def memory(documents: list[str], gigabytes: float, work: Path) -> None:
    with tempfile.TemporaryDirectory(dir=work) as place:
        root = Path(place)
        (root / "wyrmling.toml").write_text(
            'name = "large"\n[objective]\ntask = "complete"\n[data.sources.a]\npath = "a.txt"\n', encoding="utf-8"
        )
        data = corpus(config.load(root), documents, int(gigabytes * 1e9))
        done = subprocess.run(
            [sys.executable, __file__, "--stage", str(root), str(data.path)], capture_output=True, text=True, check=True
        )
        print(f"memory  {gigabytes:g} GB of text   {done.stdout.strip()}")


def stage(root: Path, data: Path) -> None:
    """The stage alone, in a process of its own."""
    started, used = time.perf_counter(), time.process_time()
    made = run.run(config.load(root), artifact.open_artifact(data, verify=False))
    seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    figures = made.figures
    summary = {name: figures[name] for name in ("tokens", "shards", "vocab_size", "trainer", "encoder")}
    print(f"peak {peak:.2f} GB resident, {seconds:.0f} s, {used:.0f} CPU-s; {json.dumps(summary)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=0.0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--stage", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        stage(*options.stage)
        return
    if options.directory is None:
        parser.error("name a folder with text files")
    documents = read(options.directory)
    print(f"{len(documents):,} documents, {size_of(documents):.1f} MB; tokenizers {tokenizers.__version__}")
    if options.rounds:
        encode(documents, train(documents, options.rounds), options.rounds)
    if options.gigabytes:
        memory(documents, options.gigabytes, options.work)


if __name__ == "__main__":
    main()
