"""Losses and their settings against torch and scikit-learn."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from train.small import Small
from wyrmling.config import TrainStep
from wyrmling.core.errors import BadSetting
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.train.assemble import loss_for, with_dropout
from wyrmling.train.batches import IGNORED, Batch
from wyrmling.train.objectives import class_weights, loss_function

LENGTHS = [5, 9, 3]


def model(head: str = "next", *, zero_init: bool = False) -> Model:
    family = "qwen3" if head == "next" else "modernbert"
    config = ModelConfig(family, 64, 32, 2, 2, 2, 16, 48, 32)  # type: ignore[arg-type]
    return Model(config, head, 4, seed=1, zero_init=zero_init)  # type: ignore[arg-type]


def batch(targets: torch.Tensor) -> Batch:
    tokens = torch.randint(64, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    return Batch(tokens, LENGTHS, targets, np.arange(len(LENGTHS)))


@pytest.mark.parametrize("head", ["classes", "tags"])
def test_classes_weigh_as_in_torch(head: str) -> None:
    objective = "classify" if head == "classes" else "tag"
    of = model(head).double()
    n = len(LENGTHS) if head == "classes" else sum(LENGTHS)
    targets = torch.arange(n) % 4
    targets[1] = IGNORED
    weights = [0.5, 1.0, 2.0, 3.0]
    loss, count = loss_function(objective, label_smoothing=0.1, weights=weights)(of, batch(targets))  # type: ignore[arg-type]
    logits = of.logits(batch(targets).tokens, Segments(LENGTHS))
    judge = F.cross_entropy(
        logits, targets, torch.tensor(weights).double(), reduction="sum", label_smoothing=0.1, ignore_index=IGNORED
    )
    assert count == n - 1
    torch.testing.assert_close(loss, judge, rtol=1e-12, atol=0)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    step = TrainStep(name="s", objective="classify", class_weights="balanced")
    labels = np.repeat([0, 1, 2], [30, 6, 4])
    judge = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(step, ["a", "b", "c"], [30, 6, 4]) == pytest.approx(judge)
    # a label without rows is never a target
    assert class_weights(step, ["a", "b", "c", "d"], [30, 6, 4, 0]) == pytest.approx([*judge, 0.0])


def test_given_weights_name_labels_that_exist() -> None:
    step = TrainStep(name="s", objective="classify", class_weights={"b": 3.0})
    assert class_weights(step, ["a", "b"], [1, 1]) == [1.0, 3.0]
    with pytest.raises(BadSetting, match="'b', which no row has"):
        class_weights(step, ["a", "c"], [1, 1])


def test_tokens_are_smoothed_as_in_torch() -> None:
    of = model().double()
    targets = torch.arange(sum(LENGTHS)) % 64
    loss, _ = loss_function("sft", label_smoothing=0.2)(of, batch(targets))
    logits = of.logits(batch(targets).tokens, Segments(LENGTHS))
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.2))


def test_noise_on_embeddings_is_bounded_by_the_length_of_each_document() -> None:
    of = model().train()
    seen: list[torch.Tensor] = []
    # called after the noise's own hook, so it sees what the first block sees
    noisy, alpha = loss_function("causal", neftune=5.0), 5.0
    material = batch(torch.arange(sum(LENGTHS)))
    of.body.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    torch.manual_seed(0)
    noisy(of, material)
    plan = Segments(LENGTHS).plan(torch.device("cpu"), 32)
    noise = (seen[0] - of.body.embedding(material.tokens)[plan.order_P])[plan.where_N]
    for length, part in zip(LENGTHS, noise.split(LENGTHS), strict=True):
        bound = alpha / (length * 32) ** 0.5
        assert part.abs().max() <= bound
        # the variance of a uniform distribution; within four standard deviations of a mean of n squares
        expected = bound**2 / 3
        spread = (bound**4 * (1 / 5 - 1 / 9) / part.numel()) ** 0.5
        assert abs(part.square().mean() - expected) < 4 * spread


def test_noise_follows_the_seed_and_is_silent_in_validation() -> None:
    of, material = model(), batch(torch.arange(sum(LENGTHS)))
    noisy, plain = loss_function("causal", neftune=5.0), loss_function("causal")

    def value(mode: bool, seed: int) -> float:
        torch.manual_seed(seed)
        return float(noisy(of.train(mode), material)[0])

    assert value(True, 1) == value(True, 1) != value(True, 2)
    assert value(False, 1) == float(plain(of.eval(), material)[0])
    assert not of.body.embedding._forward_hooks


def test_blocks_start_as_the_identity_unless_told_otherwise() -> None:
    tokens = torch.arange(10)
    for zero_init in (True, False):
        of = model(zero_init=zero_init)
        hidden = of.body(tokens, Segments([10]))
        same = torch.allclose(hidden, of.body.final_norm(of.body.embedding(tokens)), atol=1e-6)
        assert same == zero_init


@pytest.mark.parametrize("head", ["classes", "tags", "several"])
def test_r_drop_is_the_loss_of_its_paper(head: str) -> None:
    of = with_dropout(model("tags" if head == "tags" else "classes"), 0.3).double().train()
    targets, judge = several() if head == "several" else one_class(sum(LENGTHS) if head == "tags" else len(LENGTHS))
    found = loss_function("tag" if head == "tags" else "classify", label_smoothing=0.1, r_drop=3.0)
    material = batch(targets)
    torch.manual_seed(5)
    loss, count = found(of, material)
    kept = torch.tensor([row for row in range(len(targets)) if row != 1])
    rows = torch.cat([kept, kept + len(targets)])
    torch.manual_seed(5)
    one, two = of.logits(torch.cat(2 * [material.tokens]), Segments(2 * LENGTHS), rows).chunk(2)
    assert not torch.allclose(one, two)
    if head == "several":
        # a yes or no is a choice of two
        p, q = (torch.stack([x.sigmoid(), 1 - x.sigmoid()], -1).log() for x in (one, two))
    else:
        p, q = one.log_softmax(-1), two.log_softmax(-1)
    apart = F.kl_div(p, q, reduction="sum", log_target=True) + F.kl_div(q, p, reduction="sum", log_target=True)
    # two cross-entropies, and alpha times the mean of both divergences (arXiv 2106.14448, equation 4); we take half
    expected = (judge(one, targets[kept]) + judge(two, targets[kept]) + 3.0 * apart / 2) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    assert count == len(kept) * (4 if head == "several" else 1)


def test_without_anything_dropped_r_drop_changes_nothing() -> None:
    targets, _ = one_class(len(LENGTHS))
    for of in (model("classes").double().train(), with_dropout(model("classes"), 0.3).double().eval()):
        plain, with_it = (loss_function("classify", r_drop=alpha)(of, batch(targets)) for alpha in (0.0, 3.0))
        torch.testing.assert_close(plain[0], with_it[0], rtol=1e-12, atol=0)
        assert plain[1] == with_it[1]


def test_the_second_pass_is_asked_for_in_the_step(small: Small) -> None:
    of, (targets, _) = with_dropout(model("classes"), 0.3).train(), one_class(len(LENGTHS))

    def learned(alpha: float) -> float:
        step = TrainStep(name="s", objective="classify", r_drop=alpha)
        torch.manual_seed(5)
        asked = loss_for(step, small.store(), np.arange(3), label_smoothing=0.0)
        return float(asked(of, batch(targets))[0].detach())

    # the weight of what the same two passes disagree about
    assert learned(1.0) < learned(2.0)
    assert learned(3.0) - learned(1.0) == pytest.approx(2 * (learned(2.0) - learned(1.0)), rel=1e-3)


def one_class(n: int) -> tuple[torch.Tensor, Callable[..., torch.Tensor]]:
    targets = torch.arange(n) % 4
    targets[1] = IGNORED
    return targets, partial(F.cross_entropy, reduction="sum", label_smoothing=0.1)


def several() -> tuple[torch.Tensor, Callable[..., torch.Tensor]]:
    targets = torch.tensor([[1, 0, 1, 0], [IGNORED] * 4, [0, 0, 0, 1]])

    def judge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets.double() * 0.9 + 0.05, reduction="sum")

    return targets, judge
