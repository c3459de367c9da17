from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.records import Kind, SplitName
from wyrmling.data import run
from wyrmling.data.contamination import Index, drop_overlaps, held_out
from wyrmling.data.rows import Message, Row, identify

Rows = Callable[[Artifact], list[dict[str, Any]]]


def row(text: str, split: SplitName = "train", kind: Kind = "labelled") -> Row:
    made = Row("s", f"{split} {text[:20]}", "csv", kind, text=text, label="a", split=split)
    if kind == "conversation":
        made.text, made.label = "", None
        made.messages = [Message("user", text), Message("assistant", "So it is.")]
    return made


def words(start: int, count: int) -> str:
    return " ".join(f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(start, start + count))


def dropped(rows: list[Row]) -> list[str]:
    identify(rows)
    before = [made.body for made in rows if made.split != "train"]
    held = held_out(rows)
    index = Index.build((item.body, item.kind == "document") for item in held)
    learned = [made for made in rows if made.split == "train"]
    found = [(made, index.find(made.body)) for made in learned]
    drop_overlaps(held, [(made, overlap) for made, overlap in found if overlap is not None])
    held = [made for made in rows if made.split != "train"]
    assert [made.body for made in held] == before
    assert all(made.verdict == "kept" for made in held)
    return [made.rules[-1] for made in rows if made.verdict == "dropped"]


def test_thirteen_words_in_sequence_give_a_row_away_and_twelve_of_forty_do_not() -> None:
    item = row(words(0, 40), "test")
    assert dropped([item, row("before " + words(5, 13) + " after")]) == ["overlaps_test"]
    assert dropped([row(words(0, 40), "test"), row("before " + words(5, 12) + " after")]) == []


def test_case_punctuation_and_numbers_do_not_hide_an_overlap() -> None:
    text = words(0, 12) + " 1,234 end"
    assert dropped([row(text, "val"), row(text.upper().replace(" ", ", ").replace("1, 234", "99"))]) == ["overlaps_val"]


def test_running_text_is_given_away_by_half_of_it_and_not_by_a_sentence() -> None:
    item = words(0, 100)
    assert dropped([row(item, "test", "document"), row(words(0, 30), kind="document")]) == []
    found = [row(item, "test", "document"), row(words(0, 60), kind="document")]
    assert dropped(found) == ["overlaps_test"]
    assert found[1].value == "0.60 of its words"
    assert found[1].threshold == "< 0.5"
    assert found[1].kept_id == found[0].row_id


def test_a_short_row_needs_seventy_percent_of_its_runs() -> None:
    assert dropped([row(words(0, 12), "test"), row("why " + words(0, 9) + " not")]) == []
    assert dropped([row(words(0, 12), "test"), row("why " + words(0, 11) + " not")]) == ["overlaps_test"]


def test_conversations_are_compared_with_question_and_answer() -> None:
    assert dropped([row(words(0, 20), "test", "conversation"), row(words(3, 15), kind="document")]) == ["overlaps_test"]


def test_what_many_held_out_rows_share_is_their_template() -> None:
    template = words(0, 15)
    items = [row(f"{template} {words(100 + 20 * n, 12)}", "test") for n in range(4)]
    assert dropped([*items, row(f"{template} {words(300, 9)}")]) == []
    assert dropped([items[0], row(f"{template} {words(300, 9)}")]) == ["overlaps_test"]


def test_only_rows_to_learn_from_are_dropped_and_none_without_a_held_out_row() -> None:
    assert dropped([row(words(0, 20), "test"), row(words(0, 20), "val")]) == []
    assert dropped([row(words(0, 20)), row(words(0, 20))]) == []


def plainly(item: list[str], text: list[str]) -> bool:
    """The rule for one labelled pair, by comparing words one by one; no templates."""
    runs = {tuple(text[k : k + 13]) for k in range(len(text) - 12)}
    if any(tuple(item[k : k + 13]) in runs for k in range(len(item) - 12)):
        return True
    runs = {tuple(text[k : k + 8]) for k in range(len(text) - 7)}
    places = [k for k in range(len(item) - 7) if tuple(item[k : k + 8]) in runs]
    if not places:
        return False
    if len(item) < 26:
        return len(places) >= 0.7 * (len(item) - 7)
    return len({word for k in places for word in range(k, k + 8)}) >= 0.5 * len(item)


# Texts of many sizes over two words, with pieces of one in the other.
PIECES = st.lists(st.sampled_from(["a b c d e f g h", "i j k l m n o p q", "r", "s t", "u v w x y z"]), max_size=6)


@settings(max_examples=300, deadline=None)
@given(PIECES, PIECES)
def test_it_agrees_with_a_plain_comparison(item: list[str], text: list[str]) -> None:
    one, other = " ".join(item), " ".join(text)
    found = dropped([row(one, "test"), row(other)])
    assert bool(found) == plainly(one.split(), other.split())


def test_the_setting_and_the_ledger(make_project: Callable[..., Project], ledger: Rows) -> None:
    train = "".join(f"{words(40 * n, 20)},{'ab'[n % 2]}\n" for n in range(12))
    copied = f"please {words(0, 14)} now,a\n"
    sources = (
        '[data.sources.a]\npath = "a.csv"\ntext = "text"\nlabel = "label"\n'
        '[data.sources.b]\npath = "b.csv"\ntext = "text"\nlabel = "label"\nsplit = "test"\n'
    )
    files = {"a.csv": f"text,label\n{train}", "b.csv": f"text,label\n{copied}other words,b\n"}
    project = make_project(files, sources, task="classify")
    (found,) = [r for r in ledger(run.run(project)) if r["verdict"] == "dropped"]
    assert (found["origin"], found["rule"]) == ("a.csv:2", "overlaps_test")
    assert found["value"] == "13 words in sequence"
    kept = run.run(config.load(project.root, ["data.split.decontaminate=false"]))
    assert kept.figures["dropped"] == 0
