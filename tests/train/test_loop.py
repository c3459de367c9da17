"""The loop: splitting a batch changes nothing, stopping and going on changes nothing, bad steps are left out."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from train.small import Small
from wyrmling.config import TrainObjective
from wyrmling.core.errors import WyrmlingError
from wyrmling.model.heads import Model, stacked_parts
from wyrmling.model.transformer import ModelConfig
from wyrmling.train.batches import Batch, Batches, Noise
from wyrmling.train.loop import Step, accumulate, average, steps
from wyrmling.train.objectives import OBJECTIVES, LossFunction, loss_function
from wyrmling.train.optim import Optimizer, parameter_groups, wsd
from wyrmling.train.prefetch import Feed
from wyrmling.train.sizing import KINDS
from wyrmling.train.spikes import Judge, Recent

# Large enough that twelve steps are more than one epoch.
BATCH = 500
ALL: list[TrainObjective] = ["causal", "masked", "sft", "classify", "tag"]


def model_for(objective: TrainObjective, small: Small, *, dropout: float = 0.0) -> Model:
    store = small.store()
    head = OBJECTIVES[objective].head
    causal = head == "next"
    config = ModelConfig(
        family="qwen3" if causal else "modernbert",
        vocab_size=400,
        width=32,
        layers=2,
        heads=2,
        kv_heads=2,
        head_dim=16,
        ffn=48,
        context=64,
        tied=not causal,
        dropout=dropout,
    )
    classes = {"classes": len(store.labels), "tags": len(store.tag_names)}.get(head, 0)
    model = Model(config, head, classes, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        # No matrix starts at zero, so that every part of the gradient shows.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def batches_for(objective: TrainObjective, small: Small, *, tokens: int = 400, micro: int = 10**6) -> Batches:
    store, tokenizer = small.store(), small.tokenizer
    rows = np.flatnonzero(np.isin(store.rows["kind"], KINDS[objective]))
    noise = Noise(0.3, tokenizer.mask_id or 0, tuple(tokenizer.special_ids.values()), store.vocab_size)
    return Batches(
        store,
        objective,
        rows,
        context=64,
        data_hash="h",
        seed=0,
        batch_tokens=tokens,
        micro_batch_tokens=micro,
        noise=noise if objective == "masked" else None,
    )


def optimizer_for(model: Model, lr: float = 0.02) -> Optimizer:
    groups = parameter_groups(
        dict(model.named_parameters()),
        rule="muon",
        lr=lr,
        embedding_lr=lr,
        head_lr=lr / 5,
        weight_decay=0.1,
        parts=stacked_parts(model),
    )
    return Optimizer(groups)


@pytest.mark.parametrize("objective", ALL)
def test_splitting_a_batch_does_not_change_the_gradient(objective: TrainObjective, small: Small) -> None:
    loss = loss_function(objective, label_smoothing=0.1)
    gradients, sums = [], []
    for micro in (10**6, 37):
        model = model_for(objective, small).double()
        batches = batches_for(objective, small, micro=micro).step(3)
        total, count = accumulate(model, loss, batches)
        optimizer = optimizer_for(model)
        average(optimizer, count, 0.0)
        gradients.append([p.grad for p in model.parameters()])
        sums.append((total, count, len(batches)))
    assert sums[0][2] == 1 and sums[1][2] > 3
    assert sums[0][1] == sums[1][1] > 0
    assert sums[0][0] == pytest.approx(sums[1][0], rel=1e-12)
    for whole, parts in zip(*gradients, strict=True):
        assert whole is not None and parts is not None
        torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-12)


def run(
    model: Model,
    optimizer: Optimizer,
    small: Small,
    objective: TrainObjective,
    *,
    first: int,
    last: int,
    loss: LossFunction | None = None,
    micro: int = 10**6,
) -> list[Step]:
    feed = Feed(batches_for(objective, small, tokens=BATCH, micro=micro), first=first, last=last)
    return list(
        steps(
            model,
            optimizer,
            loss or loss_function(objective, label_smoothing=0.0),
            feed,
            first=first,
            last=last,
            schedule=lambda step: wsd(step, 12, warmup=2, decay=6),
            seed=7,
            max_norm=1.0,
            judge=Judge(Recent()),
        )
    )


def test_going_on_after_any_step_gives_the_same_bits(small: Small) -> None:
    whole = model_for("masked", small, dropout=0.1)
    straight = run(whole, optimizer_for(whole), small, "masked", first=1, last=12)
    # The last steps are in the second epoch.
    assert batches_for("masked", small, tokens=BATCH).steps_per_epoch < 11
    for stop in (1, 5, 11):
        before = model_for("masked", small, dropout=0.1)
        optimizer = optimizer_for(before)
        run(before, optimizer, small, "masked", first=1, last=stop)
        after = model_for("masked", small, dropout=0.1)
        after.load_state_dict(before.state_dict())
        resumed = optimizer_for(after)
        resumed.load({name: tensor.clone() for name, tensor in optimizer.state().items()})
        rest = run(after, resumed, small, "masked", first=stop + 1, last=12)
        assert [step.loss for step in rest] == [step.loss for step in straight[stop:]]
        assert all(a.equal(b) for a, b in zip(whole.parameters(), after.parameters(), strict=True))


def spoiled(when: Callable[[int], bool]) -> LossFunction:
    """The real loss, but not a number in the calls that `when` chooses, counted from 1."""
    calls = 0

    def loss(model: Model, batch: Batch) -> tuple[torch.Tensor, int]:
        nonlocal calls
        calls += 1
        value, count = loss_function("masked", label_smoothing=0.0)(model, batch)
        return (value * math.nan if when(calls) else value), count

    return loss


def test_a_bad_step_is_left_out_and_the_weights_stay(small: Small) -> None:
    model = model_for("masked", small)
    optimizer = optimizer_for(model)
    done = run(model, optimizer, small, "masked", first=1, last=3, loss=spoiled(lambda call: call == 2))
    assert [step.left_out[:14] for step in done] == ["", "no finite loss", ""]
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    clean = model_for("masked", small)
    run(clean, optimizer_for(clean), small, "masked", first=1, last=1)
    again = model_for("masked", small)
    run(again, optimizer_for(again), small, "masked", first=1, last=2, loss=spoiled(lambda call: call == 2))
    assert all(a.equal(b) for a, b in zip(clean.parameters(), again.parameters(), strict=True))


def holding(tokens: int, error: Exception, *, calls: list[int]) -> LossFunction:
    """The real loss on a machine whose memory holds a backward pass of so many tokens; `calls` gets their numbers."""

    def loss(model: Model, batch: Batch) -> tuple[torch.Tensor, int]:
        calls.append(len(batch.tokens))
        value, count = loss_function("masked", label_smoothing=0.0)(model, batch)
        if len(batch.tokens) > tokens:
            # As it happens: some of the gradients are there already.
            value.backward()  # type: ignore[no-untyped-call]
            raise error
        return value, count

    return loss


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_a_step_that_does_not_fit_is_done_again_in_smaller_parts(
    error: Exception, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = model_for("masked", small).double(), model_for("masked", small).double()
    expected = run(whole, optimizer_for(whole), small, "masked", first=1, last=3)
    calls: list[int] = []
    loss = holding(150, error, calls=calls)
    done = run(parts, optimizer_for(parts), small, "masked", first=1, last=3, loss=loss)
    assert [(step.targets, step.tokens) for step in done] == [(step.targets, step.tokens) for step in expected]
    assert [step.loss for step in done] == pytest.approx([step.loss for step in expected], rel=1e-9)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    # Twice in the first step, and never again.
    assert [calls[0] > 300, calls[1] > 150] == [True, True] and max(calls[2:]) <= 150
    assert capsys.readouterr().err.count("step 1 did not fit into the memory") == 2


def test_a_document_that_does_not_fit_alone_is_an_error_with_a_remedy(small: Small) -> None:
    model = model_for("masked", small)
    loss = holding(3, MemoryError(), calls=[])
    with pytest.raises(WyrmlingError, match="too small for a micro-batch of one document") as error:
        run(model, optimizer_for(model), small, "masked", first=1, last=3, loss=loss)
    assert error.value.fix is not None and "context" in error.value.fix


def test_other_errors_are_not_taken_for_a_lack_of_memory(small: Small) -> None:
    model = model_for("masked", small)
    with pytest.raises(RuntimeError, match="shapes"):
        run(
            model,
            optimizer_for(model),
            small,
            "masked",
            first=1,
            last=2,
            loss=holding(3, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), calls=[]),
        )


def test_the_thread_gives_what_the_batches_hold(small: Small) -> None:
    batches = batches_for("masked", small, tokens=BATCH)
    feed = Feed(batches, first=4, last=9, skipped=2)
    for number in (4, 5, 6, 9):
        (got,), (expected,) = feed.step(number), batches.step(number + 2)
        assert got.tokens.equal(expected.tokens) and got.targets.equal(expected.targets)
        assert got.lengths == expected.lengths
    feed.close()


def test_a_step_without_targets_changes_nothing(small: Small) -> None:
    def nothing(model: Model, batch: Batch) -> tuple[torch.Tensor, int]:
        return torch.zeros(()), 0

    model = model_for("masked", small)
    before = [p.detach().clone() for p in model.parameters()]
    (step,) = run(model, optimizer_for(model), small, "masked", first=1, last=1, loss=nothing)
    assert step.targets == 0 and math.isnan(step.loss) and not step.left_out
    assert all(a.equal(b) for a, b in zip(before, model.parameters(), strict=True))
