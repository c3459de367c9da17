"""Stop texts end an answer wherever the tokens are cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from wyrmling.serve.stops import StopScan


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    at = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(at)]


def run(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, bool]:
    scan = StopScan(stops)
    given_out = "".join(scan.push(piece) for piece in pieces) + scan.finish()
    assert given_out == scan.text
    return given_out, scan.stopped


@given(
    st.text("ab\n", max_size=30),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4),
    st.lists(st.integers(0, 30)),
)
def test_how_the_text_is_cut_does_not_matter(text: str, stops: list[str], cuts: list[int]) -> None:
    assert run(pieces_of(text, cuts), tuple(stops)) == run(list(text), tuple(stops))


@given(st.text("abc", max_size=30), st.text("abc", min_size=1, max_size=4), st.lists(st.integers(0, 30)))
def test_one_stop_text_cuts_like_str_partition(text: str, stop: str, cuts: list[int]) -> None:
    before, found, _ = text.partition(stop)
    assert run(pieces_of(text, cuts), (stop,)) == (before, bool(found))


def test_only_what_may_become_a_stop_text_is_held_back() -> None:
    scan = StopScan(("\n\nUser:",))
    assert scan.push("Hello.") == "Hello."
    assert scan.push("\n\nUs") == ""
    assert scan.push("ual") == "\n\nUsual"
    assert scan.push("\n") == ""
    assert scan.finish() == "\n"
