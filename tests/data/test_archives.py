"""Archives, the formats of files, and every input that is built to do harm."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from wyrmling.config import Project, Source
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput
from wyrmling.data import archives, content, origins, parts, read, run
from wyrmling.data.archives import Allowance, members
from wyrmling.data.content import Content, Unreadable
from wyrmling.data.formats import format_of
from wyrmling.data.rows import Row
from wyrmling.data.tables import Problem

MakeProject = Callable[..., Project]
Rows = Callable[[Artifact], list[dict[str, Any]]]


def make_zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return out.getvalue()


def make_tar(files: dict[str, bytes | tarfile.TarInfo], mode: str = "w:") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, raw in files.items():
            info = tarfile.TarInfo(name) if isinstance(raw, bytes) else raw
            info.size = len(raw) if isinstance(raw, bytes) else 0
            archive.addfile(info, io.BytesIO(raw) if isinstance(raw, bytes) else None)
    return out.getvalue()


def rows_of(name: str, raw: bytes, **settings: Any) -> list[Row]:
    origin = origins.Origin("s", Source(path=name, **settings))
    return list(read._read(read._Reading(origin, read.NO_COLUMNS, Allowance()), Content(name, raw=raw)))


def errors(rows: list[Row]) -> dict[str, str]:
    return {row.origin: str(row.value) for row in rows if row.verdict == "error"}


FILES = {"a.txt": b"first text", "in/b.md": b"# Second", "t.csv": b"text,label\none,x\ntwo,y\n"}
EXPECTED = [("a.txt", "first text"), ("in/b.md", "# Second"), ("t.csv:2", "one"), ("t.csv:3", "two")]


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("x.zip", make_zip(FILES)),
        ("x.tar", make_tar({**FILES})),
        ("x.tar.gz", make_tar({**FILES}, "w:gz")),
        ("x.tgz", make_tar({**FILES}, "w:gz")),
        ("x.tar.bz2", make_tar({**FILES}, "w:bz2")),
        ("x.tar.xz", make_tar({**FILES}, "w:xz")),
        ("misnamed.txt", make_zip(FILES)),
    ],
)
def test_files_in_an_archive_are_read_as_if_they_lay_in_a_folder(name: str, raw: bytes) -> None:
    assert [(row.origin, row.text) for row in rows_of(name, raw)] == [(f"{name}!{o}", text) for o, text in EXPECTED]


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_compressed_file_is_what_it_is_without_the_suffix(suffix: str, pack: Callable[[bytes], bytes]) -> None:
    rows = rows_of(f"t.csv.{suffix}", pack(FILES["t.csv"]))
    assert [(row.origin, row.text, row.label) for row in rows] == [
        (f"t.csv.{suffix}!t.csv:2", "one", "x"),
        (f"t.csv.{suffix}!t.csv:3", "two", "y"),
    ]


def test_archives_in_archives_are_read_two_deep_and_no_deeper() -> None:
    one = make_zip(FILES)
    two = make_zip({"one.zip": one})
    three = make_zip({"two.zip": two, "also.txt": b"text"})
    assert [row.text for row in rows_of("x.zip", two)] == [text for _, text in EXPECTED]
    rows = rows_of("x.zip", three)
    assert "unpack it first" in errors(rows)["x.zip!two.zip!one.zip"]
    assert [row.text for row in rows if row.alive] == ["text"]


def test_a_table_in_an_archive_without_the_named_columns_does_not_stop_the_others() -> None:
    raw = make_zip(
        {**FILES, "other.csv": b"a,b\n1,2\n", "rows.xml": b"<r><i><text>three</text><label>x</label></i></r>"}
    )
    rows = rows_of("x.zip", raw, text="text", label="label")
    assert [row.text for row in rows if row.kind == "labelled" and row.alive] == ["one", "two", "three"]
    assert "no column 'text'" in errors(rows)["x.zip!other.csv"]
    with pytest.raises(BadInput, match="no column 'words'"):
        rows_of("t.csv", FILES["t.csv"], text="words")


def test_what_systems_add_to_archives_is_left_out() -> None:
    raw = make_zip({"__MACOSX/a.txt": b"x", ".DS_Store": b"x", ".git/config": b"x", "a.txt": b"text"})
    assert [row.origin for row in rows_of("x.zip", raw)] == ["x.zip!a.txt"]


@pytest.mark.parametrize("name", ["../out.txt", "/etc/passwd", "a/../../b.txt", "..\\out.txt", "C:\\x.txt"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_lead_out_of_the_archive_are_refused(name: str, make: Callable[..., bytes]) -> None:
    found = errors(rows_of("x", make({name: b"text", "ok.txt": b"good"})))
    assert [message for message in found.values() if "leads out" in message], found
    assert len(found) == 1


def test_links_and_devices_in_archives_are_not_followed() -> None:
    link, device = tarfile.TarInfo("link"), tarfile.TarInfo("device")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type = tarfile.CHRTYPE
    found = errors(rows_of("x.tar", make_tar({"link": link, "device": device, "a.txt": b"text"})))
    assert "link" in found["x.tar!link"] and "not an ordinary file" in found["x.tar!device"]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert "link" in errors(rows_of("x.zip", out.getvalue()))["x.zip!link"]


def test_bombs_are_refused_and_their_neighbours_are_read() -> None:
    zeros = bytes(64 * 2**20)
    rows = rows_of("x.zip", make_zip({"bomb.txt": zeros, "ok.txt": b"text"}))
    assert "bomb" in errors(rows)["x.zip!bomb.txt"]
    assert [row.text for row in rows if row.alive] == ["text"]
    for name, raw in [("x.gz", gzip.compress(zeros)), ("x.tar.gz", make_tar({"bomb.txt": zeros}, "w:gz"))]:
        assert "bomb" in errors(rows_of(name, raw))[name]


def test_a_size_that_lies_does_not_get_past_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    raw = bytearray(make_zip({"a.txt": os.urandom(5000)}))
    for start in (raw.index(b"PK\x01\x02") + 24, raw.index(b"PK\x03\x04") + 22):
        raw[start : start + 4] = (10).to_bytes(4, "little")
    (message,) = errors(rows_of("x.zip", bytes(raw))).values()
    assert "broken" in message or "larger" in message


def test_all_that_is_unpacked_is_counted_together() -> None:
    packed = make_zip({f"{n}.txt": os.urandom(500) for n in range(9)})
    found = list(members(Content("x.zip", raw=packed), "zip", Allowance(total=2000)))
    assert [type(part) for part in found] == [Content] * 4 + [Problem]
    with pytest.raises(Unreadable, match="more than"):
        list(members(Content("x.zip", raw=packed), "zip", Allowance(members=3)))


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz", "t.csv.gz"])
def test_a_cut_or_damaged_archive_is_an_error_row_and_never_a_crash(name: str) -> None:
    packs: dict[str, bytes] = {
        "x.zip": make_zip(FILES),
        "x.tar": make_tar({**FILES}),
        "x.tar.gz": make_tar({**FILES}, "w:gz"),
        "x.tar.xz": make_tar({**FILES}, "w:xz"),
        "t.csv.gz": gzip.compress(FILES["t.csv"]),
    }
    raw = packs[name]
    for cut in range(1, len(raw), max(1, len(raw) // 40)):
        assert rows_of(name, raw[:cut])
        damaged = bytearray(raw)
        damaged[cut] ^= 0xFF
        assert rows_of(name, bytes(damaged))


def test_a_locked_zip_says_what_is_needed() -> None:
    raw = bytearray(make_zip({"a.txt": b"text"}))
    for start in (raw.index(b"PK\x01\x02") + 8, raw.index(b"PK\x03\x04") + 6):
        raw[start] |= 1
    assert "password" in errors(rows_of("x.zip", bytes(raw)))["x.zip!a.txt"]


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)


@pytest.mark.parametrize(
    ("raw", "advice"),
    [
        (OLE + "EncryptedPackage".encode("utf-16-le"), "password"),
        (OLE + "WordDocument".encode("utf-16-le"), ".docx"),
        (OLE + "PowerPoint Document".encode("utf-16-le"), ".pptx"),
        (OLE, "unknown kind"),
        (b"7z\xbc\xaf\x27\x1c", "unpack"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x89PNG\r\n", "OCR"),
        (b"FEA1", "Parquet"),
    ],
)
def test_what_is_not_read_says_what_would_be_needed(raw: bytes, advice: str) -> None:
    (message,) = errors(rows_of("x.docx", raw)).values()
    assert advice in message


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("x.docx", b"plain text after all", "txt"),
        ("x.xls", b"<html><body><table></table></body></html>", "html"),
        ("x.xml", b"<!DOCTYPE html>\n<html/>", "html"),
        ("x", b"<?xml version='1.0'?><a/>", "xml"),
        ("x.py", b"import os\n", "code"),
        ("x.txt", b"%PDF-1.4", "pdf"),
        ("note.txt", b"Subject: hello\nFrom: me\n\nDear all,\n", "txt"),
        ("x", b"From: a@b.c\nTo: d@e.f\nSubject: s\nDate: today\n\nbody\n", "eml"),
        ("x", make_zip({"mimetype": b"application/epub+zip"}), "epub"),
        ("x", make_zip({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet"}), "ods"),
        ("x", make_zip({"[Content_Types].xml": b"", "word/document.xml": b""}), "docx"),
        ("x", make_zip({"word/document.txt": b""}), "zip"),
    ],
)
def test_the_format_is_told_by_what_is_in_the_file(name: str, raw: bytes, expected: str) -> None:
    assert format_of(Content(name, raw=raw)) == expected


def test_arrow_files_and_streams_give_the_rows_that_were_written() -> None:
    table = pa.table({"text": ["a", "b"], "label": ["x", None]})
    for writer in (pa.ipc.new_file, pa.ipc.new_stream):
        sink = pa.BufferOutputStream()
        with writer(sink, table.schema) as out:
            out.write_table(table)
        rows = rows_of("x.arrow", sink.getvalue().to_pybytes())
        assert [(row.origin, row.text, row.label) for row in rows] == [
            ("x.arrow row 1", "a", "x"),
            ("x.arrow row 2", "b", None),
        ]
    assert "not a readable Arrow file" in next(iter(errors(rows_of("x.arrow", b"ARROW1 rest")).values()))


# Through the whole stage.

SOURCE = '[data.sources.a]\npath = "{}"\n'


def origins_of(rows: list[dict[str, Any]], verdict: str) -> set[str]:
    return {row["origin"] for row in rows if row["verdict"] == verdict}


def test_links_that_loop_or_lead_nowhere_are_error_rows_and_the_rest_is_read(
    make_project: MakeProject, ledger: Rows, tmp_path: Path
) -> None:
    project = make_project({"in/a.txt": "one text", "in/deep/b.txt": "another text"}, SOURCE.format("in"))
    (tmp_path / "in/deep/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/self").symlink_to("self")
    (tmp_path / "in/gone").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "in/socket"))
        rows = ledger(run.run(project))
    assert origins_of(rows, "kept") == {"in/a.txt", "in/deep/b.txt"}
    assert origins_of(rows, "error") == {"in/deep/loop", "in/self", "in/gone", "in/socket"}


@pytest.fixture
def plain_user() -> Iterator[Path]:
    """A folder in which this process has the rights of an ordinary user, even when root runs the tests."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            yield Path(folder)
        finally:
            for path in Path(folder).rglob("*"):
                if path.is_dir():
                    os.chmod(path, 0o700)
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("pattern", ["in", "in/**/*"])
def test_a_folder_and_a_file_without_permission_are_error_rows(pattern: str, plain_user: Path) -> None:
    for name in ("in/a.txt", "in/closed/b.txt", "in/c.txt"):
        (plain_user / name).parent.mkdir(parents=True, exist_ok=True)
        (plain_user / name).write_text(f"text of {name}")
    os.chmod(plain_user / "in/c.txt", 0)
    os.chmod(plain_user / "in/closed", 0)
    rows = read.read_source(origins.find_origin("a", Source(path=pattern), plain_user))
    assert [row.origin for row in rows if row.alive] == ["in/a.txt"]
    assert {row.origin: str(row.value) for row in rows if not row.alive}.keys() == {"in/c.txt", "in/closed"}
    os.chmod(plain_user / "in/c.txt", 0o600)


def test_a_glob_that_matches_nothing_says_so(tmp_path: Path) -> None:
    for pattern in ("*.txt", "none/**/*", "none"):
        with pytest.raises(BadInput, match=r"no file matches|does not exist"):
            origins.find_origin("a", Source(path=pattern), tmp_path)


def test_nul_bytes_in_a_text_are_removed_and_in_a_program_refused(
    make_project: MakeProject, ledger: Rows, examples: Rows
) -> None:
    table = b"text\na\0b\n" + b"".join(b"some text number %d\n" % n for n in range(90))
    files = {"in/a.txt": b"good\0 text" + b" and more" * 40, "in/b.txt": bytes(range(256)) * 4, "in/t.csv": table}
    done = run.run(make_project(files, SOURCE.format("in") + 'text = "text"\n'))
    assert origins_of(ledger(done), "error") == {"in/b.txt"}
    assert "\0" not in "".join(row["text"] for row in examples(done))


def test_columns_with_one_name_are_refused_when_that_name_is_used(make_project: MakeProject, examples: Rows) -> None:
    table = "text,note,text\none,a,b\ntwo,c,d\n"
    with pytest.raises(BadInput, match="several columns are named 'text'"):
        run.run(make_project({"x.csv": table}, SOURCE.format("x.csv") + 'text = "text"\n'))
    done = run.run(make_project({"x.csv": table}, SOURCE.format("x.csv") + 'text = "note"\n'))
    assert sorted(row["text"] for row in examples(done)) == ["a", "c"]


def test_ragged_rows_are_error_rows_when_cells_are_lost(make_project: MakeProject, ledger: Rows) -> None:
    table = "id,text\n1,one\n2\n3,three,more\n4,four,\n"
    done = run.run(make_project({"x.csv": table}, SOURCE.format("x.csv") + 'text = "text"\n'))
    assert origins_of(ledger(done), "error") == {"x.csv:3", "x.csv:4"}
    assert origins_of(ledger(done), "kept") == {"x.csv:2", "x.csv:5"}


def test_a_file_larger_than_the_limit_is_read_line_by_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(content, "MAX_BYTES", 3000)
    monkeypatch.setattr(parts, "HELD_BYTES", 3000)
    monkeypatch.setattr(content, "MAX_LINE_BYTES", 1000)
    texts = [f"text {n}" for n in range(400)]
    long = "x" * 5000

    def rows(name: str, text: str, **settings: Any) -> list[Row]:
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        return read.read_source(origins.find_origin("a", Source(path=name, **settings), tmp_path))

    lines = [f'{{"text": "{text}"}}' for text in texts]
    found = rows("x.jsonl", "\n".join([*lines[:200], f'{{"text": "{long}"}}', *lines[200:]]))
    assert [row.text for row in found if row.alive] == texts
    assert [row.origin for row in found if not row.alive] == ["x.jsonl:201"]
    found = rows("x.csv", "text,n\n" + "".join(f'"{text}\nmore",{n}\n' for n, text in enumerate(texts)))
    assert [row.text for row in found] == [f"{text}\nmore" for text in texts]
    found = rows("y.csv", "text,n\n" + "a,1\n" * 700 + long + "\nb,2\n")
    assert [row.text for row in found if row.alive] == ["a"] * 700
    assert [str(row.value) for row in found if not row.alive] == ["line 702 is longer than 64 MB; the rest is not read"]
    found = rows("x.txt", "\n--\n".join(texts), separator="\n--\n")
    assert [row.text for row in found] == texts
    found = rows("y.txt", "".join(f"word {n}\n\n" for n in range(9000)))
    assert " ".join(row.text for row in found).split() == " ".join(f"word {n}" for n in range(9000)).split()
    with pytest.raises(BadInput, match="JSON Lines"):
        rows("x.json", "[" + ",".join(lines) + "]")


def test_one_line_of_a_gigabyte_is_refused_within_little_memory(tmp_path: Path) -> None:
    for name in ("x.jsonl",):
        with (tmp_path / name).open("wb") as file:
            file.write(b'{"text": "')
            # A hole in the file reads as NULs and takes no disk; letters at its start make it look like text.
            file.write(b"a" * 2**20)
            file.truncate(2**30)
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from wyrmling.config import Source\n"
        "from wyrmling.data.archives import Allowance\n"
        "from wyrmling.data.content import Content\n"
        "from wyrmling.data.origins import Origin\n"
        "from wyrmling.data.read import NO_COLUMNS, _read, _Reading\n"
        "reading = _Reading(Origin('a', Source(path='x')), NO_COLUMNS, Allowance())\n"
        "for name in ('x.jsonl',):\n"
        "    (row,) = _read(reading, Content(name, Path(sys.argv[1]) / name, alone=True))\n"
        "    print(row.verdict, row.value)\n"
        "status = Path('/proc/self/status')\n"
        # What getrusage says also holds for the process before exec, which was a copy of this large one.
        "peak = status.read_text().split('VmHWM:')[1].split()[0] if status.exists() else "
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(peak)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    *messages, peak = done.stdout.split("\n")[:-1]
    assert len(messages) == 1 and all(m.startswith("error") and "MB" in m for m in messages), messages
    scale = 2**10 if sys.platform == "darwin" else 1
    assert int(peak) / scale < 800_000, f"{peak} kB; a line of 64 MB, its text, and the libraries"
