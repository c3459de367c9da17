"""Curves as a picture to send or to print: a PDF of one page, and the same as PNG.

The report's plots are SVG that follows its page's style; this is for where there is no page. The PDF is written by
hand, as it is a few lines of text, and pdfium, which reads PDF files for the data stage, draws it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wyrmling.core.errors import UsageError
from wyrmling.evaluate.charts import WIDTH, Area

# Told apart with all kinds of colour vision (Okabe & Ito 2008).
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
# Pixels of the PNG for each unit of the page, which is WIDTH units wide.
SCALE = 2.5
SIZE, HEIGHT = 10, 276
ENDINGS = (".png", ".pdf")


class Line(NamedTuple):
    """A line through points. Those of one colour belong together; dashed tells them apart."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool


def save(path: Path, lines: Sequence[Line], across: str, up: str) -> None:
    """Write the curves; the ending of the file says how. Raises UsageError for another ending than .png and .pdf."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path.name!r} can't be a picture", fix=f"end its name with {' or '.join(ENDINGS)}")
    page = pdf(lines, across, up)
    path.write_bytes(page if path.suffix.lower() == ".pdf" else png(page))


def pdf(lines: Sequence[Line], across: str, up: str) -> bytes:
    """The curves over one scale, with the names of the axes and of the lines."""
    area = Area([x for line in lines for x, _ in line.points], [y for line in lines for _, y in line.points])
    bottom = area.top + area.height
    parts = ["0.5 w 0.85 G"]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = area.left + share * (area.right - area.left), bottom - share * area.height
        parts.append(f"{area.left} {HEIGHT - y:.1f} m {area.right} {HEIGHT - y:.1f} l S")
        parts.append(_text(area.left - 6, y + 4, f"{area.y0 + share * (area.y1 - area.y0):.3g}", 1.0))
        parts.append(_text(x, bottom + 16, f"{area.x0 + share * (area.x1 - area.x0):,.0f}", 0.5))
    parts += [_text((area.left + area.right) / 2, bottom + 34, across, 0.5), _text(area.left, area.top - 3, up, 0.0)]
    for number, line in enumerate(lines):
        colour = " ".join(f"{part / 255:.3f}" for part in COLOURS[line.colour % len(COLOURS)])
        places = [area.place(x, y) for x, y in line.points]
        width, dashes = 1.5 if len(places) > 1 else 4, "[4 4]" if line.dashed else "[]"
        parts.append(f"{colour} RG {width} w 1 J 1 j {dashes} 0 d")
        # A line of no length is drawn as a dot.
        path = " l ".join(f"{x:.1f} {HEIGHT - y:.1f}" for x, y in [*places, *places[-1:]]).replace("l", "m", 1)
        y = area.top + 12 + 14 * number
        key = f"{area.right - 180} {HEIGHT - y + 3:.1f} m {area.right - 156} {HEIGHT - y + 3:.1f} l S"
        parts += [f"{path} l S 1.5 w {key}", _text(area.right - 150, y, line.name, 0.0)]
    return _document("\n".join(parts).encode("latin-1", "replace"))


def png(page: bytes) -> bytes:
    """The first page of a PDF file."""
    import pypdfium2

    document = pypdfium2.PdfDocument(page)
    try:
        pixels = document[0].render(scale=SCALE, rev_byteorder=True).to_numpy()
        height, width, _ = pixels.shape
        # Each row of a PNG begins with its filter: none.
        rows = b"".join(b"\0" + row[:, :3].tobytes() for row in pixels)
    finally:
        document.close()
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _text(x: float, y: float, text: str, shift: float) -> str:
    """shift   the share of the text's width that lies left of x; a digit of Helvetica is 0.556 of its size wide"""
    left = x - shift * SIZE * sum(0.278 if mark in ".,- il" else 0.556 for mark in text)
    escaped = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    return f"BT 0.25 g /F {SIZE} Tf {left:.1f} {HEIGHT - y:.1f} Td ({escaped}) Tj ET"


def _document(content: bytes) -> bytes:
    """A PDF file of one page with what its operators draw (ISO 32000, 7.5)."""
    size = b"%d %d" % (WIDTH, HEIGHT)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %s]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>" % size,
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    file, places = b"%PDF-1.4\n", list[int]()
    for number, one in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(objects) + 1
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n"
    return file + end % (count, table, count, len(file))
