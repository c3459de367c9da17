"""The bytes that a row names are those of its record in the file."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from wyrmling.config import Project, Source
from wyrmling.core.artifact import Artifact
from wyrmling.data import content, origins, parts, read, run
from wyrmling.data.archives import Allowance
from wyrmling.data.content import Content, Lines
from wyrmling.data.rows import Row

TEXTS = [f"Zeile {n}: Straße, Größe {n * n}" for n in range(40)]
ROWS = {"t.csv": "text,n\n" + "".join(f'"{text}\nmehr",{n}\n\n' for n, text in enumerate(TEXTS))}
ROWS["t.jsonl"] = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS)
ROWS["t.txt"] = "\n--\n".join(TEXTS) + "\n"
ROWS["t.md"] = "---\ntitle: x\n---\n" + ROWS["t.txt"]
ROWS["t.conll"] = "".join(
    f"{word} {tag}\n" for text in TEXTS for word, tag in [(text.split()[3], "B-X"), ("und", "O"), ("", "")]
)


def rows_of(name: str, raw: bytes) -> list[Row]:
    source = Source(path=name, separator="--" if name.endswith((".txt", ".md")) else None)
    origin = origins.Origin("s", source)
    return list(read._read(read._Reading(origin, read.NO_COLUMNS, Allowance()), Content(name, raw=raw, alone=True)))


@pytest.mark.parametrize("encode", [str.encode, lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode()])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("held", [True, False])
def test_the_bytes_of_a_row_hold_its_record_and_no_other(
    name: str, encode: Callable[[str], bytes], held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not held and name != "t.md":
        monkeypatch.setattr(parts, "HELD_BYTES", 10)
        monkeypatch.setattr(content, "MAX_BYTES", 10_000)
    raw = encode(ROWS[name])
    rows = rows_of(name, raw)
    assert len(rows) == len(TEXTS)
    for n, row in enumerate(rows):
        assert row.span is not None
        start, end = row.span
        said = raw[start:end].decode("utf-8-sig")
        assert row.words[0] in said if row.words else TEXTS[n] in said
        assert sum(text in said for text in TEXTS) == (not row.words)
        assert start == 0 or raw[start - 1 : start] == b"\n"
        assert end == len(raw) or raw[end - 1 : end] == b"\n"


def test_a_line_that_can_not_be_read_is_found_by_its_bytes_in_an_archive_too() -> None:
    raw = b'{"text": "a"}\n{"text": \n{"text": "b"}\n'
    for name, packed in (("t.jsonl", raw), ("t.jsonl.gz", gzip.compress(raw))):
        (row,) = (row for row in rows_of(name, packed) if row.verdict == "error")
        assert row.span is not None and raw[slice(*row.span)] == b'{"text": \n'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_where_lines_end_in_another_way_no_bytes_are_named(encoding: str) -> None:
    assert [row.span for row in rows_of("t.jsonl", ROWS["t.jsonl"].encode(encoding))] == [None] * len(TEXTS)
    assert Lines(Content("x", raw=b"a\rb\nc\n")).span((1, 1)) is None


def test_examples_and_ledger_name_the_bytes(
    make_project: Callable[..., Project],
    examples: Callable[[Artifact], list[dict[str, Any]]],
    ledger: Callable[[Artifact], list[dict[str, Any]]],
) -> None:
    files = {"t.jsonl": ROWS["t.jsonl"] + "\nno json\n", "whole.txt": "one document"}
    sources = '[data.sources.a]\npath = "t.jsonl"\n[data.sources.b]\npath = "whole.txt"\n'
    project = make_project(files, sources)
    done = run.run(project)
    raw = (project.root / "t.jsonl").read_bytes()
    for row in examples(done):
        if row["source"] == "a":
            assert json.loads(raw[row["byte_start"] : row["byte_end"]])["text"] == row["text"]
        else:
            assert row["byte_start"] is None
    (broken,) = (row for row in ledger(done) if row["verdict"] == "error")
    assert raw[broken["byte_start"] : broken["byte_end"]] == b"no json\n"
