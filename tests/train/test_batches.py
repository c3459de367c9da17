"""Batches are pure functions of (data hash, seed, step) and leave nothing out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from wyrmling.train.batches import IGNORED, Batch, Batches, Noise, pieces_of
from wyrmling.train.infill import Infill
from wyrmling.train.order import Array, Plan, pack, split, uniform

SPECIAL = (0, 1, 2)
NOISE = Noise(rate=0.3, mask_id=2, special_ids=SPECIAL, vocab_size=50)


class Rows:
    """Rows of random tokens: 0 opens and ends each; every third row is a conversation whose second half is learned."""

    def __init__(self, lengths: list[int]) -> None:
        random = np.random.default_rng(0)
        self._tokens = [np.concatenate([[0], random.integers(3, 50, n - 2), [0]]) for n in lengths]
        n = len(lengths)
        self._rows = {
            "length": np.array(lengths),
            "label": np.arange(n) % 4,
            "kind": np.array(["document"] * n),
            "source": np.array(["general" if row % 2 else "domain" for row in range(n)]),
        }

    @property
    def rows(self) -> Mapping[str, Array]:
        return self._rows

    def tokens(self, row: int, start: int = 0, end: int | None = None) -> Array:
        return self._tokens[row][start:end]

    def learn(self, row: int, start: int = 0, end: int | None = None) -> Array:
        n = len(self._tokens[row])
        learn: Array = np.arange(n) >= (n // 2 if row % 3 == 0 else 1)
        return learn[start:end]

    def tags(self, row: int) -> Array:
        return np.where(np.arange(len(self._tokens[row])) % 2 == 1, row % 5, IGNORED)


def batches(objective: str, lengths: list[int], **changes: Any) -> Batches:
    numbers = {"context": 16, "data_hash": "h", "seed": 1, "batch_tokens": 60, "micro_batch_tokens": 25}
    numbers |= {"noise": NOISE if objective == "masked" else None} | changes
    return Batches(Rows(lengths), objective, np.arange(len(lengths)), **numbers)


LENGTHS = [int(n) for n in np.random.default_rng(5).integers(3, 40, 70)]


@pytest.mark.parametrize("batch_tokens", [1, 37, 500, 10**6])
def test_each_piece_is_learned_once_per_epoch(batch_tokens: int) -> None:
    plan = Plan(np.array(LENGTHS), data_hash="h", seed=3, batch_tokens=batch_tokens)
    orders = []
    for epoch in range(3):
        first = epoch * plan.steps_per_epoch + 1
        steps = [plan.pieces(step) for step in range(first, first + plan.steps_per_epoch)]
        assert all(len(step) for step in steps)
        order = np.concatenate(steps)
        assert sorted(order) == list(range(len(LENGTHS)))
        orders.append(order.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_steps_hold_nearly_equal_numbers_of_tokens() -> None:
    plan = Plan(np.array(LENGTHS), data_hash="h", seed=3, batch_tokens=200)
    sizes = [plan.lengths[plan.pieces(step)].sum() for step in range(1, plan.steps_per_epoch + 1)]
    assert max(sizes) - min(sizes) <= 2 * max(LENGTHS)


def test_the_order_depends_on_data_and_seed_and_on_nothing_else() -> None:
    def order(data_hash: str, seed: int) -> list[int]:
        plan = Plan(np.array(LENGTHS), data_hash=data_hash, seed=seed, batch_tokens=100)
        return [int(i) for i in plan.pieces(9)]

    assert order("h", 1) == order("h", 1)
    assert order("h", 1) != order("h", 2)
    assert order("h", 1) != order("other", 1)


@pytest.mark.parametrize("objective", ["causal", "masked", "sft", "classify", "tag"])
def test_a_step_is_the_same_whenever_it_is_asked_for(objective: str) -> None:
    one, two = batches(objective, LENGTHS), batches(objective, LENGTHS)
    walked = [one.step(step) for step in range(1, 40)]
    for step in (1, 17, 39):
        for ours, theirs in zip(walked[step - 1], two.step(step), strict=True):
            assert ours.lengths == theirs.lengths
            assert ours.tokens.equal(theirs.tokens) and ours.targets.equal(theirs.targets)


def test_splitting_keeps_every_token() -> None:
    pieces = split(np.array([5, 16, 17, 40, 0, 32]), 16)
    assert pieces.length.max() == 16 and pieces.length.min() > 0
    for row, length in enumerate([5, 16, 17, 40, 0, 32]):
        mine = pieces.row == row
        covered = [p for s, n in zip(pieces.start[mine], pieces.length[mine], strict=True) for p in range(s, s + n)]
        assert covered == list(range(length))


def test_packing_keeps_everything_within_the_capacity() -> None:
    bins = pack(LENGTHS, 64)
    assert sorted(i for chosen in bins for i in chosen) == list(range(len(LENGTHS)))
    assert all(sum(LENGTHS[i] for i in chosen) <= 64 for chosen in bins)
    # best fit decreasing needs at most 11/9 of the optimum (Johnson 1973), which is at least total / capacity
    assert len(bins) <= 11 / 9 * -(-sum(LENGTHS) // 64) + 1
    assert pack([100], 64) == [[0]]
    assert pack([3, 6, 4, 7], 10) == [[3, 0], [1, 2]]


@pytest.mark.parametrize("objective", ["causal", "sft"])
def test_every_target_is_learned_once_from_the_tokens_before_it(objective: str) -> None:
    made = batches(objective, LENGTHS)
    store, seen = made.store, 0
    for step in range(1, made.steps_per_epoch + 1):
        for batch in made.step(step):
            learned = batch.targets != IGNORED
            seen += int(learned.sum())
            inside = _inside(batch)
            assert (batch.tokens[1:][inside][learned[:-1][inside]] == batch.targets[:-1][inside & learned[:-1]]).all()
    assert seen == sum(int(store.learn(row).sum()) for row in range(len(LENGTHS)))


def _inside(batch: Batch) -> Any:
    """True for positions whose successor is in the same segment."""
    import torch

    last = torch.cumsum(torch.tensor(batch.lengths), 0) - 1
    inside = torch.ones(len(batch.tokens), dtype=torch.bool)
    inside[last] = False
    return inside[:-1]


def test_masks_follow_the_rates_and_never_hide_a_special_token() -> None:
    made = batches("masked", [30] * 400, batch_tokens=10**6, micro_batch_tokens=10**6, context=64)
    (batch,) = made.step(1)
    original = np.concatenate([made.store.tokens(int(row)) for row in batch.rows])
    inputs, targets = batch.tokens.numpy(), batch.targets.numpy()
    hidden = targets != IGNORED
    assert (targets[hidden] == original[hidden]).all()
    assert (inputs[~hidden] == original[~hidden]).all()
    assert not np.isin(original[hidden], SPECIAL).any()
    ordinary = ~np.isin(original, SPECIAL)
    n = ordinary.sum()
    # four standard deviations of a share p of n draws
    assert abs(hidden.sum() / n - 0.3) < 4 * (0.21 / n) ** 0.5
    masked, same = (inputs[hidden] == 2).mean(), (inputs[hidden] == original[hidden]).mean()
    m = hidden.sum()
    assert abs(masked - 0.8) < 4 * (0.16 / m) ** 0.5
    # a random replacement is the same token once in 47
    assert abs(same - (0.1 + 0.1 / 47)) < 4 * (0.09 / m) ** 0.5
    assert not np.isin(inputs[hidden], (0, 1)).any()


def test_masks_change_with_the_step_but_not_with_the_micro_batches() -> None:
    whole = batches("masked", LENGTHS, batch_tokens=10**6, micro_batch_tokens=10**6)
    parts = batches("masked", LENGTHS, batch_tokens=10**6, micro_batch_tokens=20)
    assert len(parts.step(1)) > 5
    assert _by_row(whole.step(1)) == _by_row(parts.step(1))
    assert _by_row(whole.step(1)) != _by_row(whole.step(2))


def _by_row(batches: list[Batch]) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    found = []
    for batch in batches:
        parts = zip(batch.rows, batch.tokens.split(batch.lengths), batch.targets.split(batch.lengths), strict=True)
        found += [(int(row), tuple(t.tolist()), tuple(y.tolist())) for row, t, y in parts]
    return sorted(found)


def test_classify_reads_the_beginning_of_each_row_and_its_label() -> None:
    made = batches("classify", LENGTHS)
    for batch in made.step(3):
        parts = batch.tokens.split(batch.lengths)
        for row, tokens, target in zip(batch.rows, parts, batch.targets.tolist(), strict=True):
            assert tokens.tolist() == made.store.tokens(int(row))[:16].tolist()
            assert target == int(row) % 4


def test_words_are_blanked_while_training_and_never_in_validation() -> None:
    made = batches("tag", LENGTHS, noise=NOISE)
    trained = np.concatenate([batch.tokens.numpy() for batch in made.step(1)])
    looked_at = np.concatenate([batch.tokens.numpy() for batch in made.everything()])
    assert (trained == 2).mean() > 0.1
    assert looked_at.tolist() == np.concatenate([made.store.tokens(row) for row in range(len(LENGTHS))]).tolist()


def test_rows_without_targets_are_left_out_of_the_pieces() -> None:
    rows = Rows([8, 8])
    rows.learn = lambda row, *_: np.zeros(8, dtype=bool) if row == 0 else np.arange(8) >= 6  # type: ignore[method-assign]
    pieces = pieces_of(rows, "sft", np.array([0, 1]), 4)
    # of row 1 the first stretch (inputs 0..3) predicts nothing that is learned
    assert pieces.row.tolist() == [1] and pieces.start.tolist() == [4] and pieces.length.tolist() == [3]


def test_draws_are_uniform_and_unrelated() -> None:
    rows, positions = np.repeat(np.arange(200), 50), np.tile(np.arange(50), 200)
    one = uniform(0, 1, rows, positions, stream=0)
    assert one.min() >= 0 and one.max() < 1
    counts = np.bincount((one * 20).astype(int), minlength=20)
    chi_square = ((counts - 500) ** 2 / 500).sum()
    assert chi_square < 43.8  # 99.9 % of a chi-square with 19 degrees of freedom
    for other in (
        uniform(0, 2, rows, positions, stream=0),
        uniform(1, 1, rows, positions, stream=0),
        uniform(0, 1, rows, positions, stream=1),
        uniform(0, 1, rows + 1, positions, stream=0),
    ):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.04


INFILL = Infill(rate=1.0, spm=0.0, prefix_id=50, middle_id=51, suffix_id=52)


@pytest.mark.parametrize("spm", [0.0, 1.0])
def test_a_rearranged_text_is_its_three_parts_and_the_middle_is_learned_last(spm: float) -> None:
    lengths = [n + 4 for n in LENGTHS]
    made = batches("causal", lengths, infill=replace(INFILL, spm=spm), context=64, batch_tokens=10**6)
    plain = batches("causal", lengths, context=64).store
    cuts = set()
    for batch in made.step(1):
        for row, tokens in zip(batch.rows.tolist(), batch.tokens.split(batch.lengths), strict=True):
            opening, *said = tokens.tolist()
            before, rest = said[1 : said.index(52)], said[said.index(52) + 1 :]
            suffix, middle = rest[: rest.index(51)], rest[rest.index(51) + 1 :]
            if spm == 1:
                # <prefix> <suffix> suffix <middle> prefix middle
                assert said[:2] == [50, 52]
                whole = [opening, *middle, *suffix]
            else:
                assert said[0] == 50
                whole = [opening, *before, *middle, *suffix]
            original = plain.tokens(row).tolist()
            # the last target, the end of the text, follows the middle
            assert whole == original[:-1]
            cuts.add((len(before), len(middle)))
        ends = np.cumsum(batch.lengths) - 1
        assert (batch.targets[ends] == 0).all()
    assert len(cuts) > 5


def test_rearranging_follows_its_rate_and_keeps_what_is_learned() -> None:
    lengths = [12] * 600
    made = batches("causal", lengths, infill=replace(INFILL, rate=0.4, spm=0.25), batch_tokens=10**6, context=64)
    found = [tokens.tolist() for batch in made.step(1) for tokens in batch.tokens.split(batch.lengths)]
    changed = [tokens for tokens in found if 50 in tokens]
    # four standard deviations of a share p of n draws
    assert abs(len(changed) / 600 - 0.4) < 4 * (0.24 / 600) ** 0.5
    suffix_first = sum(tokens[2] == 52 for tokens in changed) / len(changed)
    # an empty prefix looks the same: two cuts of eleven places
    assert abs(suffix_first - 0.25 - 0.75 * 21 / 121) < 4 * (0.25 / len(changed)) ** 0.5
    learned = sum(int((batch.targets != IGNORED).sum()) for batch in made.step(1))
    plain = sum(int((b.targets != IGNORED).sum()) for b in batches("causal", lengths, batch_tokens=10**6).step(1))
    assert learned == plain + 3 * len(changed)
    # another step, another draw; validation sees the texts as they are
    assert _by_row(made.step(1)) != _by_row(made.step(2))
    assert all(not (batch.tokens >= 50).any() for batch in made.everything())


def test_a_rearranged_stretch_of_a_long_text_fits_into_the_context() -> None:
    made = batches("causal", [5, 200, 90], infill=INFILL, context=32)
    found = [batch for step in range(1, made.steps_per_epoch + 1) for batch in made.step(step)]
    assert max(length for batch in found for length in batch.lengths) == 32
    # nothing is lost: every token but the openings is an input or a target, and three marks come to each stretch
    assert sum(len(batch.tokens) for batch in found) == 4 + 199 + 89 + 3 * len(made.pieces.row)


def test_a_word_is_hidden_whole_or_not_at_all() -> None:
    joints = np.zeros((50, 2), dtype=bool)
    # tokens 3 to 19 open a word, 20 to 39 go on with it, 40 to 49 are marks between words
    joints[3:40, 1], joints[20:40, 0] = True, True
    made = batches("masked", [30] * 300, noise=replace(NOISE, joints=joints), batch_tokens=10**6, context=64)
    hidden = words = 0
    for batch in made.step(1):
        for row, targets in zip(batch.rows.tolist(), batch.targets.split(batch.lengths), strict=True):
            tokens, chosen = made.store.tokens(row), targets.numpy() != IGNORED
            for at in range(1, len(tokens)):
                if joints[tokens[at], 0] and joints[tokens[at - 1], 1]:
                    assert chosen[at] == chosen[at - 1]
                elif tokens[at] not in SPECIAL:
                    words, hidden = words + 1, hidden + int(chosen[at])
    assert abs(hidden / words - 0.3) < 4 * (0.21 / words) ** 0.5


def test_documents_laid_end_to_end_fill_one_context_whatever_the_micro_batch() -> None:
    alone = batches("causal", LENGTHS, batch_tokens=400, context=48)
    joined = batches("causal", LENGTHS, batch_tokens=400, context=48, isolate=False)
    small = batches("causal", LENGTHS, batch_tokens=400, context=48, isolate=False, micro_batch_tokens=1)
    lengths = [n for batch in joined.step(1) for n in batch.lengths]
    assert sum(lengths) == sum(n for batch in alone.step(1) for n in batch.lengths)
    assert max(lengths) <= 48 and len(lengths) < sum(len(batch.lengths) for batch in alone.step(1))
    assert _by_row(joined.step(1)) == _by_row(small.step(1))
    assert _by_row(joined.everything()) == _by_row(alone.everything())


def test_replayed_sources_have_their_share_of_every_step() -> None:
    lengths = [10] * 2000
    made = batches("causal", lengths, batch_tokens=900, micro_batch_tokens=300, replay={"general": 0.25})
    source = made.store.rows["source"]
    seen: list[int] = []
    for step in range(1, made.steps_per_epoch + 1):
        rows = np.concatenate([batch.rows for batch in made.step(step)])
        share = (source[rows] == "general").mean()
        assert abs(share - 0.25) < 0.02
        seen += rows[source[rows] == "domain"].tolist()
    # an epoch is one of what is not replayed
    assert sorted(seen) == [row for row in range(2000) if source[row] == "domain"]
