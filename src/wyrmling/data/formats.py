"""What format a file is in: by its first bytes, then its suffix, then its content. A suffix is never trusted alone."""

from __future__ import annotations

import re

from wyrmling.data.archives import BROKEN, COMPRESSED, is_tar, open_zip
from wyrmling.data.content import Content, Unreadable
from wyrmling.data.decode import decode
from wyrmling.data.documents import looks_like_conll
from wyrmling.data.mail import looks_like_mail

SUFFIXES = {
    ".txt": "txt", ".text": "txt", ".log": "txt", ".md": "md", ".markdown": "md", ".rst": "rst", ".csv": "csv",
    ".tsv": "tsv", ".tab": "tsv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".html": "html", ".htm": "html", ".xhtml": "html", ".pdf": "pdf",
    ".conll": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll", ".eml": "eml", ".mbox": "mbox",
    ".ipynb": "ipynb", ".xml": "xml", ".rss": "xml", ".atom": "xml",
}  # fmt: skip

# Source code and settings of programs; the suffix, which the origin shows, names the language.
CODE = frozenset({
    ".py", ".pyi", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".java", ".c", ".h", ".cpp", ".cc", ".cxx", ".hpp", ".cs",
    ".go", ".rs", ".rb", ".php", ".swift", ".kt", ".scala", ".sh", ".bash", ".zsh", ".ps1", ".bat", ".sql", ".r",
    ".jl", ".lua", ".pl", ".pm", ".hs", ".ml", ".ex", ".exs", ".erl", ".clj", ".dart", ".m", ".f90", ".vb", ".asm",
    ".v", ".vhd", ".css", ".scss", ".vue", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".proto", ".tf", ".cmake",
    ".gradle",
})  # fmt: skip

# First bytes -> format, whatever the suffix says. None: a format that is not read, with what to do.
MAGIC: tuple[tuple[bytes, str | None, str], ...] = (
    (b"%PDF-", "pdf", ""),
    (b"PAR1", "parquet", ""),
    (b"ARROW1", "arrow", ""),
    (b"\xff\xff\xff\xff", "arrow", ""),
    (b"{\\rtf", "rtf", ""),
    (b"FEA1", None, "an old Feather file; save it as Parquet"),
    (b"SQLite format 3\0", None, "a SQLite database; give url = \"sqlite:///...\" and query instead of path"),
    (b"\x28\xb5\x2f\xfd", None, "compressed with zstd; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", None, "a 7z archive; unpack it first"),
    (b"Rar!\x1a", None, "a RAR archive; unpack it first"),
    (b"\x89PNG", None, "a picture; its text needs OCR, which wyrmling does not do"),
    (b"\xff\xd8\xff", None, "a picture; its text needs OCR, which wyrmling does not do"),
    (b"GIF8", None, "a picture; its text needs OCR, which wyrmling does not do"),
    (b"II*\0", None, "a picture; its text needs OCR, which wyrmling does not do"),
    (b"MM\0*", None, "a picture; its text needs OCR, which wyrmling does not do"),
    (b"\x7fELF", None, "a program"),
    (b"MZ\x90", None, "a program"),
    (b"ID3\x03", None, "a sound recording; transcribe it first"),
    (b"OggS\0", None, "a sound recording or a film; transcribe it first"),
)  # fmt: skip

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# How the streams in an old Office file are named -> its format, or what to do.
OLE_STREAMS = (
    ("EncryptedPackage", None, "protected by a password; save a copy without one"),
    ("__substg1.0_", "msg", ""),
    ("Workbook", "xls", ""),
    ("WordDocument", None, "an old Word file (.doc); save it as .docx or convert it with LibreOffice"),
    ("PowerPoint Document", None, "an old PowerPoint file (.ppt); save it as .pptx or convert it with LibreOffice"),
    ("Book", "xls", ""),
)
MIMETYPES = {
    "application/epub+zip": "epub",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.presentation": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
}
JSON_START = re.compile(r"[\[{]\s*[\"{\[]")


def archive_of(content: Content) -> str | None:
    """ "zip", "tar" or "gz" (any compressed file); None for all else, also for documents that are ZIP files inside."""
    head = content.head(512)
    if head.startswith(ZIP_MAGIC):
        return "zip" if _in_zip(content) == "zip" else None
    if any(head.startswith(magic) for magic in COMPRESSED):
        return "gz"
    return "tar" if is_tar(head) else None


def format_of(content: Content) -> str:
    """The format; plain text when nothing else fits. Raises Unreadable naming what would be needed, and Undecodable."""
    raw = content.head()
    for magic, family, advice in MAGIC:
        if raw.startswith(magic):
            return _or_refuse(family, advice)
    if raw.startswith(ZIP_MAGIC):
        return _in_zip(content)
    if raw.startswith(OLE_MAGIC):
        return _in_ole(content)
    family = SUFFIXES.get(content.suffix)
    if family in ("pdf", "parquet", "arrow"):
        return family
    head = decode(raw[:20_000].rsplit(b"\n", 1)[0]).text.lstrip()
    if family in (None, "tsv", "txt") and looks_like_conll(head + "\n"):
        return "conll"
    if family is not None and not (family == "txt" and looks_like_mail(head)):
        return "html" if family == "xml" and _is_page(head) else family
    return _by_content(content, head)


def _or_refuse(family: str | None, advice: str) -> str:
    if family is None:
        raise Unreadable(advice)
    return family


def _by_content(content: Content, head: str) -> str:
    if content.suffix in CODE:
        return "code"
    if _is_page(head):
        return "html"
    if head.startswith(("<?xml", "<rss", "<feed")):
        return "xml"
    return looks_like_mail(head) or ("json" if JSON_START.match(head) else "txt")


def _is_page(head: str) -> bool:
    return re.match(r"(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html)", head, re.IGNORECASE) is not None


def _in_zip(content: Content) -> str:
    """A document whose parts lie in a ZIP, or an archive."""
    try:
        with open_zip(content) as archive:
            names = set(archive.namelist())
            kind = archive.getinfo("mimetype") if "mimetype" in names else None
            if kind is not None and kind.file_size < 100 and not kind.flag_bits & 1:
                said = archive.read("mimetype").decode("ascii", "replace").strip().removesuffix("-template")
                if said in MIMETYPES:
                    return MIMETYPES[said]
    except BROKEN as error:
        raise Unreadable(f"a broken ZIP file ({error})") from error
    if "[Content_Types].xml" in names:
        for folder, family in (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx")):
            if any(name.startswith(folder) for name in names):
                return family
    return "zip"


def _in_ole(content: Content) -> str:
    raw = content.read()
    for name, family, advice in OLE_STREAMS:
        if name.encode("utf-16-le") in raw:
            return _or_refuse(family, advice)
    raise Unreadable("an old Office file of an unknown kind; save it as text, CSV or PDF")
