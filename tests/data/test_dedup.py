from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyrmling.config import Dedup
from wyrmling.core.records import Kind, SplitName
from wyrmling.data.dedup import (
    Clusters,
    digest,
    jaccard,
    near_pairs,
    shingle_hashes,
    signature,
    signatures,
)
from wyrmling.data.duplicates import mark_duplicates
from wyrmling.data.rows import Row, identify
from wyrmling.data.sketches import InMemory
from wyrmling.data.tidy import measure

WORDS = [f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400)]


def pairs_of(texts: Sequence[str], threshold: float) -> list[tuple[int, int]]:
    sets = [shingle_hashes(text) for text in texts]
    return list(near_pairs(signatures(sets), sets.__getitem__, threshold))


def plain_jaccard(one: str, other: str) -> float:
    """The judge: sets of 5-word tuples in plain Python."""
    a, b = ({tuple(words[k : k + 5]) for k in range(len(words) - 4)} for words in (one.split(), other.split()))
    return len(a & b) / len(a | b) if a | b else 0.0


def variants(seed: int, count: int) -> list[str]:
    """Texts of 120 words, each followed by a copy in which some words in a row were replaced."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        words = rng.choices(WORDS, k=120)
        changed = list(words)
        size, at = rng.randrange(1, 16), rng.randrange(90)
        changed[at : at + size] = rng.choices(WORDS, k=size)
        texts += [" ".join(words), " ".join(changed)]
    return texts


def row(text: str, label: str | None = None, fixed: SplitName | None = None, source: str = "s") -> Row:
    kind: Kind = "document" if label is None else "labelled"
    return Row(source, "x", "csv", kind, text=text, label=label, fixed=fixed)


def marked(rows: Sequence[Row], sources: Sequence[str] = ("s", "t"), **options: Any) -> Sequence[Row]:
    identify(rows)
    for one in rows:
        measure(one)
    mark_duplicates(rows, Dedup(**options), sources, InMemory(rows))
    return rows


def kept(rows: Sequence[Row]) -> set[str]:
    return {row.text for row in rows if row.alive}


def test_hashed_shingles_have_the_jaccard_of_plain_python_sets() -> None:
    texts = variants(0, 20)
    sets = [shingle_hashes(text) for text in texts]
    for one, other in combinations(range(8), 2):
        assert jaccard(sets[one], sets[other]) == pytest.approx(plain_jaccard(texts[one], texts[other]), abs=1e-12)


def test_minhash_finds_no_wrong_pair_and_nearly_all_that_are_well_above_the_threshold() -> None:
    texts = variants(1, 250)
    found = Clusters(len(texts))
    for one, other in pairs_of(texts, 0.75):
        assert plain_jaccard(texts[one], texts[other]) >= 0.75
        found.unite(one, other)
    sure = [n for n in range(0, len(texts), 2) if plain_jaccard(texts[n], texts[n + 1]) >= 0.85]
    assert len(sure) > 50
    # The chance to miss a pair of Jaccard 0.85 is (1 - 0.85^8)^14 = 0.8 %.
    assert sum(found.root(n) == found.root(n + 1) for n in sure) >= 0.97 * len(sure)


def test_many_equal_texts_are_joined_without_comparing_all_pairs() -> None:
    text = " ".join(WORDS[:50])
    pairs = pairs_of([text] * 3000, 0.75)
    assert len(pairs) == 2999


def test_pairs_are_found_from_signatures_on_disk_and_sets_that_are_fetched_for_candidates_only(tmp_path: Path) -> None:
    texts = [*variants(1, 100), "", "too short"]
    sets = [shingle_hashes(text) for text in texts]
    on_disk = np.memmap(tmp_path / "signatures", np.uint32, "w+", shape=(len(texts), 112), order="F")
    for number, hashes in enumerate(sets):
        on_disk[number] = signature(hashes)
    assert (on_disk == signatures(sets)).all()
    fetched: list[int] = []

    def fetch(number: int) -> Any:
        fetched.append(number)
        return shingle_hashes(texts[number])

    found = list(near_pairs(on_disk, fetch, 0.75))
    assert found == pairs_of(texts, 0.75)
    assert 50 < len(found) <= 100
    assert len(fetched) < 300


def test_texts_without_spaces_between_words_have_shingles() -> None:
    chinese = "欢迎来到我们的商店今天所有的商品都有很大的折扣请您慢慢看"
    one, other = shingle_hashes(chinese), shingle_hashes(chinese[:-1] + "买")
    assert len(one) == len(chinese) - 4
    assert jaccard(one, other) > 0.9


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([None, "a", "b"])), min_size=1, max_size=30), st.randoms())
def test_order_does_not_change_what_is_kept_and_a_second_copy_changes_nothing(
    picks: list[tuple[int, str | None]], rng: random.Random
) -> None:
    texts = variants(7, 5)
    once = marked([row(texts[n], label) for n, label in picks])
    shuffled = [row(texts[n], label) for n, label in picks]
    rng.shuffle(shuffled)
    twice = [row(texts[n], label) for n, label in picks * 2]
    labelled = {(row.text, row.label) for row in once if row.alive}
    assert {(row.text, row.label) for row in marked(shuffled) if row.alive} == labelled
    again = marked(twice)
    assert {(row.text, row.label) for row in again if row.alive} == labelled
    assert sum(row.alive for row in again) == sum(row.alive for row in once)


def test_equal_rows_with_one_label_are_dropped_and_with_two_are_kept_and_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = marked([row("Lost card", "a"), row("lost card!", "a"), row("Where is it", "a"), row("where is it?", "b")])
    assert [r.verdict for r in rows] == ["dropped", "kept", "changed", "changed"]
    assert rows[0].rules == ["exact_duplicate"]
    assert rows[0].kept_id == rows[1].row_id
    assert rows[2].rules == ["label_conflict"]
    assert rows[2].cluster == rows[3].cluster is not None
    assert "1 texts occur with more than one label" in capsys.readouterr().err


def test_a_row_equal_to_one_of_the_test_source_is_never_learned_from() -> None:
    rows = marked(
        [
            row("Where is my card?", "a"),
            row("where is my card", "b", source="t", fixed="test"),
            row("other", "a"),
            row("WHERE IS MY CARD", "b", source="t", fixed="test"),
            row("Where is my card"),
        ],
        exact=False,
        near=False,
    )
    assert [r.verdict for r in rows] == ["dropped", "kept", "kept", "kept", "dropped"]
    assert rows[0].rules == rows[4].rules == ["in_test"]
    assert rows[0].kept_id in (rows[1].row_id, rows[3].row_id)


def test_near_duplicate_documents_leave_the_longest_and_labelled_rows_only_share_a_cluster() -> None:
    base = " ".join(WORDS[:100])
    documents = marked([row(base), row(base + " and more"), row(" ".join(WORDS[100:200]))])
    assert [r.verdict for r in documents] == ["dropped", "kept", "kept"]
    assert documents[0].rules == ["near_duplicate"]
    assert documents[0].kept_id == documents[1].row_id
    assert float(documents[0].value or 0) == pytest.approx(plain_jaccard(base, base + " and more"), abs=1e-3)
    labelled = marked([row(base, "a"), row(base + " and more", "b")])
    assert all(r.alive for r in labelled)
    assert labelled[0].cluster == labelled[1].cluster is not None


def test_a_document_nearly_equal_to_a_test_document_is_dropped_whatever_their_lengths() -> None:
    base = " ".join(WORDS[:100])
    rows = marked(
        [row(base + " and more"), row(base, source="t", fixed="test"), row(base + " x", source="t", fixed="test")]
    )
    assert [r.alive for r in rows] == [False, True, True]


def test_the_preferred_source_wins() -> None:
    rows = [row("A text.", source="t"), row("a text", source="s")]
    assert [r.alive for r in marked(rows, ("t", "s"))] == [True, False]


@given(st.text(), st.text())
def test_digests_are_equal_only_for_equal_matching_forms(one: str, other: str) -> None:
    assert digest(one) == digest(one.upper().lower().casefold()) or one.upper().lower().casefold() != one.casefold()
    if one.casefold().split() == other.casefold().split():
        assert digest(one) == digest(other)


def test_the_preferred_source_survives_whatever_the_length_and_the_order_in_the_file() -> None:
    long = " ".join(WORDS[:60])
    for first, second, preferred in (("a", "b", ("b",)), ("b", "a", ("b", "a")), ("a", "b", ("b", "a"))):
        for other in (long.upper(), f"{long} more"):
            rows = [Row(first, "1", "txt", "document", text=long), Row(second, "2", "txt", "document", text=other)]
            marked(rows, ["a", "b"], prefer=preferred)
            assert [row.source for row in rows if row.alive] == ["b"]
            assert [row.source for row in rows if not row.alive] == ["a"]


def test_sources_without_a_preference_keep_the_order_of_the_file() -> None:
    rows = [Row(name, name, "txt", "document", text="the same") for name in ("c", "b", "a")]
    marked(rows, ["a", "b", "c"], prefer=("c",))
    assert [row.source for row in rows if row.alive] == ["c"]
    rows = [Row(name, name, "txt", "document", text="the same") for name in ("c", "b", "a")]
    marked(rows, ["a", "b", "c"])
    assert [row.source for row in rows if row.alive] == ["a"]
