from __future__ import annotations

import mailbox
from email.message import EmailMessage
from pathlib import Path

import pytest

from wyrmling.data.content import Content
from wyrmling.data.mail import looks_like_mail, read_eml, read_mbox
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
