from __future__ import annotations

import json

import pytest

from wyrmling.config import Source
from wyrmling.data.content import Unreadable
from wyrmling.data.hypertext import html_text, markdown_table
from wyrmling.data.markup import parse_xml, read_ipynb, read_xml, rst_markdown
from wyrmling.data.tables import Item, Problem, Table

ANY = Source(path="x")


def test_repeated_elements_are_records_with_their_attributes() -> None:
    rows = '<a:row id="1"><q>Why?</q><r>So it is.</r></a:row><a:row id="2"><q>x</q><r/></a:row>'
    (table,) = read_xml(f'<a:all xmlns:a="u">{rows}</a:all>', ANY)
    assert isinstance(table, Table)
    assert table.rows == [
        Item(" row 1", {"@id": "1", "q": "Why?", "r": "So it is."}),
        Item(" row 2", {"@id": "2", "q": "x", "r": ""}),
    ]


def test_one_record_in_an_element_named_for_more_is_a_record_too() -> None:
    pair = "<QAPair pid='1'><Question>Why?</Question><Answer>So.</Answer></QAPair>"
    for pairs in (pair, pair * 2):
        (table,) = read_xml(f"<Document><Focus>x</Focus><QAPairs>{pairs}</QAPairs></Document>", ANY)
        assert isinstance(table, Table)
        assert len(table.rows) == pairs.count("<QAPair ")


def test_named_columns_are_looked_for_in_all_elements() -> None:
    source = Source(path="x", prompt="q", response="a")
    (table,) = read_xml("<x><deep><z><q>Why <i>so</i>?</q><a>So.</a></z></deep><z><q>no answer</q></z></x>", source)
    assert isinstance(table, Table)
    assert table.rows == [Item(" z 1", {"q": "Why so?", "a": "So."})]
    (problem,) = read_xml("<x><y>1</y></x>", source)
    assert isinstance(problem, Problem) and "q and a" in problem.message


def test_other_xml_is_its_text_in_order() -> None:
    text = "<doc><title>T</title><p>one <b>two</b> three</p><sec><p>four</p></sec></doc>"
    (table,) = read_xml(text, ANY)
    assert isinstance(table, Table) and not table.rows
    assert table.documents() == [Item("", "T\none two three\nfour")]


TITLE = "<title>A &amp; B</title>"
ESCAPED = "&lt;p&gt;Hi&lt;/p&gt;"


@pytest.mark.parametrize(
    "feed",
    [
        f"<rss><channel><title>C</title><item>{TITLE}<description>{ESCAPED}</description></item></channel></rss>",
        f'<feed xmlns="http://www.w3.org/2005/Atom"><entry>{TITLE}<content>{ESCAPED}</content></entry></feed>',
        f'<feed xmlns="http://www.w3.org/2005/Atom"><entry>{TITLE}<content><div><p>Hi</p></div></content></entry></feed>',
    ],
)
def test_each_item_of_a_feed_is_a_document(feed: str) -> None:
    (item,) = read_xml(feed, ANY)
    assert item == Item(" item 1", "# A & B\n\nHi")


@pytest.mark.parametrize(
    "text",
    [
        '<?xml version="1.0"?><!-- c --><!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd" [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
        "<x><y></x>",
        "",
        "no xml",
    ],
)
def test_xml_with_entities_of_its_own_or_broken_is_refused(text: str) -> None:
    with pytest.raises(Unreadable, match=r"DOCTYPE|not well-formed"):
        parse_xml(text)


def test_xml_with_a_plain_doctype_and_named_characters_is_read() -> None:
    assert parse_xml('<!DOCTYPE html PUBLIC "x" "y"><p>a&nbsp;b &lt; c</p>').text == "a\xa0b < c"


def test_titles_of_restructured_text_become_headings() -> None:
    text = (
        "=====\nGuide\n=====\n\nIntro.\n\nPart\n----\n\n.. comment\n   more\n\n.. note::\n   Kept.\n\n- a\n\n"
        "Part 2\n------\n"
    )
    lines = rst_markdown(text).split("\n")
    assert [line for line in lines if line.startswith("#")] == ["# Guide", "## Part", "## Part 2"]
    assert "comment" not in "".join(lines)
    assert "   Kept." in lines and "- a" in lines


def test_a_notebook_keeps_text_and_code_and_drops_outputs() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
        {"cell_type": "code", "source": "print(1)", "outputs": [{"text": "secret"}]},
        {"cell_type": "code", "source": []},
    ]
    book = {"cells": cells, "metadata": {"kernelspec": {"language": "R"}}}
    assert list(read_ipynb(json.dumps(book))) == [Item("", "# Title\nText.\n\n```R\nprint(1)\n```")]
    for broken in ("[]", "{", '{"cells": 1}', '{"metadata": {}}'):
        with pytest.raises(Unreadable, match="notebook"):
            list(read_ipynb(broken))


def test_headings_and_tables_of_a_page_become_markdown() -> None:
    table = "<table><tr><th>a</th><th>b|c</th></tr><tr><td>1</td><td>2\n3</td></tr></table>"
    page = f"<body><h1 class='x'>One</h1><p>text</p><H3>Three</H3><h2></h2>{table}<p>end</p></body>"
    lines = [line for line in html_text(page, whole=True).split("\n") if line.strip()]
    assert lines == ["# One", "text", "### Three", "| a | b\\|c |", "| --- | --- |", "| 1 | 2 3 |", "end"]


def test_a_table_that_only_makes_a_layout_is_left_as_it_is() -> None:
    page = "<body><table><tr><td><p>left</p></td><td>right</td></tr><tr><td>x</td><td>y</td></tr></table></body>"
    assert "---" not in html_text(page, whole=True)


def test_a_markdown_table_has_as_many_cells_in_each_line_as_the_widest_row() -> None:
    text = markdown_table([["a", "b", ""], ["1"], ["x\ny", "2", ""]])
    assert text == "| a | b |\n| --- | --- |\n| 1 |  |\n| x y | 2 |"
    assert markdown_table([["", ""]]) == markdown_table([]) == ""
