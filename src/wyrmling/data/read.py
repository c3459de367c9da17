"""Sources to rows: find the files, tell their format, read each record, and never lose one silently."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wyrmling.config import Source
from wyrmling.core.artifact import file_digest
from wyrmling.core.errors import BadInput
from wyrmling.core.log import say, warn
from wyrmling.data.decode import Undecodable, decode
from wyrmling.data.documents import looks_like_conll, read_conll, read_html, read_md, read_pdf, read_txt
from wyrmling.data.query import read_query
from wyrmling.data.rows import Row, failed, identify
from wyrmling.data.shapes import Misfit, Shape, cell, fill, find_shape, to_bio
from wyrmling.data.tables import Found, Item, Problem, Sentence, read_csv, read_json, read_jsonl, read_parquet

SUFFIXES = {
    ".txt": "txt", ".text": "txt", ".md": "md", ".markdown": "md", ".csv": "csv", ".tsv": "tsv", ".json": "json",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".html": "html", ".htm": "html", ".xhtml": "html",
    ".pdf": "pdf", ".conll": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll",
}  # fmt: skip

# First bytes -> format, whatever the suffix says. None: a format that is not read, with what to do.
MAGIC: tuple[tuple[bytes, str | None, str], ...] = (
    (b"%PDF-", "pdf", ""),
    (b"PAR1", "parquet", ""),
    (b"PK\x03\x04", None, "a ZIP archive or an Office file; unpack it, or save it as text, CSV or PDF"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", None, "an old Office file; save it as text, CSV or PDF"),
    (b"{\\rtf", None, "a rich text file; save it as plain text"),
    (b"SQLite format 3\0", None, "a SQLite database; give url = \"sqlite:///...\" and query instead of path"),
    (b"\x1f\x8b", None, "compressed with gzip; unpack it first"),
    (b"\x28\xb5\x2f\xfd", None, "compressed with zstd; unpack it first"),
    (b"\x89PNG", None, "a picture"),
    (b"\xff\xd8\xff", None, "a picture"),
    (b"GIF8", None, "a picture"),
)  # fmt: skip

JSON_START = re.compile(r"[\[{]\s*[\"{\[]")
TABLES = ("csv", "tsv", "json", "jsonl", "parquet", "sql")


@dataclass(frozen=True)
class Origin:
    """Where a source's rows come from, hashed: the files in order, or the query's rows."""

    name: str
    source: Source
    files: tuple[tuple[Path, str], ...] = ()
    """Each file and its path relative to the project folder."""
    digests: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()

    @property
    def inputs(self) -> dict[str, str]:
        """What the artifact's id depends on: sha256 by file."""
        names = [relative for _, relative in self.files] or ["query"]
        return {f"{self.name}: {name}": digest for name, digest in zip(names, self.digests, strict=True)}


def find_origin(name: str, source: Source, root: Path) -> Origin:
    """The files of a source, or the rows of its query. Raises BadInput when there are none."""
    if source.path is None:
        columns, rows = read_query(name, source, root)
        if not rows:
            raise BadInput("the query gives no rows", where=f"data.sources.{name}.query", fix="correct the query")
        text = json.dumps([columns, rows], default=repr, ensure_ascii=False)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return Origin(name, source, digests=(digest,), columns=tuple(columns), rows=tuple(rows))
    paths = _find_files(name, source.path, root)
    files = tuple((path, _relative(path, root)) for path in paths)
    return Origin(name, source, files=files, digests=tuple(file_digest(path) for path in paths))


def _find_files(name: str, pattern: str, root: Path) -> list[Path]:
    where = f"data.sources.{name}.path = {pattern!r}"
    path = root / Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file()]
    elif any(mark in pattern for mark in "*?["):
        anchor = Path(path.anchor)
        found = [file for file in anchor.glob(path.relative_to(anchor).as_posix()) if file.is_file()]
    else:
        raise BadInput(
            f"{path} does not exist", where=where, fix="correct the path; it is relative to the project folder"
        )
    # Hidden files (.DS_Store, .git) are the system's, not the user's.
    found = [file for file in found if not any(part.startswith(".") for part in _inside(file, path, root).parts)]
    if not found:
        raise BadInput(
            f"no file matches {pattern!r}", where=where, fix="correct the path; it is relative to the project folder"
        )
    return sorted(found, key=lambda file: file.as_posix())


def _inside(file: Path, start: Path, root: Path) -> Path:
    """`file` below the folder that the search started in, so that a hidden folder above it does not count."""
    for folder in (start, root):
        if file.is_relative_to(folder):
            return file.relative_to(folder)
    return Path(file.name)


def _relative(path: Path, root: Path) -> str:
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()


def read_source(origin: Origin, group: str | None = None) -> list[Row]:
    """All records of a source as rows, problems included, in the order of files and records.

    group    the column of `data.split.group`
    Raises   BadInput when a column is missing or unclear, or when no record at all can be read.
    """
    rows: list[Row] = []
    if origin.source.url is not None:
        shape = find_shape(origin.name, origin.source, origin.columns, f"the query of data.sources.{origin.name}")
        found = [Item(f" row {number}", cells) for number, cells in enumerate(origin.rows, 1)]
        rows = [_row(origin, "query", "sql", item, shape, group) for item in found]
    for path, relative in origin.files:
        rows += _read_file(origin, path, relative, group)
    identify(rows)
    _report(origin.name, rows)
    named = _named_columns(origin.source)
    if named and not any(row.family in TABLES for row in rows):
        family = next(row.family for row in rows if row.alive)
        where = f"data.sources.{origin.name}.{named}"
        raise BadInput(f"a {family} file has no columns", where=where, fix=f"leave {named} out")
    return rows


def _report(name: str, rows: list[Row]) -> None:
    bad = [row for row in rows if row.verdict == "error"]
    if len(bad) == len(rows):
        what = f"{bad[0].origin}: {bad[0].value}" if bad else "the files hold no record"
        raise BadInput(
            what, where=f"data.sources.{name}", fix="mend or replace the input; nothing in this source can be read"
        )
    for row in bad[:3]:
        warn(f"{row.origin}: {row.value}")
    if len(bad) > 3:
        warn(f"data.sources.{name}: {len(bad)} of {len(rows)} records can't be read; all are in ledger.parquet")


def _read_file(origin: Origin, path: Path, relative: str, group: str | None) -> list[Row]:
    raw = path.read_bytes() if path.stat().st_size else b""
    if not raw.strip():
        return [failed(origin.name, relative, "", "the file is empty")]
    try:
        family = origin.source.format or _format(path, raw)
        items = list(_records(family, path, relative, raw, origin))
    except Undecodable as error:
        return [failed(origin.name, relative, "", str(error))]
    tables = [item.value for item in items if isinstance(item, Item) and isinstance(item.value, dict)]
    shape = None
    if tables:
        columns = list(dict.fromkeys(column for cells in tables for column in cells))
        try:
            shape = find_shape(origin.name, origin.source, columns, relative)
        except BadInput as error:
            # Among many files a table that was not meant must not stop the others.
            if len(origin.files) == 1 or _named_columns(origin.source):
                raise
            return [failed(origin.name, relative, family, f"{error.what}; {error.fix}")]
    if not items:
        return [failed(origin.name, relative, family, "the file holds no record")]
    return [_row(origin, relative, family, item, shape, group) for item in items]


def _named_columns(source: Source) -> str | None:
    names = ("text", "label", "prompt", "response", "messages", "words", "tags")
    return next((name for name in names if source.model_dump()[name] is not None), None)


def _format(path: Path, raw: bytes) -> str:
    """The format by magic bytes, then by suffix, then by content; plain text when nothing else fits."""
    for magic, family, advice in MAGIC:
        if raw.startswith(magic):
            if family is None:
                raise Undecodable(advice)
            return family
    family = SUFFIXES.get(path.suffix.lower())
    if family in ("pdf", "parquet"):
        return family
    head = decode(raw[:20_000].rsplit(b"\n", 1)[0]).text.lstrip()
    if family in (None, "tsv", "txt") and looks_like_conll(head + "\n"):
        return "conll"
    if family is not None:
        return family
    if head[:14].lower().startswith(("<!doctype html", "<html")):
        return "html"
    if head.startswith("<?xml"):
        raise Undecodable("an XML file; save it as HTML, JSON or text")
    return "json" if JSON_START.match(head) else "txt"


def _records(family: str, path: Path, relative: str, raw: bytes, origin: Origin) -> Found:
    source, alone = origin.source, len(origin.files) == 1
    if family == "pdf":
        return read_pdf(path)
    if family == "parquet":
        return read_parquet(path)
    decoded = decode(raw, source.encoding, html=family == "html")
    if decoded.note:
        warn(f"{relative}: {decoded.note}; give `encoding` if that is wrong")
    elif decoded.encoding != "utf-8" and source.encoding is None:
        say(f"{relative}: read as {decoded.encoding}")
    readers: dict[str, Callable[[str], Iterator[Item | Problem]]] = {
        "txt": partial(read_txt, source=source, alone=alone),
        "md": partial(read_md, source=source, alone=alone),
        "html": read_html,
        "csv": partial(read_csv, source=source),
        "tsv": partial(read_csv, source=source, tabs=True),
        "json": read_json,
        "jsonl": read_jsonl,
        "conll": read_conll,
    }
    return readers[family](decoded.text)


def _row(origin: Origin, place: str, family: str, item: Item | Problem, shape: Shape | None, group: str | None) -> Row:
    where = f"{place}{item.place}"
    if isinstance(item, Problem):
        return failed(origin.name, where, family, item.message)
    row = Row(origin.name, where, family, "document", fixed=origin.source.split)
    if isinstance(item.value, str):
        row.text = item.value
    elif isinstance(item.value, Sentence):
        row.kind, row.words, row.tags = "tagged", list(item.value.words), list(item.value.tags)
    else:
        assert shape is not None
        try:
            fill(row, shape, item.value)
            row.group = cell(item.value, group) if group and group in item.value else None
        except Misfit as error:
            return failed(origin.name, where, family, str(error))
    if row.kind == "tagged" and (tags := to_bio(row.tags)) != row.tags:
        row.tags = tags
        row.change("bio")
    return row
