"""The data stage: read, clean, mask, judge, drop duplicates, split, and account for every row."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from wyrmling.config import Project, Settings, Source, Split
from wyrmling.core import artifact, hardware
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.errors import BadInput, WyrmlingError
from wyrmling.core.shards import Engine, for_each
from wyrmling.data import card, contamination, guards, labels, ledger, page, passes, tidy
from wyrmling.data.boilerplate import Pages, find_boilerplate
from wyrmling.data.duplicates import mark_duplicates
from wyrmling.data.labels import Finding
from wyrmling.data.origins import Origin, find_origin
from wyrmling.data.read import Columns, check_source, read_source
from wyrmling.data.rows import Row, identify
from wyrmling.data.sketches import OnDisk
from wyrmling.data.split import SCORED, assign
from wyrmling.data.stored import Stored

VERSION = 10
# Less is read by one process.
POOL_BYTES = 16 * 2**20


def run(project: Project) -> Artifact:
    """The project's data artifact: examples.parquet, ledger.parquet, labels.json, label_review.csv and the data card.

    Raises   BadInput naming file, row, column or query; NothingToLearn when no row, or only one label, is left
    """
    origins = find_origins(project)
    key = key_of(project, origins)
    if (done := artifact.find(project.runs, key)) is None:
        # What a killed run left is gone on with; what a mistake of the user's left is of no use.
        with artifact.create(project.runs, key, project.meter(), resume=True) as draft:
            work = draft.path / "work"
            try:
                stored, findings = prepare(project, origins, work)
                rows = stored.rows
                guards.announce(rows, project.settings.data.clean)
                guards.check(rows, project.settings)
            except WyrmlingError:
                shutil.rmtree(draft.path)
                raise
            ledger.write(draft.path, stored, {name: one.licence for name, one in project.settings.data.sources.items()})
            draft.figures = ledger.figures(rows, findings)
            if findings or project.settings.data.labels.check:
                labels.write_review(draft.path, findings, stored.bodies)
            text = card.write_card(project.settings, rows, draft.figures, dict(key.inputs))
            (draft.path / "card.md").write_text(text, encoding="utf-8", newline="\n")
            shutil.rmtree(work)
        done = draft.done
    page.write(done)
    return done


@contextlib.contextmanager
def look(project: Project) -> Iterator[tuple[Stored, list[Finding]]]:
    """All rows as `run` would decide about them, and the labels to review; nothing stays behind."""
    with tempfile.TemporaryDirectory(prefix="wyrmling-") as folder:
        stored, findings = prepare(project, find_origins(project), Path(folder))
        guards.announce(stored.rows, project.settings.data.clean)
        yield stored, findings


def find_origins(project: Project) -> list[Origin]:
    """The files and query rows of every source, hashed. Raises BadInput naming a source that has none."""
    return [find_origin(name, source, project.root) for name, source in project.settings.data.sources.items()]


def key_of(project: Project, origins: Sequence[Origin]) -> Key:
    """What the data artifact depends on: settings, input files and the review file."""
    inputs = {name: digest for origin in origins for name, digest in origin.inputs.items()}
    review = _review_file(project)
    if review is not None and review.is_file():
        inputs["data.labels.review"] = artifact.file_digest(review)
    return Key("data", project.settings.name, inputs=inputs, settings=_shaping(project.settings), version=VERSION)


def _review_file(project: Project) -> Path | None:
    review = project.settings.data.labels.review
    return None if review is None else project.root / review


def load(data: Artifact) -> Any:
    """The examples of a data artifact as a pyarrow table of EXAMPLE_SCHEMA."""
    import pyarrow.parquet as pq

    return pq.read_table(data.path / "examples.parquet")


def _shaping(settings: Settings) -> dict[str, Any]:
    data = settings.data.model_dump(mode="json")
    for source in data["sources"].values():
        if source["url"]:
            source["url"] = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", source["url"])
    return {"data": data, "seed": settings.seed, "task": settings.objective.task}


def prepare(project: Project, origins: Sequence[Origin], work: Path) -> tuple[Stored, list[Finding]]:
    """All rows of the sources with their verdicts and splits, in the order of sources and records; labels to review.

    work   a folder for what is made on the way; what an interrupted run left there is not made again
    """
    settings, data = project.settings, project.settings.data
    tidy.check(data.clean, project.root)
    spread = _spread(project, origins)
    read = _read(project, origins, work / "read", spread)
    stored = _tidy(project, read, work / "tidy", spread)
    rows = stored.rows
    identify(rows)
    for origin in origins:
        check_source(origin, [row for row in rows if row.source == origin.name])
    _check_columns(rows, data.split)
    if (review := _review_file(project)) is not None:
        labels.apply_review(rows, review)
    labels.settle_tags(rows)
    sketches = OnDisk([path for path, _ in stored.shards]) if data.dedup.near else None
    mark_duplicates(rows, data.dedup, list(data.sources), sketches)
    assign(rows, data.split, seed=settings.seed, task=settings.objective.task)
    if data.split.decontaminate:
        _decontaminate(stored, work, spread)
    return stored, labels.find_problems(rows, data.labels, stored.bodies)


class Spread(NamedTuple):
    """How the passes are spread over processes."""

    workers: int
    engine: Engine


def _spread(project: Project, origins: Sequence[Origin]) -> Spread:
    machine = project.settings.machine
    size = sum(path.stat().st_size for origin in origins for path, _ in origin.files)
    # A pool starts in about a second: as long as it takes to read so much.
    derived = hardware.threads() if size > POOL_BYTES else 1
    return Spread(machine.workers or derived, machine.engine)


def _read(project: Project, origins: Sequence[Origin], folder: Path, spread: Spread) -> list[Path]:
    """Read all sources into shards; their paths."""
    data = project.settings.data
    folder.mkdir(parents=True, exist_ok=True)
    units = passes.units_of(origins, Columns(data.split.group, data.split.date), data.clean, folder)
    counts = for_each(passes.read, units, folder, title="reading", **spread._asdict())
    return [passes.shard(unit.path, k) for unit, count in zip(units, counts, strict=True) for k in range(count)]


def _tidy(project: Project, shards: Sequence[Path], folder: Path, spread: Spread) -> Stored:
    """Clean, judge, mask and measure the rows of all shards."""
    data = project.settings.data
    folder.mkdir(parents=True, exist_ok=True)
    pages: dict[str, list[Callable[[], Pages]]] = defaultdict(list)
    for path in shards:
        if (file := path.with_suffix(".pages.npz")).exists():
            pages[_source_of(path)].append(partial(passes.load_pages, file))
    shared = find_boilerplate(pages)
    units = [passes.Tidying(path, folder / path.name, data.clean, shared, data.dedup.near) for path in shards]
    for_each(passes.finish, units, folder, title="cleaning", **spread._asdict())
    return Stored.open([unit.to for unit in units], spared=frozenset(data.clean.restore))


def _source_of(shard: Path) -> str:
    import pyarrow.parquet as pq

    return str(pq.read_table(shard, columns=["source"])["source"][0].as_py())


def _check_columns(rows: Sequence[Row], split: Split) -> None:
    for setting, column, found in (
        ("group", split.group, any(row.group for row in rows)),
        ("date", split.date, any(row.date for row in rows)),
    ):
        if column is not None and not found:
            raise BadInput(
                f"no source has the column {column!r}", where=f"data.split.{setting}", fix="correct it or leave it out"
            )


def _decontaminate(stored: Stored, work: Path, spread: Spread) -> None:
    """Drop rows to learn from that give a held-out row away."""
    held = contamination.held_out(stored.rows)
    if not held:
        return
    bodies = stored.bodies(held)
    folder = work / "overlaps"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "index.npz"
    contamination.Index.build((bodies[row.row_id], row.kind == "document") for row in held).save(file)
    units, of_units = [], []
    for path, rows in stored.by_shard():
        places = tuple(place for place, row in enumerate(rows) if row.alive and row.split == "train")
        if places:
            units.append(passes.Checking(path, places, file))
            of_units.append(rows)
    answers = for_each(passes.find_overlaps, units, folder, title="comparing with held-out rows", **spread._asdict())
    pairs = zip(of_units, answers, strict=True)
    contamination.drop_overlaps(held, (one for rows, answer in pairs for one in passes.overlaps(rows, answer)))


def read_examples(project: Project, path: Path) -> Any:
    """The rows of a test file, read and cleaned like the project's own sources, as a table of EXAMPLE_SCHEMA.

    Columns are those of the first source, official test sources first, whose settings fit the file.
    Raises   BadInput when no source's settings fit, or when the file has no row that the task can be tested on
    """
    settings = project.settings
    sources = sorted(settings.data.sources.items(), key=lambda item: item[1].split != "test")
    first: BadInput | None = None
    for name, source in sources:
        try:
            rows = read_source(find_origin(name, _like(source, path), project.root))
        except BadInput as error:
            first = first or error
            continue
        if any(row.kind == SCORED[settings.objective.task] for row in rows):
            tidy.tidy(rows, settings.data.clean, project.root)
            for row in rows:
                row.split = "test"
            return ledger.examples(rows)
    raise first or BadInput(
        f"{path} has no rows for the task {settings.objective.task!r}", fix="give a file like the sources"
    )


def _like(source: Source, path: Path) -> Source:
    return source.model_copy(
        update={"path": str(path.resolve()), "url": None, "query": None, "format": None, "split": "test"}
    )
