from __future__ import annotations

import mailbox
import struct
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

from wyrmling.data.content import Content, Unreadable
from wyrmling.data.mail import looks_like_mail, read_eml, read_mbox, read_msg
from wyrmling.data.tables import Item, Problem


def message(subject: str = "Refund", body: str = "Please refund me.\n") -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = subject, "Ann <ann@example.com>", "help@example.com"
    mail["Date"] = "Mon, 02 Mar 2026 10:00:00 +0000"
    mail.set_content(body)
    return mail


def test_a_message_is_its_head_and_its_plain_text() -> None:
    mail = message(subject="Grüße aus Köln")
    mail.add_alternative("<p>not <b>this</b></p>", subtype="html")
    (item,) = read_eml(Content("x.eml", raw=mail.as_bytes()))
    assert item == Item(
        "",
        "# Grüße aus Köln\n\nFrom: Ann <ann@example.com>\nTo: help@example.com\n"
        "Date: Mon, 02 Mar 2026 10:00:00 +0000\n\nPlease refund me.",
    )


def test_html_is_read_where_there_is_no_plain_text() -> None:
    mail = EmailMessage()
    mail["Subject"] = "x"
    mail.set_content("<h2>Head</h2><table><tr><td>a</td><td>b</td></tr><tr><td>1</td><td>2</td></tr></table>", "html")
    (item,) = read_eml(Content("x.eml", raw=mail.as_bytes()))
    assert isinstance(item, Item)
    assert "## Head" in str(item.value)
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |" in str(item.value)


def test_attachments_are_files_of_their_own_and_pictures_in_the_text_are_not() -> None:
    mail = message()
    mail.add_attachment(b"a,b\n", maintype="text", subtype="csv", filename="t.csv")
    mail.add_attachment(b"png", maintype="image", subtype="png", cid="<logo>", filename="logo.png")
    mail.add_attachment(message("inner"))
    first, table, forwarded = read_eml(Content("x.eml", raw=mail.as_bytes()))
    assert isinstance(first, Item)
    assert isinstance(table, Content) and isinstance(forwarded, Content)
    assert (table.name, table.raw, table.depth) == ("x.eml!t.csv", b"a,b\n", 1)
    (inner,) = read_eml(forwarded)
    assert isinstance(inner, Item) and str(inner.value).startswith("# inner\n")


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (b"Content-Type: text/plain; charset=no-such", "schön".encode(), "schön"),
        (b"Content-Type: text/plain; charset=us-ascii", "schön".encode("cp1252"), "schön"),
        (b"Content-Type: text/plain; charset=iso-8859-1\nDate: never\nFrom: <<", "schön".encode("latin-1"), "schön"),
        (b"Content-Type: multipart/mixed; boundary=zz", b"no such boundary", ""),
    ],
)
def test_mail_that_breaks_the_rules_is_still_read(head: bytes, body: bytes, expected: str) -> None:
    (item,) = read_eml(Content("x.eml", raw=b"Subject: s\n" + head + b"\n\n" + body))
    assert isinstance(item, Item), item
    assert str(item.value).startswith("# s")
    assert expected in str(item.value)


def test_a_mailbox_gives_the_messages_that_were_put_in(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "box")
    bodies = ["one\n", "two\n\nFrom here on it goes up.\n", "three\n"]
    for n, body in enumerate(bodies):
        mail = message(f"subject {n}", body)
        if n == 2:
            mail.add_attachment(b"note", maintype="text", subtype="plain", filename="n.txt")
        box.add(mail)
    box.close()
    found = list(read_mbox(Content("box", tmp_path / "box")))
    items = [part for part in found if isinstance(part, Item)]
    assert [item.place for item in items] == [" message 1", " message 2", " message 3"]
    for item, body in zip(items, bodies, strict=True):
        assert str(item.value).endswith(body.strip())
    assert [part.name for part in found if isinstance(part, Content)] == ["box message 3!n.txt"]


def test_mail_and_mailboxes_are_told_by_their_head() -> None:
    text = message().as_string()
    assert looks_like_mail(text) == "eml"
    assert looks_like_mail("From ann@example.com Mon Mar  2 10:00:00 2026\n" + text) == "mbox"
    assert looks_like_mail("Subject: a memo\n\nFrom: here we go\n") is None
    assert looks_like_mail("") is None


def test_what_is_no_message_is_a_message_without_head() -> None:
    found = list(read_eml(Content("x.eml", raw=b"just text")))
    assert not any(isinstance(part, Problem) for part in found)


NONE, END, FAT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD


def compound(streams: dict[str, bytes]) -> bytes:
    """An OLE file with these streams; "folder/name" lies in a storage (MS-CFB, version 3, sectors of 512 bytes)."""
    folders = sorted({name.rpartition("/")[0] for name in streams} - {""})
    entries: list[tuple[str, int, bytes]] = [("Root Entry", 5, b""), *((name, 1, b"") for name in folders)]
    # Streams under 4,096 bytes would lie in a second table of small sectors; NULs at the end keep them out of it.
    entries += [(name, 2, raw.ljust(4096, b"\0")) for name, raw in streams.items()]

    def chain(parent: str) -> list[int]:
        names = [name for name, _, _ in entries]
        return [n for n, name in enumerate(names) if n and name.rpartition("/")[0] == parent]

    after: dict[int, int] = {}
    for parent in ("", *folders):
        children = chain(parent)
        after |= dict(zip(children, [*children[1:], NONE], strict=True))
    directory_sectors = -(-len(entries) // 4)
    data, table, start = b"", [FAT] + [1 + n + 1 for n in range(directory_sectors - 1)] + [END], 1 + directory_sectors
    records = b""
    for n, (name, kind, raw) in enumerate(entries):
        first, sectors = (start, -(-len(raw) // 512)) if kind == 2 else (END, 0)
        data += raw.ljust(sectors * 512, b"\0")
        table += [first + k + 1 for k in range(sectors - 1)] + [END] * (sectors > 0)
        start += sectors
        inside = chain("" if n == 0 else name) if kind != 2 else []
        label = name.rpartition("/")[2].encode("utf-16-le") + b"\0\0"
        records += label.ljust(64, b"\0") + struct.pack(
            "<HBBIII", len(label), kind, 1, NONE, after.get(n, NONE), inside[0] if inside else NONE
        )
        records += bytes(36) + struct.pack("<IQ", first, len(raw))
    records = records.ljust(directory_sectors * 512, b"\0")
    fat = struct.pack(f"<{len(table)}I", *table).ljust(512, b"\xff")
    assert len(fat) == 512
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    head += struct.pack("<IIIIIIIIII", 0, 1, 1, 0, 4096, END, 0, END, 0, 0)
    return head + b"\xff" * (512 - len(head)) + fat + records + data


def text(words: str) -> bytes:
    return words.encode("utf-16-le")


def test_a_message_of_outlook_is_its_head_its_text_and_its_attachments() -> None:
    attached = "__attach_version1.0_#00000000/__substg1.0_"
    raw = compound(
        {
            "__substg1.0_0037001F": text("Größe"),
            "__substg1.0_0C1A001F": text("Ann"),
            "__substg1.0_007D001F": text("Received: x\r\nDate: Mon, 2 Mar 2026\r\n"),
            "__substg1.0_1000001F": text("Please\r\nhelp."),
            f"{attached}3707001F": text("n.txt"),
            f"{attached}37010102": b"a note",
        }
    )
    item, note = read_msg(Content("x.msg", raw=raw))
    assert isinstance(item, Item) and isinstance(note, Content)
    assert item.value == "# Größe\n\nFrom: Ann\nDate: Mon, 2 Mar 2026\n\nPlease\r\nhelp."
    assert (note.name, note.raw.rstrip(b"\0"), note.depth) == ("x.msg!n.txt", b"a note", 1)


def test_outlooks_html_and_8_bit_texts_are_read_and_bare_rich_text_says_what_to_do() -> None:
    page = "<p>Dear <b>Bo</b></p>".ljust(4096).encode()
    (item,) = read_msg(
        Content("x.msg", raw=compound({"__substg1.0_0037001E": "für".encode("cp1252"), "__substg1.0_10130102": page}))
    )
    assert isinstance(item, Item) and item.value == "# für\n\nDear Bo"
    with pytest.raises(Unreadable, match="rich text"):
        list(read_msg(Content("x.msg", raw=compound({"__substg1.0_10090102": b"LZFu"}))))


def test_a_broken_outlook_file_and_a_missing_extra_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = compound({"__substg1.0_1000001F": text("x")})
    with pytest.raises(Unreadable, match="not a readable Outlook message"):
        list(read_msg(Content("x.msg", raw=raw[:600])))
    monkeypatch.setitem(sys.modules, "olefile", None)
    with pytest.raises(Unreadable, match=r'pip install "wyrmling\[office\]"'):
        list(read_msg(Content("x.msg", raw=raw)))
