"""The optimizers do the published arithmetic, and continue exactly after a restart."""

import pytest
import torch
from torch import nn

from wyrmling.config import OptimizerName
from wyrmling.core.errors import CorruptArtifact
from wyrmling.model.heads import Model, stacked_parts
from wyrmling.model.transformer import ModelConfig
from wyrmling.train.optim import SCHEDULES, Group, Optimizer, clip, orthogonalise, parameter_groups, wsd

SHAPES = {"a": (6, 6), "b": (12, 5), "c": (12, 5), "bias": (7,)}


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def set_gradients(values: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in values.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def both(values: dict[str, nn.Parameter]) -> Optimizer:
    matrices = {name: p for name, p in values.items() if p.ndim == 2}
    vectors = {name: p for name, p in values.items() if p.ndim == 1}
    return Optimizer(
        [
            Group("matrices", "muon", matrices, lr=0.02, weight_decay=0.1),
            Group("scalars", "adamw", vectors, lr=0.003, betas=(0.8, 0.95)),
        ]
    )


def test_adamw_is_torch_adamw() -> None:
    ours, theirs = parameters(), parameters()
    numbers = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-9, "weight_decay": 0.1}
    optimizer = Optimizer([Group("all", "adamw", ours, **numbers)])
    judge = torch.optim.AdamW(theirs.values(), **numbers, fused=False, foreach=False)
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        rate = wsd(step + 1, 20, warmup=5, decay=10)
        judge.param_groups[0]["lr"] = 0.01 * rate
        optimizer.step(rate)
        judge.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=2e-7)


def test_muon_agrees_with_torch_muon_up_to_its_bfloat16() -> None:
    ours = {name: p for name, p in parameters().items() if p.ndim == 2}
    theirs = {name: p for name, p in parameters().items() if p.ndim == 2}
    start = {name: p.detach().clone() for name, p in ours.items()}
    optimizer = Optimizer([Group("matrices", "muon", ours, lr=0.02)])
    judge = torch.optim.Muon(theirs.values(), lr=0.02, weight_decay=0.0, momentum=0.95, adjust_lr_fn="original")
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step(1.0)
        judge.step()
    for name, parameter in ours.items():
        moved = (parameter - start[name]).norm()
        # torch iterates in bfloat16 (8 bits), ours in float32: the paths differ by percents, not by factors
        assert (parameter - theirs[name]).norm() < 0.05 * moved


def test_orthogonalise_moves_every_singular_value_near_one() -> None:
    x_NRC = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(1))
    u, _, vh = torch.linalg.svd(x_NRC, full_matrices=False)
    result = orthogonalise(x_NRC)
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.6 and singular.max() < 1.3
    # same singular vectors: the result is U diag(s) V with s near 1
    inner = u.mT @ result @ vh.mT
    assert (inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-4
    torch.testing.assert_close(orthogonalise(x_NRC.mT.contiguous()), result.mT, rtol=0, atol=1e-5)


def test_matrices_in_one_stack_do_not_touch_each_other() -> None:
    together, alone = parameters(), parameters()
    set_gradients(together, 3)
    set_gradients(alone, 3)
    both(together).step(1.0)
    for name in ("a", "b", "c"):
        Optimizer([Group("one", "muon", {name: alone[name]}, lr=0.02, weight_decay=0.1)]).step(1.0)
        torch.testing.assert_close(together[name], alone[name], rtol=0, atol=1e-6)


def test_cautious_decay_only_shrinks_where_the_update_agrees() -> None:
    values = {"w": nn.Parameter(torch.full((4, 4), 2.0))}
    plain = {"w": nn.Parameter(torch.full((4, 4), 2.0))}
    for parameter in (values["w"], plain["w"]):
        parameter.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    Optimizer([Group("m", "muon", values, lr=0.1, weight_decay=0.5)]).step(1.0)
    Optimizer([Group("m", "muon", plain, lr=0.1)]).step(1.0)
    shrunk = plain["w"] < 2.0
    torch.testing.assert_close(values["w"][shrunk], plain["w"][shrunk] - 0.1 * 0.5 * 2.0)
    assert torch.equal(values["w"][~shrunk], plain["w"][~shrunk])


def test_a_restart_continues_bit_for_bit() -> None:
    straight, stopped = parameters(), parameters()
    one, two = both(straight), both(stopped)
    for step in range(6):
        set_gradients(straight, step)
        one.step(0.5)
    for step in range(3):
        set_gradients(stopped, step)
        two.step(0.5)
    saved = {name: tensor.clone() for name, tensor in two.state().items()}
    resumed = both(stopped)
    resumed.load(saved)
    for step in range(3, 6):
        set_gradients(stopped, step)
        resumed.step(0.5)
    for name in SHAPES:
        assert torch.equal(straight[name], stopped[name])


def test_a_state_of_other_parameters_is_refused_by_name() -> None:
    values = parameters()
    optimizer = both(values)
    set_gradients(values, 0)
    optimizer.step(1.0)
    with pytest.raises(CorruptArtifact, match="elsewhere"):
        both(parameters()).load(optimizer.state() | {"adamw.elsewhere.step": torch.zeros(())})
    with pytest.raises(CorruptArtifact, match="bias"):
        both(parameters()).load(optimizer.state() | {"adamw.bias.exp_avg": torch.zeros(3)})


def test_a_parameter_without_gradient_is_left_alone() -> None:
    values = parameters()
    before = values["bias"].detach().clone()
    optimizer = both(values)
    values["a"].grad = torch.ones(6, 6)
    optimizer.step(1.0)
    assert torch.equal(values["bias"], before)


def test_clip_scales_to_the_bound_and_zero_means_off() -> None:
    gradients = [torch.full((3,), 3.0), torch.full((1,), 3.0)]
    assert clip(gradients, 0.0) == (pytest.approx(6.0), 1.0)
    norm, factor = clip(gradients, 1.5)
    assert norm == pytest.approx(6.0) and factor * norm == pytest.approx(1.5, rel=1e-5)
    assert float(gradients[0][0]) == 3.0


@pytest.mark.parametrize("bound", [0.0, 0.5, 10.0])
def test_clipping_a_sum_is_clipping_the_mean(bound: float) -> None:
    means = [torch.randn(5, 4, generator=torch.manual_seed(0)), torch.randn(7)]
    (of_sum, eighth), (of_mean, whole) = clip([mean * 8 for mean in means], bound, count=8), clip(means, bound)
    assert of_sum == pytest.approx(of_mean) and 8 * eighth == pytest.approx(whole)


@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_an_update_with_a_factor_is_that_of_gradients_times_the_factor(rule: str) -> None:
    ours, theirs = parameters(), parameters()
    one, other = (Optimizer([Group("all", rule, p, lr=0.01, weight_decay=0.1)]) for p in (ours, theirs))
    for step, factor in enumerate((0.25, 1.0, 3.0)):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        for parameter in theirs.values():
            parameter.grad *= factor
        one.step(0.5, factor)
        other.step(0.5)
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_rise_stay_within_one_and_never_reach_zero(name: str) -> None:
    values = [SCHEDULES[name](step, 100, warmup=10, decay=50) for step in range(1, 101)]
    assert values[0] == pytest.approx(0.1) and values[9] == pytest.approx(1.0)
    assert all(0 < value <= 1 for value in values)
    assert name == "constant" or values[-1] < 0.11


def test_wsd_holds_then_falls() -> None:
    values = [wsd(step, 100, warmup=10, decay=20) for step in range(1, 101)]
    assert values[10:80] == [1.0] * 70
    assert values[80] == 1.0 and values[-1] == pytest.approx(1 / 20)


def test_sgd_is_torch_sgd_and_continues_exactly() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = Optimizer([Group("all", "sgd", ours, lr=0.1, weight_decay=0.01)])
    judge = torch.optim.SGD(theirs.values(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(10):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step(1.0)
        judge.step()
        if step == 4:
            saved = {name: tensor.clone() for name, tensor in optimizer.state().items()}
            optimizer = Optimizer([Group("all", "sgd", ours, lr=0.1, weight_decay=0.01)])
            optimizer.load(saved)
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=1e-6)


def test_moments_of_a_byte_nearly_follow_adamw_and_continue_exactly() -> None:
    def large(seed: int) -> dict[str, nn.Parameter]:
        generator = torch.Generator().manual_seed(seed)
        return {"large": nn.Parameter(torch.randn(64, 128, generator=generator))} | parameters(seed)

    def made(values: dict[str, nn.Parameter], rule: OptimizerName) -> Optimizer:
        return Optimizer([Group("all", rule, values, lr=0.01, weight_decay=0.1)])

    ours, broken, wide = large(0), large(0), large(0)
    optimizer, interrupted, judge = made(ours, "adamw_8bit"), made(broken, "adamw_8bit"), made(wide, "adamw")
    for step in range(8):
        for values, rule in ((ours, optimizer), (broken, interrupted), (wide, judge)):
            set_gradients(values, step)
            rule.step(1.0)
        if step == 3:
            saved = {name: tensor.clone() for name, tensor in interrupted.state().items()}
            assert saved["adamw_8bit.large.state1"].dtype == torch.uint8
            interrupted = made(broken, "adamw_8bit")
            interrupted.load(saved)
    for name, parameter in ours.items():
        assert parameter.equal(broken[name])
        # eight steps of 0.01: a hundredth of the way is lost to rounding
        torch.testing.assert_close(parameter, wide[name], rtol=0, atol=0.01)
        assert not parameter.equal(large(0)[name])


@pytest.mark.parametrize("rule", ["muon", "adamw", "sgd"])
def test_each_group_has_the_rate_that_was_asked_for(rule: OptimizerName) -> None:
    model = Model(ModelConfig("qwen3", 64, 32, 1, 2, 2, 16, 48, 32), "next")
    rates = {"lr": 0.02, "embedding_lr": 0.3, "head_lr": 0.004, "scalar_lr": 0.001}
    groups = parameter_groups(
        dict(model.named_parameters()), rule=rule, weight_decay=0.1, parts=stacked_parts(model), **rates
    )
    assert [group.lr for group in groups] == list(rates.values())
    assert [group.rule for group in groups] == [rule, *["adamw" if rule == "muon" else rule] * 3]
    assert sum(len(group.parameters) for group in groups) == len(dict(model.named_parameters()))


@pytest.mark.parametrize(("rule", "group"), [("muon", "matrices"), ("adamw", "head")])
def test_the_dense_layer_of_a_head_moves_with_the_head_unless_by_muon(rule: OptimizerName, group: str) -> None:
    model = Model(ModelConfig("bert", 64, 32, 1, 2, 2, 16, 48, 32), "classes", 3)
    groups = parameter_groups(
        dict(model.named_parameters()), rule=rule, lr=1, embedding_lr=1, head_lr=1, weight_decay=0, parts={}
    )
    assert [one.name for one in groups if "head.dense.weight" in one.parameters] == [group]
