from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyrmling import config
from wyrmling.config import Dedup, Project, Split, Task
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput
from wyrmling.core.records import SplitName
from wyrmling.data import run
from wyrmling.data.dedup import digest
from wyrmling.data.duplicates import mark_duplicates
from wyrmling.data.rows import Row, identify
from wyrmling.data.sketches import InMemory
from wyrmling.data.split import assign
from wyrmling.data.tidy import measure


def labelled(text: str, label: str = "a", *, group: str | None = None, fixed: SplitName | None = None) -> Row:
    return Row("s", "x", "csv", "labelled", text=text, label=label, group=group, fixed=fixed)


def document(text: str, fixed: SplitName | None = None) -> Row:
    return Row("s", "x", "txt", "document", text=text, fixed=fixed)


def split(rows: list[Row], *, seed: int = 0, task: Task = "classify", **options: Any) -> list[Row]:
    identify(rows)
    for one in rows:
        measure(one)
    mark_duplicates(rows, Dedup(), ["s"], InMemory(rows))
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


def dated(days: list[int]) -> list[Row]:
    rows = [labelled(f"message number {n}", "ab"[n % 2]) for n in range(len(days))]
    for row, day in zip(rows, days, strict=True):
        row.date = f"2024-{1 + day // 28:02}-{1 + day % 28:02}"
    return rows


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=10, max_size=60), st.integers(0, 3))
def test_with_a_date_the_newest_rows_are_the_test_rows(days: list[int], seed: int) -> None:
    rows = split(dated(days), date="day", val=0.2, test=0.2, seed=seed)
    of = {name: [row.date for row in rows if row.split == name] for name in ("train", "val", "test")}
    assert max(of["train"]) <= min(of["val"]) <= max(of["val"]) <= min(of["test"])
    assert len(of["test"]) == pytest.approx(0.2 * len(days), abs=1)
    assert len(of["val"]) == pytest.approx(0.2 * len(days), abs=1)


def test_a_group_is_as_new_as_its_newest_row() -> None:
    rows = dated(list(range(0, 200, 2)))
    rows[0].group = rows[-1].group = "thread"
    split(rows, date="day", val=0.1, test=0.1)
    assert (rows[0].split, rows[-1].split, rows[1].split) == ("test", "test", "train")


def test_dates_with_zones_and_seconds_are_put_in_order() -> None:
    rows = [labelled(f"text {n}") for n in range(4)]
    dates = ["2024-01-01T01:00:00+05:00", "1704060000", "2023-12-31T23:00:00", "2023-12-31T22:30:00Z"]
    for row, date in zip(rows, dates, strict=True):  # 20:00, 22:00, 23:00 and 22:30 in UTC
        row.date = date
    split(rows, date="at", val=0.25, test=0.25)
    assert [row.split for row in rows] == ["train", "train", "test", "val"]


def test_rows_without_a_date_are_learned_from_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = split([*dated(list(range(50))), *(labelled(f"undated {n}") for n in range(9))], date="day", test=0.2)
    assert {row.split for row in rows if row.date is None} == {"train"}
    assert "9 labelled rows have no date" in capsys.readouterr().err


def test_the_date_column_is_read_from_the_source(
    make_project: Callable[..., Project], examples: Callable[[Artifact], list[dict[str, Any]]]
) -> None:
    lines = "".join(f"row {n} of many,{'ab'[n % 2]},2024-03-{1 + n:02}\n" for n in range(30))
    source = '[data.sources.a]\npath = "a.csv"\ntext = "text"\nlabel = "label"\n[data.split]\ndate = "day"\n'
    project = make_project({"a.csv": f"text,label,day\n{lines}"}, source, task="classify")
    tests = {row["text"] for row in examples(run.run(project)) if row["split"] == "test"}
    assert tests == {f"row {n} of many" for n in (27, 28, 29)}
    with pytest.raises(BadInput, match="no source has the column 'when'"):
        run.run(config.load(project.root, ["data.split.date=when"]))
    with pytest.raises(BadInput, match=r"'row \d+ of many' is no date\n  where: a.csv:\d+"):
        run.run(config.load(project.root, ["data.split.date=text"]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.integers(0, 5))
def test_stratified_splits_give_every_label_its_share(sizes: list[int], seed: int) -> None:
    rows = [labelled(f"text {n} of {k}", f"label {k}") for k, size in enumerate(sizes) for n in range(size)]
    split(rows, stratify=True, val=0.2, test=0.3, seed=seed)
    for k, size in enumerate(sizes):
        counts = Counter(row.split for row in rows if row.label == f"label {k}")
        # A split that no label fills takes one row more.
        assert counts["test"] == pytest.approx(0.3 * size, abs=2)
        assert counts["val"] == pytest.approx(0.2 * size, abs=2)


def test_stratified_splits_differ_less_between_labels_than_hashed_ones() -> None:
    def spread(stratify: bool) -> int:
        rows = [labelled(f"text {n} of {k}", f"label {k}") for k in range(20) for n in range(40)]
        split(rows, stratify=stratify, val=0.1, test=0.2)
        counts = Counter(row.label for row in rows if row.split == "test").values()
        return max(counts) - min(counts)

    assert spread(True) <= 1 < spread(False)
