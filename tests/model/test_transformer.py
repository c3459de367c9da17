"""Packing, isolation, rows, starting weights, gradients and heads."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.model.attention import DOUBLING_LENGTH, MEASURED_WIDTH, RECTANGLE_COST, Rule, Segments, rectangle_cuts
from wyrmling.model.heads import Model, mean_pool, stacked_parts, with_head
from wyrmling.model.transformer import padded_vocab

LENGTHS = [5, 24, 9, 5, 17, 1, 23, 6]
# One of each kind of block and of head.
KINDS = [("bert", "classes"), ("gpt_neox", "next"), ("falcon", "next"), ("gemma2", "next"), ("olmo2", "next")]
HEADS = [("qwen3", "next"), ("modernbert", "masked"), ("modernbert", "classes"), ("modernbert", "tags")]


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_packed_is_one_by_one(tiny, family, head):
    model = tiny.model(family, head)
    documents = tiny.documents(LENGTHS)
    with torch.no_grad():
        packed = model.logits(tiny.flat(documents), Segments(LENGTHS))
        alone = torch.cat([model.logits(torch.tensor(d), Segments([len(d)])) for d in documents])
    assert (packed - alone).abs().max() < 2e-5


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_packed_gradients_are_the_sum_of_the_documents_gradients(tiny, family, head):
    model = tiny.model(family, head).double()
    documents = tiny.documents(LENGTHS)

    def gradients(batches):
        model.zero_grad()
        for batch in batches:
            segments = Segments([len(d) for d in batch])
            model.logits(tiny.flat(batch), segments).logsumexp(-1).sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    together, apart = gradients([documents]), gradients([[d] for d in documents])
    for a, b in zip(together, apart, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_changing_one_document_leaves_the_others_bit_for_bit(tiny, family, head):
    model = tiny.model(family, head)
    documents = tiny.documents(LENGTHS)
    changed = [tiny.documents([len(documents[0])], seed=9)[0], *documents[1:]]
    with torch.no_grad():
        before = model.logits(tiny.flat(documents), Segments(LENGTHS))
        after = model.logits(tiny.flat(changed), Segments(LENGTHS))
    rest = 1 if head == "classes" else LENGTHS[0]
    assert not torch.equal(before[:rest], after[:rest])
    assert torch.equal(before[rest:], after[rest:])


def test_a_decoder_does_not_look_ahead_and_an_encoder_does(tiny):
    tokens = tiny.flat(tiny.documents([20]))
    changed = tokens.clone()
    changed[-1] = (changed[-1] + 1) % tiny.vocab
    for family, looks_ahead in (("qwen3", False), ("modernbert", True)):
        model = tiny.model(family)
        before, after = (model.logits(t, Segments([20]))[:-1] for t in (tokens, changed))
        assert torch.equal(before, after) is not looks_ahead


@pytest.mark.parametrize(("family", "head"), HEADS + KINDS)
def test_wanted_rows_are_those_rows_of_all(tiny, family, head):
    model = tiny.model(family, head)
    tokens, segments = tiny.flat(tiny.documents(LENGTHS)), Segments(LENGTHS)
    rows = torch.tensor([7, 2, 5])
    assert torch.allclose(model.logits(tokens, segments, rows), model.logits(tokens, segments)[rows], atol=1e-5)


@pytest.mark.parametrize(("family", "head"), HEADS + KINDS)
def test_the_gradient_of_wanted_rows_is_theirs_among_all(tiny, family, head):
    """The last block computes these rows only; nothing may be lost or counted twice on the way back."""
    tokens, segments = tiny.flat(tiny.documents(LENGTHS)), Segments(LENGTHS)
    rows = torch.tensor([7, 2, 5])

    def gradients(wanted):
        model = tiny.model(family, head)
        logits = model.logits(tokens, segments, rows) if wanted else model.logits(tokens, segments)[rows]
        logits.square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    few, all_of_them = gradients(True), gradients(False)
    assert few.keys() == all_of_them.keys()
    for name, gradient in few.items():
        torch.testing.assert_close(gradient, all_of_them[name], rtol=1e-4, atol=1e-5)


def test_the_last_block_computes_the_wanted_rows_only(tiny):
    model, tokens, segments = tiny.model("qwen3"), tiny.flat(tiny.documents([40])), Segments([40])

    def flops(rows):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.body(tokens, segments, rows)
        return counter.get_total_flops()

    last = model.body.blocks[-1]
    spared = sum(p.numel() for part in (last.attention.out, last.ffn) for p in part.parameters())
    assert flops(None) - flops(torch.tensor([3])) == 2 * 39 * spared


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.booleans())
def test_the_layout_holds_every_token_once_and_shows_it_only_its_own_document(lengths, causal):
    segments = Segments(lengths)
    plan = segments.plan(torch.device("cpu"))
    assert torch.equal(plan.order_P[plan.where_N], torch.arange(sum(lengths)))
    expected = torch.cat([torch.arange(n) for n in lengths])
    assert torch.equal(plan.positions_P[plan.where_N], expected)
    # With equal scores attention is a mean over what a token sees, here of its own index in binary.
    places = len(plan.order_P)
    zeros, index = torch.zeros(places, 1, 2), plan.order_P.double()[:, None, None].expand(-1, 1, 2)
    seen = plan.attend(0, Rule(causal=causal), zeros.double(), zeros.double(), index)[plan.where_N, 0, 0]
    start = 0
    for n in lengths:
        own = torch.arange(start, start + n).double()
        mean = own.cumsum(0) / torch.arange(1, n + 1) if causal else own.mean().expand(n)
        assert torch.allclose(seen[start : start + n], mean, atol=1e-9)
        start += n


@pytest.mark.parametrize("width", [64, 2048, 16384])
def test_cuts_are_the_cheapest_there_are(width):
    lengths = [3, 3, 4, 9, 20, 21, 22, 50, 50]

    def cost(cuts):
        filler = sum(
            ((b - a) * lengths[b - 1] - sum(lengths[a:b])) * (1 + lengths[b - 1] / DOUBLING_LENGTH)
            for a, b in pairwise(cuts)
        )
        return filler + RECTANGLE_COST * MEASURED_WIDTH / width * (len(cuts) - 1)

    n = len(lengths)
    every = [[0, *(i for i in range(1, n) if mask >> i & 1), n] for mask in range(0, 2**n, 2)]
    best = rectangle_cuts(lengths, width)
    assert cost(best) == pytest.approx(min(map(cost, every)))


def test_a_model_starts_near_uniform_and_gradients_reach_every_parameter_within_two_steps(tiny):
    for family, head in HEADS:
        model = Model(tiny.config(family), head, tiny.classes, seed=1)
        tokens, segments = tiny.flat(tiny.documents(LENGTHS)), Segments(LENGTHS)
        targets = torch.randint(0, model.n_out, (len(model.logits(tokens, segments)),))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(3):
            loss = F.cross_entropy(model.logits(tokens, segments), targets)
            if step == 0:
                assert abs(float(loss.detach()) - torch.tensor(model.n_out).log()) < 0.1
            model.zero_grad()
            loss.backward()
            optimizer.step()
        # The output matrices start at zero, so what lies before them learns from the second step on.
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_the_same_seed_gives_the_same_start_and_another_seed_another(tiny):
    first, again, other = (Model(tiny.config(), "next", seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.output.weight_VD, other.output.weight_VD)


def test_dropout_acts_in_training_only(tiny):
    model = tiny.model("modernbert", "classes", dropout=0.2)
    tokens, segments = tiny.flat(tiny.documents(LENGTHS)), Segments(LENGTHS)
    assert torch.equal(model.logits(tokens, segments), model.logits(tokens, segments))
    model.train()
    assert not torch.equal(model.logits(tokens, segments), model.logits(tokens, segments))


def test_a_new_head_keeps_the_body_and_the_shared_layers(tiny):
    masked = tiny.model("modernbert", "masked")
    tags = with_head(masked, "tags", 7, seed=1)
    assert tags.n_out == 7
    tokens, segments = tiny.flat(tiny.documents(LENGTHS)), Segments(LENGTHS)
    assert torch.equal(tags.body(tokens, segments), masked.body(tokens, segments))
    assert torch.equal(tags.features(tokens, segments), masked.features(tokens, segments))


def test_bfloat16_autocast_trains_and_stays_close(tiny):
    for family, head in HEADS:
        model = tiny.model(family, head)
        tokens, segments = tiny.flat(tiny.documents(LENGTHS)), Segments(LENGTHS)
        exact = model.logits(tokens, segments)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.logits(tokens, segments)
        rough.float().logsumexp(-1).sum().backward()
        # 8 bits of mantissa through three layers: wrong by a few percent, not by a wiring fault.
        assert (rough.float() - exact).std() < 0.05 * exact.std()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_inference_mode_first_does_not_spoil_training_after(tiny):
    model = tiny.model("modernbert", "tags")
    tokens, segments = tiny.flat(tiny.documents(LENGTHS)), Segments(LENGTHS)
    with torch.inference_mode():
        model.logits(tokens, segments)
    model.logits(tokens, segments).sum().backward()


def test_mean_pool_is_the_mean_of_each_document():
    hidden = torch.arange(12.0).view(6, 2)
    pooled = mean_pool(hidden, Segments([1, 3, 2]))
    assert torch.equal(pooled, torch.stack([hidden[0], hidden[1:4].mean(0), hidden[4:].mean(0)]))


def test_stacked_parts_cover_the_stacked_matrices(tiny):
    model = tiny.model()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    parts = stacked_parts(model)
    assert len(parts) == 2 * model.config.layers
    assert all(sum(rows) == shapes[name][0] for name, rows in parts.items())


def test_what_cannot_work_is_refused_with_the_reason(tiny):
    with pytest.raises(BadSetting, match=r"heads = 4 is not a multiple of model\.kv_heads = 3"):
        tiny.config(kv_heads=3)
    with pytest.raises(BadSetting, match="odd"):
        tiny.config(head_dim=7)
    with pytest.raises(BadSetting, match="modernbert model needs"):
        tiny.config("modernbert", kv_heads=2)
    with pytest.raises(BadSetting, match="can't have the head 'masked'"):
        tiny.model("qwen3", "masked")
    with pytest.raises(BadSetting, match="at least 2 classes, not 1"):
        Model(tiny.config("modernbert"), "classes", 1)
    with pytest.raises(BadInput, match="65 tokens is longer"):
        tiny.model().logits(torch.zeros(65, dtype=torch.int64), Segments([65]))
    with pytest.raises(ValueError, match="at least one token"):
        Segments([3, 0])
    assert (padded_vocab(1), padded_vocab(8), padded_vocab(4097)) == (8, 8, 4104)
