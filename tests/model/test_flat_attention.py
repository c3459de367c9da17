"""Flat attention asks its kernels for what rectangles compute; the kernels themselves need a GPU."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wyrmling.model import flat_attention
from wyrmling.model.attention import Rule, Segments

LENGTHS = [5, 1, 12, 7]
HEADS, GROUPS, WIDTH = 4, 2, 16

RULES = {
    "causal": Rule(),
    "bidirectional": Rule(causal=False),
    "window": Rule(reach=3),
    "window both ways": Rule(causal=False, reach=2),
    "scaled": Rule(scale=0.3),
    "cap": Rule(cap=2.0),
    "cap and window": Rule(cap=2.0, reach=4),
    "alibi": Rule(alibi="exact"),
    "alibi rounded": Rule(alibi="rounded", scale=0.25),
}


@pytest.mark.parametrize(
    ("rule", "kernel"),
    [(rule, "flex" if "cap" in name or "alibi" in name else "varlen") for name, rule in RULES.items()],
    ids=RULES,
)
def test_flash_attention_is_taken_where_it_knows_the_rule(rule: Rule, kernel: str) -> None:
    assert flat_attention.kernel_for(rule) == kernel


def test_only_a_gpu_that_computes_in_16_bits_attends_flat() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert not flat_attention.serves(cuda) and not flat_attention.serves(cpu)
    with torch.autocast("cpu", torch.bfloat16):
        assert not flat_attention.serves(cpu)


def test_the_layout_keeps_every_token_in_its_place() -> None:
    plan, rectangles = flat_attention.plan(Segments(LENGTHS), torch.device("cpu")), Segments(LENGTHS)
    assert plan.order_P.tolist() == plan.where_N.tolist() == list(range(sum(LENGTHS)))
    other = rectangles.plan(torch.device("cpu"))
    assert plan.positions_P.equal(other.positions_P[other.where_N])


def heads(seed: int, count: int) -> Tensor:
    return torch.randn(sum(LENGTHS), count, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_masks_and_scores_are_those_of_rectangles(rule: Rule) -> None:
    """The functions that FlexAttention gets, applied to all pairs, against the attention that a CPU trains with."""
    q, k, v = heads(1, HEADS), heads(2, GROUPS), heads(3, GROUPS)
    plan = Segments(LENGTHS).plan(torch.device("cpu"))
    expected = plan.attend(0, rule, q[plan.order_P], k[plan.order_P], v[plan.order_P])[plan.where_N]

    flat = flat_attention.plan(Segments(LENGTHS), torch.device("cpu"))
    document = Segments(LENGTHS).segment_N()
    n, scale = len(document), WIDTH**-0.5 if rule.scale is None else rule.scale
    query, key = torch.arange(n)[:, None], torch.arange(n)[None]
    seen = flat_attention.mask_of(rule, document, flat.positions_P)(query * 0, query * 0, query, key)
    score = flat_attention.score_of(rule, flat.positions_P, HEADS)
    outs = []
    for head in range(HEADS):
        group = head // (HEADS // GROUPS)
        scores = score(q[:, head] @ k[:, group].T * scale, query * 0, torch.tensor(head), query, key)
        outs.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v[:, group])
    torch.testing.assert_close(torch.stack(outs, dim=1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["causal", "bidirectional", "window", "window both ways"])
def test_the_window_of_flash_attention_is_the_reach(name: str) -> None:
    """Flash attention counts tokens to the left and to the right of the query; -1 is no limit."""
    rule = RULES[name]
    left, right = flat_attention.window(rule)
    distance = torch.arange(12)[:, None] - torch.arange(12)
    seen = torch.ones_like(distance, dtype=torch.bool)
    seen &= (distance <= left) | torch.tensor(left < 0)
    seen &= (-distance <= right) | torch.tensor(right < 0)
    mask = flat_attention.mask_of(rule, torch.zeros(12, dtype=torch.int64), torch.arange(12))
    index = torch.arange(12)
    assert seen.equal(mask(index * 0, index * 0, index[:, None], index[None]))


def test_the_call_of_flash_attention_is_one_that_torch_accepts() -> None:
    """On tensors without values: names, types and shapes, checked by torch's own description of the kernel."""
    with torch.device("meta"):
        q, k = (torch.empty(25, count, 64, dtype=torch.bfloat16) for count in (HEADS, GROUPS))
        bounds = torch.empty(5, dtype=torch.int32)
    out = flat_attention._varlen(Rule(reach=8), bounds, 12, q, k, k)
    assert out.shape == q.shape and out.dtype == torch.bfloat16


def test_in_16_bits_the_backward_pass_of_a_cpu_is_computed_in_32() -> None:
    """Against float64: as near as float32 attention of the rounded inputs."""
    lengths = [20, 20]
    inputs = [torch.randn(40, 2, 16, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3)]
    plan = Segments(lengths).plan(torch.device("cpu"))
    q, k, v = (x.clone().requires_grad_() for x in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = plan.attend(0, Rule(), q, k, v)
    out.float().square().sum().backward()  # type: ignore[no-untyped-call]
    wide = [x.double().view(2, 20, 2, 16).transpose(1, 2).requires_grad_() for x in inputs]
    exact = F.scaled_dot_product_attention(*wide, is_causal=True)
    exact.square().sum().backward()  # type: ignore[no-untyped-call]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.view(2, 20, 2, 16).transpose(1, 2).double(), exact, rtol=1e-5, atol=1e-5)
    for x, e in zip((q, k, v), wide, strict=True):
        assert x.grad is not None and e.grad is not None
        # gradients are handed back in bfloat16
        torch.testing.assert_close(x.grad.view(2, 20, 2, 16).transpose(1, 2).double(), e.grad, rtol=2**-7, atol=2**-7)


def test_other_batches_have_the_same_number_of_places_and_filler_is_never_read() -> None:
    """In 16 bits on a CPU, where kernels are kept for each size."""
    sizes = set()
    for total in range(257, 320):
        with torch.autocast("cpu", torch.bfloat16):
            plan = Segments([total - 50, 30, 20]).plan(torch.device("cpu"))
        sizes.add(len(plan.order_P))
        q, k = torch.randn(len(plan.order_P), 2, 16), torch.randn(len(plan.order_P), 1, 16)
        out = plan.attend(0, Rule(), q, k, k)
        # What stands in places after the rectangles changes nothing for the tokens.
        q[plan.where_N.max() + 1 :], k[plan.where_N.max() + 1 :] = 9.0, 9.0
        assert out[plan.where_N].equal(plan.attend(0, Rule(), q, k, k)[plan.where_N])
        assert len(Segments([total]).plan(torch.device("cpu")).order_P) == total
    assert len(sizes) <= 4


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_those_of_each_document_alone_and_filler_has_none(causal: bool) -> None:
    """In layouts with filler in the rectangles and after the tokens."""
    lengths, rule = [11, 3, 7, 7, 2, 2, 9], Rule(causal=causal)
    n, generator = sum(lengths), torch.Generator().manual_seed(0)
    q, k, v, pull = (torch.randn(n, 2, 8, generator=generator) for _ in range(4))
    with torch.autocast("cpu", torch.bfloat16):
        plan = Segments(lengths).plan(torch.device("cpu"))
        inputs = [x[plan.order_P].requires_grad_() for x in (q, k, v)]
        out = plan.attend(0, rule, *inputs)
    assert len(plan.order_P) > n
    (out[plan.where_N] * pull).sum().backward()  # type: ignore[no-untyped-call]
    alone = [x.clone().requires_grad_() for x in (q, k, v)]
    for start, length in zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True):
        own = slice(start, start + length)
        parts = [x[own].transpose(0, 1) for x in alone]
        expected = F.scaled_dot_product_attention(*parts, is_causal=causal).transpose(0, 1)
        torch.testing.assert_close(out[plan.where_N][own], expected, rtol=1e-4, atol=1e-5)
        (expected * pull[own]).sum().backward()  # type: ignore[no-untyped-call]
    for x, e in zip(inputs, alone, strict=True):
        assert x.grad is not None and e.grad is not None
        torch.testing.assert_close(x.grad[plan.where_N], e.grad, rtol=1e-4, atol=1e-5)
        assert not x.grad[n:].any()
