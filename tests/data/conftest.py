"""A project in a temporary folder, made of the files a test names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact

# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

MakeProject = Callable[..., Project]


@pytest.fixture
def make_project(tmp_path: Path) -> MakeProject:
    """`make_project({"a.csv": "..."}, 'toml of sources')` -> Project; every file is bytes or text."""

    def make(files: Mapping[str, str | bytes], sources: str, *, task: str = "complete", extra: str = "") -> Project:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        text = f'name = "test"\n{extra}\n[objective]\ntask = "{task}"\n{sources}'
        (tmp_path / config.PROJECT_FILE).write_text(text, encoding="utf-8")
        return config.load(tmp_path)

    return make


@pytest.fixture
def ledger() -> Callable[[Artifact], list[dict[str, Any]]]:
    return lambda artifact: pq.read_table(artifact.path / "ledger.parquet").to_pylist()


@pytest.fixture
def examples() -> Callable[[Artifact], list[dict[str, Any]]]:
    return lambda artifact: pq.read_table(artifact.path / "examples.parquet").to_pylist()


MakePdf = Callable[..., bytes]


@pytest.fixture
def make_pdf() -> MakePdf:
    """`make_pdf(["text of page 1", None, ""])` -> bytes; None is a page with a picture only, "" a blank page."""
    return write_pdf


def write_pdf(pages: list[str | None], *, locked: bool = False) -> bytes:
    font, picture, first = 3, 4, 5
    kids = " ".join(f"{first + 2 * n} 0 R" for n in range(len(pages)))
    objects: list[bytes] = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        stream(
            b"\0\xff\0\xff",
            "/Type /XObject /Subtype /Image /Width 2 /Height 2 /BitsPerComponent 8 /ColorSpace /DeviceGray",
        ),
    ]
    for n, text in enumerate(pages):
        content = "q 100 0 0 100 50 600 cm /I Do Q" if text is None else show(text)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {first + 2 * n + 1} 0 R "
            f"/Resources << /Font << /F {font} 0 R >> /XObject << /I {picture} 0 R >> >> >>".encode()
        )
        objects.append(stream(content.encode()))
    out = bytearray(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    # Any user entry that is not the one of an empty password locks the file.
    lock = (
        f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'41' * 32}> /U <{'42' * 32}> /P -4 >> /ID [<00> <00>]"
        if locked
        else ""
    )
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R {lock} >>\nstartxref\n{start}\n%%EOF".encode()
    return bytes(out)


def show(text: str) -> str:
    lines = "".join(f"({line}) Tj T* " for line in text.split("\n"))
    return f"BT /F 12 Tf 14 TL 50 700 Td {lines}ET"


def stream(content: bytes, entries: str = "") -> bytes:
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (entries.encode(), len(content), content)
