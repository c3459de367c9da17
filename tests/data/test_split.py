from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyrmling.config import Dedup, Split, Task
from wyrmling.core.records import SplitName
from wyrmling.data.dedup import digest
from wyrmling.data.duplicates import mark_duplicates
from wyrmling.data.rows import Row, identify
from wyrmling.data.split import assign


def labelled(text: str, label: str = "a", *, group: str | None = None, fixed: SplitName | None = None) -> Row:
    return Row("s", "x", "csv", "labelled", text=text, label=label, group=group, fixed=fixed)


def document(text: str, fixed: SplitName | None = None) -> Row:
    return Row("s", "x", "txt", "document", text=text, fixed=fixed)


def split(rows: list[Row], *, seed: int = 0, task: Task = "classify", **options: float) -> list[Row]:
    identify(rows)
    mark_duplicates(rows, Dedup(), ["s"])
    assign(rows, Split(**options), seed=seed, task=task)
    return rows


def numbered(count: int, start: int = 0) -> list[Row]:
    return [labelled(f"message number {n}", "ab"[n % 2]) for n in range(start, start + count)]


def test_shares_are_met_and_depend_on_the_seed() -> None:
    counts = Counter(row.split for row in split(numbered(4000), val=0.2, test=0.1))
    # Three standard deviations of a binomial count.
    assert counts["val"] == pytest.approx(800, abs=76)
    assert counts["test"] == pytest.approx(400, abs=57)
    one, other = (tuple(row.split for row in split(numbered(200), seed=seed)) for seed in (1, 2))
    assert one != other


def test_new_rows_do_not_move_old_ones() -> None:
    before = {row.text: row.split for row in split(numbered(300), val=0.1, test=0.1)}
    after = {row.text: row.split for row in split(numbered(600), val=0.1, test=0.1)}
    assert all(after[text] == name for text, name in before.items())


def test_an_official_split_is_kept_and_not_added_to() -> None:
    rows = split([*numbered(300), *(labelled(f"official {n}", fixed="test") for n in range(50))])
    assert sum(row.split == "test" for row in rows) == 50
    assert all(row.split == "test" for row in rows if row.fixed)
    assert {row.split for row in rows if not row.fixed} == {"train", "val"}


def test_val_is_at_most_2000_rows_by_default() -> None:
    rows = numbered(25_000)
    for row in rows:
        row.key = digest(row.text)
    assign(rows, Split(), seed=0, task="classify")
    assert sum(row.split == "val" for row in rows) == pytest.approx(2000, abs=140)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 5), st.sampled_from([None, "x", "y"])), min_size=1, max_size=40
    )
)
def test_groups_and_equal_texts_are_on_one_side_and_every_label_is_in_train(
    picks: list[tuple[int, int, str | None]],
) -> None:
    rows = [labelled(f"text {n}", f"label {label}", group=group) for n, label, group in picks]
    alive = [row for row in split(rows, val=0.3, test=0.3) if row.alive]
    sides: defaultdict[str, set[str | None]] = defaultdict(set)
    for row in alive:
        sides[row.text].add(row.split)
        if row.group:
            sides["group " + row.group].add(row.split)
    assert all(len(found) == 1 for found in sides.values())
    assert {row.label for row in alive} == {row.label for row in alive if row.split == "train"}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("seed", range(5))
def test_few_rows_fill_train_then_test_then_val(count: int, seed: int) -> None:
    found = {row.split for row in split([document(f"story {n}") for n in range(count)], seed=seed, task="complete")}
    assert found == {1: {"train"}, 2: {"train", "test"}}.get(count, {"train", "val", "test"})


def test_documents_beside_labelled_rows_are_learned_from_not_tested_on() -> None:
    rows = split([*numbered(300), *(document(f"page {n}") for n in range(300))])
    assert {row.split for row in rows if row.kind == "document"} == {"train", "val"}
    assert {row.split for row in rows if row.kind == "labelled"} == {"train", "val", "test"}


def test_a_label_seen_once_stays_in_train_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(10):
        rows = split([*numbered(50), labelled("the only one", "rare")], seed=seed, val=0.4, test=0.4)
        assert rows[-1].split == "train"
        assert "seen only once, so learned but never scored: 'rare'" in capsys.readouterr().err


def test_a_test_label_that_train_lacks_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    split([*numbered(50), labelled("official", "unheard", fixed="test")])
    assert "labels of the test rows that no train row has: 'unheard'" in capsys.readouterr().err
