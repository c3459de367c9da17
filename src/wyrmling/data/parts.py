"""What is in one file: its records, tables, documents and the files in it, by the reader of its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from wyrmling.config import Source
from wyrmling.core.log import say, warn
from wyrmling.data.archives import Allowance
from wyrmling.data.content import MAX_LINE_BYTES, Content, Unreadable
from wyrmling.data.decode import decode
from wyrmling.data.documents import in_parts, long_txt, read_conll, read_html, read_md, read_pdf, read_txt
from wyrmling.data.mail import read_eml, read_mbox, read_msg
from wyrmling.data.markup import read_ipynb, read_xml, rst_markdown
from wyrmling.data.office import read_docx
from wyrmling.data.opendocument import read_epub, read_odf
from wyrmling.data.richtext import rtf_markdown
from wyrmling.data.sheets import read_sheets
from wyrmling.data.slides import read_pptx
from wyrmling.data.tables import (
    Found,
    Item,
    Problem,
    Table,
    csv_rows,
    jsonl_rows,
    read_arrow,
    read_csv,
    read_json,
    read_jsonl,
    read_parquet,
)

Parts = Iterator[Item | Problem | Table | Content]

# A larger text is read line by line, where its format has lines.
HELD_BYTES = 32 * 2**20


def parts_of(content: Content, family: str, source: Source, allowance: Allowance) -> Parts:
    """What is in a file of this format, one by one. Raises Unreadable or Undecodable where it breaks off."""
    packed: dict[str, Callable[[], Parts]] = {
        "pdf": lambda: read_pdf(content),
        "parquet": lambda: read_parquet(content),
        "arrow": lambda: read_arrow(content),
        "docx": lambda: in_parts(read_docx(content, allowance), alone=content.alone),
        "odt": lambda: in_parts(read_odf(content, allowance), alone=content.alone),
        "rtf": lambda: in_parts(rtf_markdown(content), alone=content.alone),
        "pptx": lambda: read_pptx(content, allowance),
        "epub": lambda: read_epub(content, allowance),
        "eml": lambda: read_eml(content),
        "mbox": lambda: read_mbox(content),
        "msg": lambda: read_msg(content),
        **dict.fromkeys(("xlsx", "xls", "ods"), lambda: read_sheets(content, source, allowance)),
    }
    if family in packed:
        yield from packed[family]()
        return
    if content.size > HELD_BYTES and (found := _long(content, source, family)) is not None:
        yield from found
        return
    raw = content.read()
    decoded = decode(raw, source.encoding, html=family in ("html", "xml"))
    if decoded.note:
        warn(f"{content.name}: {decoded.note}; give `encoding` if that is wrong")
    elif decoded.encoding != "utf-8" and source.encoding is None:
        say(f"{content.name}: read as {decoded.encoding}")
    yield from _read_text(decoded.text, source, family, alone=content.alone)


def _read_text(text: str, source: Source, family: str, *, alone: bool) -> Iterator[Item | Problem | Table]:
    readers: dict[str, Callable[[], Iterator[Item | Problem | Table]]] = {
        "txt": lambda: read_txt(text, source, alone=alone),
        "code": lambda: read_txt(text, source, alone=alone),
        "md": lambda: read_md(text, source, alone=alone),
        # Its lines are not those of the file.
        "rst": lambda: (part._replace(lines=None) for part in read_txt(rst_markdown(text), source, alone=alone)),
        "html": lambda: read_html(text),
        "xml": lambda: read_xml(text, source),
        "ipynb": lambda: read_ipynb(text),
        "csv": lambda: read_csv(text, source),
        "tsv": lambda: read_csv(text, source, tabs=True),
        "json": lambda: read_json(text),
        "jsonl": lambda: read_jsonl(text),
        "conll": lambda: read_conll(text),
    }
    return readers[family]()


def _long(content: Content, source: Source, family: str) -> Found | None:
    """Records of a text that is too large to be held, line by line; None for formats that can't be read so."""
    lines = content.lines(source.encoding)
    if family == "jsonl":
        return jsonl_rows(lines)
    if family in ("csv", "tsv"):
        head = content.head(2**20)
        sample = decode(head[: head.rfind(b"\n") + 1] or head, source.encoding).text
        return csv_rows(_short(lines), sample, source, tabs=family == "tsv")
    if family in ("txt", "md", "code") and (content.alone or source.separator):
        return long_txt(_short(lines), source)
    return None


def _short(lines: Iterator[str | None]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if line is None:
            raise Unreadable(f"line {number} is longer than {MAX_LINE_BYTES // 2**20} MB; the rest is not read")
        yield line
