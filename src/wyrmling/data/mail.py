"""Mail: single messages, mailboxes and Outlook's files. What is attached is read as the files that they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, BinaryIO

from wyrmling.data.content import MAX_BYTES, MAX_LINE_BYTES, Content, Unreadable
from wyrmling.data.decode import decode
from wyrmling.data.hypertext import html_text
from wyrmling.data.sheets import MISSING
from wyrmling.data.tables import Item, Problem

HEADER = re.compile(
    r"(?:From|To|Cc|Subject|Date|Received|Return-Path|Message-ID|MIME-Version|Delivered-To|X-\S+):", re.I
)
FROM_LINE = re.compile(rb"From \S*.*\d{4}\s*$")
FIELDS = ("From", "To", "Cc", "Date")

# Properties of Outlook's format (MS-OXPROPS): of the message, and of an attachment.
SUBJECT, BODY, SENDER, TO, HTML, HEADERS = "0037", "1000", "0C1A", "0E04", "1013", "007D"
DATA, LONG_NAME, SHORT_NAME, CONTENT_ID = "3701", "3707", "3704", "3712"
RICH_TEXT = "__substg1.0_10090102"


def looks_like_mail(head: str) -> str | None:
    """ "eml" or "mbox" when the text begins as one: several header lines, for a mailbox after a line "From "."""
    lines = head.split("\n")[:12]
    box = bool(lines) and FROM_LINE.match(lines[0].encode("utf-8", "replace")) is not None
    found = sum(1 for line in lines if HEADER.match(line))
    if found < 3 or not (box or HEADER.match(lines[0])):
        return None
    return "mbox" if box else "eml"


def read_eml(content: Content) -> Iterator[Item | Problem | Content]:
    """The message as a document, then its attachments as files."""
    yield from _message(content, content.read(), "")


def _message(content: Content, raw: bytes, place: str) -> Iterator[Item | Problem | Content]:
    """Subject as heading, sender, recipients and date, then the plain text; the HTML where there is none."""
    try:
        message = BytesParser(policy=policy.default).parsebytes(raw)
        assert isinstance(message, EmailMessage)
        subject = " ".join(_field(message, "Subject").split())
        head = [f"{name}: {value}" for name in FIELDS if (value := _field(message, name))]
        parts = [f"# {subject}" if subject else "", "\n".join(head), _body(message)]
        yield Item(place, "\n\n".join(part for part in parts if part))
        attached = list(message.iter_attachments())
    # The parser of the standard library raises many kinds of errors for malformed headers and parts.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        yield Problem(place, f"not a readable message ({type(error).__name__}: {error}); save it again")
        return
    for number, part in enumerate(attached, 1):
        yield from _attachment(content, part, number, place)


def _field(message: EmailMessage, name: str) -> str:
    """A header as text, also when it breaks the rules."""
    try:
        return str(message.get(name, "")).strip()
    except (ValueError, LookupError, TypeError, AttributeError, IndexError):
        found = [value for key, value in message.raw_items() if key.lower() == name.lower()]
        return str(found[0]).strip() if found else ""


def _body(message: EmailMessage) -> str:
    part: Any = message.get_body(("plain", "html"))
    if part is None:
        return ""
    text = _text(part)
    return html_text(text, whole=True).strip() if part.get_content_type() == "text/html" else text.strip()


def _text(part: Any) -> str:
    """The text of a part in the charset that it names when that is right, else in the one that is found."""
    raw = part.get_payload(decode=True) or b""
    named = part.get_content_charset()
    try:
        return str(raw.decode(named)) if named else decode(raw, html=True).text
    except (UnicodeDecodeError, LookupError):
        return decode(raw, html=True).text


def _attachment(content: Content, part: Any, number: int, place: str) -> Iterator[Item | Problem | Content]:
    name = str(part.get_filename() or f"attachment {number}")
    if part.get_content_maintype() == "message":
        inner = [message for message in part.iter_parts() if isinstance(message, EmailMessage)]
        raw = b"".join(message.as_bytes() for message in inner)
        name = name if name.lower().endswith(".eml") else f"{name}.eml"
    else:
        raw = part.get_payload(decode=True) or b""
    # Logos in the text and signatures are not documents that someone sent.
    inline = part.get_content_maintype() == "image" and (part["Content-ID"] or not part.is_attachment())
    if inline or part.get_content_subtype().endswith("signature"):
        return
    inside = content.inside(name, raw)
    yield Content(f"{content.name}{place}!{name}", raw=inside.raw, depth=inside.depth)


def read_mbox(content: Content) -> Iterator[Item | Problem | Content]:
    """Each message of a mailbox, with its attachments. The mailbox may be of any size, a message may not."""
    with content.open() as file:
        for number, raw in enumerate(_messages(file), 1):
            place = f" message {number}"
            if raw is None:
                yield Problem(place, f"larger than {MAX_BYTES // 2**20} MB; it is not read")
            else:
                yield from _message(content, raw, place)


def _messages(file: BinaryIO) -> Iterator[bytes | None]:
    """The bytes between lines that begin with "From " after a blank line; None for a message that is too large."""
    lines: list[bytes] = []
    size, blank = 0, True
    while line := file.readline(MAX_LINE_BYTES):
        if blank and FROM_LINE.match(line):
            if size:
                yield b"".join(lines) if size <= MAX_BYTES else None
            lines, size = [], 0
            continue
        blank = not line.strip()
        size += len(line)
        if size <= MAX_BYTES:
            # A line of text that begins with "From " was written with a ">" in front.
            lines.append(line[1:] if re.match(rb">+From ", line) else line)
    if size:
        yield b"".join(lines) if size <= MAX_BYTES else None


def read_msg(content: Content) -> Iterator[Item | Problem | Content]:
    """A message saved by Outlook, then its attachments as files. Raises Unreadable."""
    try:
        import olefile
    except ImportError as error:
        raise Unreadable(MISSING.format("Outlook messages")) from error

    try:
        with content.open() as file, olefile.OleFileIO(file) as ole:
            yield Item("", _outlook_text(ole))
            storages = sorted({path[0] for path in ole.listdir() if path[0].startswith("__attach_version1.0_")})
            for number, storage in enumerate(storages, 1):
                yield from _outlook_attachment(content, ole, storage, number)
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise Unreadable(f"not a readable Outlook message ({error}); save it again") from error


def _outlook_text(ole: Any) -> str:
    subject = " ".join(_property(ole, SUBJECT).split())
    head = [f"{name}: {value}" for name, code in (("From", SENDER), ("To", TO)) if (value := _property(ole, code))]
    date = re.search(r"^Date:[ \t]*(.+)$", _property(ole, HEADERS), re.MULTILINE | re.IGNORECASE)
    head += [f"Date: {date[1].strip()}"] if date else []
    body = _property(ole, BODY).strip()
    if not body:
        page = _stream(ole, f"__substg1.0_{HTML}0102")
        body = html_text(decode(page, html=True).text, whole=True).strip() if page else _property(ole, HTML)
    if not body and ole.exists(RICH_TEXT):
        raise Unreadable("its text is in compressed rich text only; save it from Outlook as .eml or as text")
    return "\n\n".join(part for part in (f"# {subject}" if subject else "", "\n".join(head), body) if part)


def _property(ole: Any, code: str, folder: str = "") -> str:
    """A text of the message: in UTF-16, or in the 8-bit charset of older files."""
    wide = _stream(ole, f"{folder}__substg1.0_{code}001F")
    if wide:
        return wide.decode("utf-16-le", "replace").rstrip("\0")
    narrow = _stream(ole, f"{folder}__substg1.0_{code}001E")
    return decode(narrow.rstrip(b"\0")).text if narrow.rstrip(b"\0") else ""


def _stream(ole: Any, name: str) -> bytes:
    if not ole.exists(name) or ole.get_type(name) != 2:
        return b""
    with ole.openstream(name) as stream:
        raw: bytes = stream.read()
    return raw


def _outlook_attachment(content: Content, ole: Any, storage: str, number: int) -> Iterator[Problem | Content]:
    name = (
        _property(ole, LONG_NAME, f"{storage}/") or _property(ole, SHORT_NAME, f"{storage}/") or f"attachment {number}"
    )
    if ole.exists(f"{storage}/__substg1.0_{DATA}000D"):
        yield Problem(f"!{name}", "an attached Outlook item; save it as a file of its own")
        return
    raw = _stream(ole, f"{storage}/__substg1.0_{DATA}0102")
    # What has an id is a picture in the text.
    if raw and not _property(ole, CONTENT_ID, f"{storage}/"):
        yield content.inside(name, raw)
