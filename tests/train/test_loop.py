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
from wyrmling.train.loop import MAX_BAD_STEPS, Step, accumulate, scale, steps
from wyrmling.train.objectives import OBJECTIVES, LossFunction, loss_function
from wyrmling.train.optim import Optimizer, parameter_groups, wsd
from wyrmling.train.sizing import KINDS

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
        scale(optimizer, 1 / count)
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
) -> list[Step]:
    return list(
        steps(
            model,
            optimizer,
            loss or loss_function(objective, label_smoothing=0.0),
            batches_for(objective, small, tokens=BATCH).step,
            first=first,
            last=last,
            schedule=lambda step: wsd(step, 12, warmup=2, decay=6),
            seed=7,
            max_norm=1.0,
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


def test_a_bad_step_is_left_out_and_the_weights_stay(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_for("masked", small)
    optimizer = optimizer_for(model)
    done = run(model, optimizer, small, "masked", first=1, last=3, loss=spoiled(lambda call: call == 2))
    assert [step.left_out for step in done] == [False, True, False]
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert "step 2 had no finite loss" in capsys.readouterr().err
    clean = model_for("masked", small)
    run(clean, optimizer_for(clean), small, "masked", first=1, last=1)
    again = model_for("masked", small)
    run(again, optimizer_for(again), small, "masked", first=1, last=2, loss=spoiled(lambda call: call == 2))
    assert all(a.equal(b) for a, b in zip(clean.parameters(), again.parameters(), strict=True))


def test_too_many_bad_steps_end_the_run_with_a_remedy(small: Small) -> None:
    model = model_for("masked", small)
    with pytest.raises(WyrmlingError, match=f"{MAX_BAD_STEPS + 1} steps in a row had no finite") as error:
        run(model, optimizer_for(model), small, "masked", first=1, last=50, loss=spoiled(lambda call: call > 1))
    assert error.value.where == f"step {MAX_BAD_STEPS + 2}"
    assert error.value.fix is not None and "lower the learning rate" in error.value.fix
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_step_without_targets_changes_nothing(small: Small) -> None:
    def nothing(model: Model, batch: Batch) -> tuple[torch.Tensor, int]:
        return torch.zeros(()), 0

    model = model_for("masked", small)
    before = [p.detach().clone() for p in model.parameters()]
    (step,) = run(model, optimizer_for(model), small, "masked", first=1, last=1, loss=nothing)
    assert step.targets == 0 and math.isnan(step.loss) and not step.left_out
    assert all(a.equal(b) for a, b in zip(before, model.parameters(), strict=True))
