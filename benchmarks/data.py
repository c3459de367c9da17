"""The data stage beside datatrove and datasketch, in one process, on one core; ratios of CPU time.

    python benchmarks/data.py FOLDER [FOLDER ...]
    python benchmarks/data.py --filters-only FOLDER [FOLDER ...]        # in an environment with datatrove

stage    `wyrmling data` with the profile manuals and everything on (languages, private data, boilerplate, duplicates,
         decontamination), over the folders: megabytes of text that was read, per CPU-second
filters  Gopher's quality and repetition rules beside datatrove's GopherQualityFilter and GopherRepetitionFilter, on the
         same documents, and on passages of 10,000 characters of them. datatrove gets a splitter at white space, the
         fastest there is: its own needs spaCy.
near     near-duplicates end to end beside datasketch's MinHashLSH on documents with planted near-duplicates, at the
         recall that both reach; recall and false merges against exact Jaccard similarity

datatrove does not go together with some of wyrmling's dependencies: give an interpreter that has it and numpy with
--datatrove PYTHON. datasketch is needed here (pip install datasketch).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = """
name = "speed"
[objective]
task = "complete"
{sources}
[data.clean]
profile = "manuals"
language = true
[machine]
workers = 1
"""


FILTER_CHARS, NEAR_CHARS, PASSAGE_CHARS = 2_000_000, 3_000_000, 10_000


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def stage(folders: list[Path]) -> list[str]:
    """Prints the speed of the whole stage; gives the texts that it kept."""
    import pyarrow.parquet as pq

    from wyrmling import config
    from wyrmling.data import run
    from wyrmling.data.read import read_source

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sources = "".join(f'[data.sources.s{n}]\npath = "{path.resolve()}/**/*"\n' for n, path in enumerate(folders))
        (root / config.PROJECT_FILE).write_text(PROJECT.format(sources=sources))
        project = config.load(root)
        seconds, artifact = cpu(lambda: run.run(project))
        figures = artifact.manifest["figures"]
        kept = pq.read_table(artifact.path / "examples.parquet", columns=["text"])["text"].to_pylist()
        read = [len(row.body.encode()) for origin in run.find_origins(project) for row in read_source(origin)]
    size = sum(read) / 1e6
    print(
        f"stage    {figures['read']} records, {size:.1f} MB of text, {figures['kept']} kept: "
        f"{seconds:.1f} CPU-seconds, {size / seconds:.2f} MB of text per CPU-second"
    )
    return kept


def sample(texts: list[str], chars: int) -> list[str]:
    """Every n-th text, about so many characters in all."""
    return texts[:: max(1, sum(map(len, texts)) // chars)]


def our_filters(texts: list[str]) -> float:
    from wyrmling.data.filters import GOPHER_QUALITY, GOPHER_REPETITION, Page, breaks

    def both() -> None:
        for text in texts:
            page = Page(text)
            for rules in (GOPHER_QUALITY, GOPHER_REPETITION):
                next(breaks(page, rules), None)

    both()
    return cpu(both)[0]


def datatrove_filters(texts: list[str]) -> float:
    """As ours: each filter stops at the first rule that a text breaks, and every text is asked of both."""
    import datatrove.pipeline.filters.gopher_quality_filter as quality
    import datatrove.pipeline.filters.gopher_repetition_filter as repetition
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    for module in (quality, repetition):
        module.split_into_words = lambda text, language: text.split()
    filters = (GopherQualityFilter(), GopherRepetitionFilter())

    def both() -> None:
        for number, text in enumerate(texts):
            document = Document(text=text, id=str(number))
            for one in filters:
                one.filter(document)

    return cpu(both)[0]


def filters(what: str, texts: list[str], datatrove: str | None) -> None:
    mine, size = our_filters(texts), sum(map(len, texts)) / 1e6
    print(f"filters  {what}: wyrmling {mine:.2f} CPU-seconds for {size:.1f} MB in {len(texts)}, {size / mine:.1f} MB/s")
    if datatrove:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(texts, file)
            file.flush()
            command = [datatrove, __file__, "--filters-only", file.name]
            answer = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        other = float(answer.stdout.split()[-1])
        print(f"filters  {what}: datatrove {other:.2f} CPU-seconds, {size / other:.2f} MB/s; ratio {other / mine:.1f}")


def planted(texts: list[str], seed: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Pieces of 300 words, and after each tenth a copy with some words in a row replaced."""
    rng = random.Random(seed)
    words = " ".join(texts).split()
    pieces, pairs = [], []
    for start in range(0, len(words) - 300, 300):
        piece = words[start : start + 300]
        pieces.append(" ".join(piece))
        if len(pieces) % 10 == 0:
            size, at = rng.randrange(1, 60), rng.randrange(240)
            changed = [*piece[:at], *(rng.choice(words) for _ in range(size)), *piece[at + size :]]
            pairs.append((len(pieces) - 1, len(pieces)))
            pieces.append(" ".join(changed))
    return pieces, pairs


def near(texts: list[str]) -> None:
    from datasketch import MinHash, MinHashLSH

    from wyrmling.data.dedup import near_pairs, shingle_hashes, signatures
    from wyrmling.data.matching import matching_form

    pieces, pairs = planted(texts, 0)

    def ours() -> set[tuple[int, int]]:
        sets = [shingle_hashes(piece) for piece in pieces]
        return set(near_pairs(signatures(sets), sets.__getitem__, 0.75))

    def shingles(piece: str) -> set[str]:
        words = matching_form(piece).split()
        return {" ".join(words[k : k + 5]) for k in range(len(words) - 4)}

    def theirs() -> set[tuple[int, int]]:
        index, found = MinHashLSH(threshold=0.75, num_perm=112, params=(14, 8)), set()
        grams = [shingles(piece) for piece in pieces]
        for number, gram in enumerate(grams):
            sketch = MinHash(num_perm=112)
            sketch.update_batch([item.encode() for item in gram])
            for other in index.query(sketch):
                one = grams[int(other)]
                if len(one & gram) >= 0.75 * len(one | gram):
                    found.add((int(other), number))
            index.insert(str(number), sketch)
        return found

    exact = [shingles(piece) for piece in pieces]

    def similarity(pair: tuple[int, int]) -> float:
        one, other = exact[pair[0]], exact[pair[1]]
        return len(one & other) / max(len(one | other), 1)

    sure = {pair for pair in pairs if similarity(pair) >= 0.8}
    times = {}
    for name, work in (("wyrmling", ours), ("datasketch", theirs)):
        work()
        times[name], found = cpu(work)
        recall = len(sure & found) / len(sure)
        false = sum(similarity(pair) < 0.6 for pair in found)
        print(
            f"near     {name:<10} {len(pieces)} pieces, {times[name]:.2f} CPU-seconds; recall at Jaccard 0.8 and more "
            f"{recall:.3f} of {len(sure)}, pairs below 0.6: {false}"
        )
    print(f"near     ratio {times['datasketch'] / times['wyrmling']:.1f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folders", type=Path, nargs="+")
    options.add_argument("--datatrove", help="a Python interpreter that has datatrove")
    options.add_argument("--filters-only", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.filters_only:
        print(datatrove_filters(json.loads(given.folders[0].read_text())))
        return
    texts = stage(given.folders)
    near(sample(texts, NEAR_CHARS))
    passages = [text[at : at + PASSAGE_CHARS] for text in texts for at in range(0, len(text), PASSAGE_CHARS)]
    filters("documents", sample(texts, FILTER_CHARS), given.datatrove)
    filters("passages", sample(passages, FILTER_CHARS), given.datatrove)


if __name__ == "__main__":
    sys.exit(main())
