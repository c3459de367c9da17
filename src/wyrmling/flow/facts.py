"""What is known about a project's rows before training: from current artifacts, else from a quick look at the sources.

The quick look reads the sources as the data stage would, large files only at their head, and does not clean, mask or
look for near-duplicates: its counts are estimates and say so.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wyrmling.config import Project
from wyrmling.core import artifact, hardware
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import CorruptArtifact
from wyrmling.train.sizing import Facts, SourceFacts

if TYPE_CHECKING:
    from wyrmling.data.origins import Origin
    from wyrmling.data.rows import Row

# Of a larger text file only the head is read, and the rest is taken to be like it.
HEAD_BYTES = 8_000_000
# Formats that can be cut at a line.
CUT = {".txt", ".md", ".csv", ".tsv", ".jsonl", ".conll"}


@dataclass(frozen=True)
class Known:
    """Facts about a project's rows, and where they come from.

    rows, n_bytes      of all splits together
    test_rows          rows that the evaluation scores
    validation_tokens  tokens scored at each look during training
    names              labels, or entity types, as far as they were seen
    """

    facts: Facts
    source: str
    rows: int
    n_bytes: int
    test_rows: int
    validation_tokens: int
    names: tuple[str, ...]
    exact: bool


def look(project: Project) -> Known:
    """The facts of a project, from its newest token store if that is current, else from its sources."""
    from wyrmling.data.origins import find_origin

    sources = project.settings.data.sources.items()
    origins = [find_origin(name, source, project.root) for name, source in sources]
    tokens = _current_tokens(project, origins)
    return _from_store(project, tokens) if tokens is not None else _from_sources(project, origins)


def _current_tokens(project: Project, origins: Sequence[Origin]) -> Artifact | None:
    """The newest tokenizer artifact, when it was made from these files with these settings."""
    from wyrmling.data import run

    data, tokens = newest(project, "data"), newest(project, "tokenizer")
    if data is None or tokens is None or tokens.manifest["inputs"].get("data") != data.id:
        return None
    inputs = dict(run.key_of(project, origins).inputs)
    wanted = {
        "data": project.settings.data.model_dump(mode="json"),
        "seed": project.settings.seed,
        "task": project.settings.objective.task,
    }
    made = data.manifest["settings"]
    same = data.manifest["inputs"] == inputs and _without_urls(made) == _without_urls(wanted)
    # A tokenizer copied from a base has not all of these.
    shaped = tokens.manifest["settings"]
    asked = project.settings.tokenizer.model_dump(mode="json")
    return tokens if same and all(shaped.get(name, value) == value for name, value in asked.items()) else None


def newest(project: Project, stage: str) -> Artifact | None:
    """The artifact of a stage that was made last, unverified; None when there is none."""
    found = []
    for manifest in (project.runs / stage).glob(f"{project.settings.name}-*/{artifact.MANIFEST}"):
        with suppress(CorruptArtifact):
            found.append(artifact.open_artifact(manifest.parent, verify=False))
    return max(found, key=lambda one: str(one.manifest["created"]), default=None)


def _without_urls(settings: dict[str, Any]) -> dict[str, Any]:
    """Passwords are kept out of manifests, so addresses can't be compared."""
    sources = {name: {**source, "url": None} for name, source in settings["data"]["sources"].items()}
    return {**settings, "data": {**settings["data"], "sources": sources}}


def _from_store(project: Project, tokens: Artifact) -> Known:
    from wyrmling.tokenizer.tokens import TokenStore
    from wyrmling.train.facts import facts_of

    stores = {split: TokenStore.open(tokens.path, split) for split in ("train", "val", "test")}
    return Known(
        facts=facts_of(project, stores["train"]),
        source=f"the token store {tokens.path.name}",
        rows=sum(len(store) for store in stores.values()),
        n_bytes=sum(store.n_bytes for store in stores.values()),
        test_rows=len(stores["test"]),
        validation_tokens=stores["val"].n_tokens,
        names=tuple(stores["train"].labels) or _types(stores["train"].tag_names),
        exact=True,
    )


def _facts(
    project: Project,
    lengths: dict[tuple[str, str], list[int]],
    vocab_size: int,
    labels: int,
    tags: int,
    several: bool,
    scale: Mapping[str, float] | None = None,
) -> Facts:
    """Facts from the token counts of training rows; `scale` multiplies those of sources read in part."""
    machine = project.settings.machine
    sources = tuple(
        SourceFacts(
            source=source,
            kind=kind,
            rows=round(len(found) * (scale or {}).get(source, 1)),
            tokens=round(sum(found) * (scale or {}).get(source, 1)),
            longest=max(found),
            p99=sorted(found)[math.ceil(0.99 * len(found)) - 1],
        )
        for (source, kind), found in sorted(lengths.items())
    )
    return Facts(
        sources=sources,
        vocab_size=vocab_size,
        labels=labels,
        tags=tags,
        several=several,
        threads=machine.threads or hardware.threads(),
        device=hardware.device(machine.device),
    )


def _from_sources(project: Project, origins: Sequence[Origin]) -> Known:
    from wyrmling.data import split, tidy
    from wyrmling.data.duplicates import mark_duplicates
    from wyrmling.tokenizer import bpe

    settings = project.settings
    heads = {origin.name: _head(project, origin) for origin in origins}
    scale = {name: times for name, (_, times) in heads.items()}
    rows = [row for found, _ in heads.values() for row in found]
    for row in rows:
        tidy.measure(row)
    # Exact duplicates cost little to find; near ones are left to the data stage.
    mark_duplicates(rows, settings.data.dedup, list(settings.data.sources), None)
    rows = [row for row in rows if row.alive]
    split.assign(rows, settings.data.split, seed=settings.seed, task=settings.objective.task)
    by_split: Counter[str | None] = Counter()
    n_bytes: Counter[str | None] = Counter()
    for row in rows:
        by_split[row.split] += round(scale[row.source])
        n_bytes[row.split] += round(_n_bytes(row.body) * scale[row.source])
    vocab_size = settings.tokenizer.vocab_size or bpe.default_vocab_size(n_bytes["train"]).value
    lengths: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        if row.split == "train":
            lengths[row.source, row.kind].append(_tokens(_n_bytes(row.body), 1, vocab_size))
    labels = sorted({name for row in rows if row.kind == "labelled" for name in row.names})
    tags = sorted({tag for row in rows for tag in row.tags})
    several = any(row.labels is not None for row in rows)
    return Known(
        facts=_facts(project, lengths, vocab_size, len(labels), len(tags), several, scale),
        source="a quick look at the sources" + ("" if set(scale.values()) <= {1.0} else ", large files at their head"),
        rows=by_split.total(),
        n_bytes=n_bytes.total(),
        test_rows=by_split["test"],
        validation_tokens=_tokens(n_bytes["val"], by_split["val"], vocab_size),
        names=tuple(labels) or _types(tags),
        exact=False,
    )


def _head(project: Project, origin: Origin) -> tuple[list[Row], float]:
    """Rows of a source, and by what their number is to be multiplied."""
    from wyrmling.data.origins import find_origin
    from wyrmling.data.read import read_source

    files = [file for file, _ in origin.files]
    large = [file for file in files if file.suffix.lower() in CUT and file.stat().st_size > 2 * HEAD_BYTES]
    if not large:
        return read_source(origin), 1.0
    with tempfile.TemporaryDirectory() as folder, large[0].open("rb") as handle:
        head = handle.read(HEAD_BYTES)
        part = Path(folder) / large[0].name
        part.write_bytes(head[: head.rfind(b"\n") + 1] or head)
        rows = read_source(find_origin(origin.name, origin.source.model_copy(update={"path": str(part)}), project.root))
        return rows, sum(file.stat().st_size for file in files) / part.stat().st_size


def _n_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _tokens(n_bytes: int, rows: int, vocab_size: int) -> int:
    """Tokens of rows with so many bytes in all; each row has a begin and an end mark."""
    return math.ceil(n_bytes / bytes_per_token(vocab_size)) + 2 * rows


def bytes_per_token(vocab_size: int) -> float:
    """UTF-8 bytes that a token of a vocabulary trained on the same text stands for, on average.

    Fitted on Banking77, TinyStories, WikiText-2 and WNUT-17 with 512 to 8,192 tokens: 1.8 to 2.6 at 512, 2.8 to 4.3 at
    4,096. The cap is what English text reaches with large vocabularies.
    """
    return min(4.6, 2.3 + 0.45 * math.log2(max(vocab_size, 512) / 512))


def _types(tags: Sequence[str]) -> tuple[str, ...]:
    """Entity types of BIO tags."""
    return tuple(sorted({tag.partition("-")[2] for tag in tags if "-" in tag}))
