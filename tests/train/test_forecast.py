"""Forecasts: positive, growing with the work, corrected by what happened, and near what a real step takes."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch

from wyrmling.config import Budget, TrainStep
from wyrmling.core import hardware
from wyrmling.core.energy import Meter, Tariff
from wyrmling.core.store import ForecastRecord
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.train import forecast, workload
from wyrmling.train.cross_entropy import CHUNK_ROWS, cross_entropy_sum
from wyrmling.train.effort import effort_of
from wyrmling.train.facts import facts_of
from wyrmling.train.forecast import Pricing, Range, correct, priced, step_forecast, total
from wyrmling.train.optim import Group, Optimizer
from wyrmling.train.sizing import Facts, Shape, SourceFacts, derive_step
from wyrmling.train.workload import (
    Work,
    activation_bytes,
    flops_per_token,
    memory_gb,
    moved_parameters,
    seconds,
    total_flops,
    work_of,
)

RATES = hardware.Rates("cpu", 2, float32=130e9, bfloat16=1e9, copy=30e9, call=3e-6, gain=0.01, busy=False)
PRICING = Pricing(Tariff(usd_per_hour=1.0), watts=50, watts_from="test", power_known=True, records=())
SHAPE = Shape("qwen3", 1000, 128, 2, 2, 2, 64, 336, 128, False)


def work(**changes):
    parts = {
        "objective": "causal",
        "shape": SHAPE,
        "steps": 100,
        "batch_tokens": 2048,
        "micro_batch_tokens": 2048,
        "length": 64.0,
        "logits": 1.0,
        "outputs": 1000,
        "looked_at": 8192.0,
        "optimizer": "muon",
        "device": "cpu",
        "dtype": "float32",
    }
    return Work(**{**parts, **changes})


def wider(**sizes):
    return replace(SHAPE, **sizes)


GROWTH = {
    "steps": {"steps": 200},
    "tokens per step": {"batch_tokens": 4096},
    "smaller micro-batches": {"micro_batch_tokens": 512},
    "longer documents": {"length": 128.0},
    "more logits": {"outputs": 4000},
    "more layers": {"shape": wider(layers=4)},
    "wider": {"shape": wider(width=256, ffn=688, head_dim=128)},
    "more looks": {"looked_at": 80_000.0},
    "dropout": {"dropout": True},
}


@pytest.mark.parametrize("change", GROWTH.values(), ids=GROWTH)
def test_more_work_takes_longer(change):
    assert seconds(work(**change), RATES) > seconds(work(), RATES)


@pytest.mark.parametrize("rate", ["float32", "copy"])
def test_a_faster_machine_takes_less_time(rate):
    faster = replace(RATES, **{rate: 2 * getattr(RATES, rate)})
    assert seconds(work(), faster) < seconds(work(), RATES)


def method(name, **settings):
    """The effort of a method on 4 layers, as the settings say it."""
    step = TrainStep.model_validate({"name": "s", "objective": "sft", "method": name, **settings})
    return work(
        shape=wider(layers=4), optimizer="adamw", effort=effort_of(step, wider(layers=4), dtype="float32", tokens=1e5)
    )


def test_training_less_takes_less_of_everything():
    full, deep, shallow, probe = (
        method("full"),
        method("freeze", freeze={"layers": 3}),
        method("freeze"),
        method("probe"),
    )
    for quantity in (lambda w: seconds(w, RATES), memory_gb, flops_per_token, moved_parameters):
        assert quantity(full) > quantity(deep) > quantity(shallow) > quantity(probe)
    embedding = method("freeze", freeze={"embedding": True})
    assert memory_gb(embedding) > memory_gb(shallow) and flops_per_token(embedding) > flops_per_token(shallow)


def test_low_rank_training_takes_two_thirds_of_the_flops_and_little_memory_for_the_weights():
    small, rank64 = method("lora"), method("lora", lora={"rank": 64})
    added = 16 * 4 * (2 * 4 * 128 + 3 * (128 + 336))
    assert moved_parameters(small) == added and moved_parameters(rank64) == 4 * added
    assert flops_per_token(small) - 6 * added < flops_per_token(method("full"))
    assert flops_per_token(rank64) > flops_per_token(small)
    large = wider(layers=24, width=2048, heads=16, kv_heads=16, head_dim=128, ffn=5504)
    weights = {
        name: memory_gb(replace(method(name), shape=large, micro_batch_tokens=64)) for name in ("full", "lora", "qlora")
    }
    assert weights["full"] > 1.8 * weights["lora"] > 1.8 * weights["qlora"]


def test_stored_features_are_paid_once():
    step = TrainStep(name="s", objective="classify", method="probe")
    once, twice = (effort_of(step, SHAPE, dtype="float32", tokens=tokens) for tokens in (1e6, 2e6))
    times = [
        seconds(work(objective="classify", outputs=4, effort=effort, steps=steps), RATES)
        for effort, steps in ((once, 100), (once, 200), (twice, 100))
    ]
    assert times[1] - times[0] < 0.2 * (times[2] - times[0])


def test_memory_grows_with_the_micro_batch_and_not_with_the_steps():
    assert memory_gb(work(micro_batch_tokens=65_536)) > memory_gb(work()) + 0.5
    assert memory_gb(work(steps=10_000)) == memory_gb(work())
    assert memory_gb(work(optimizer="adamw", micro_batch_tokens=1)) != memory_gb(work(micro_batch_tokens=1))


def test_flops_are_six_per_weight_and_twelve_per_attended_value():
    one = work(length=1.0)
    weights = SHAPE.body_parameters + 1000 * 128
    assert flops_per_token(one) == 6 * weights + 12 * 2 * 128
    assert flops_per_token(work(length=101.0)) - flops_per_token(one) == 12 * 2 * 128 * 100


def test_every_quantity_is_positive_ordered_and_priced():
    one = step_forecast(work(), PRICING, RATES)
    for bounds in one.document().values():
        assert 0 < bounds["low"] < bounds["value"] < bounds["high"]
    assert one.kwh.value == pytest.approx(50 * one.minutes.value / 60 / 1000)
    assert one.usd.value == pytest.approx(one.minutes.value / 60 + 0.15 * one.kwh.value)
    assert one.kg_co2.value == pytest.approx(0.475 * one.kwh.value)
    assert set(one.document()) == {"minutes", "memory_gb", "usd", "kwh", "kg_co2"}
    assert one.manifest()["minutes"]["closed_form"] == pytest.approx(seconds(work(), RATES) / 60)


def test_the_total_adds_times_and_takes_the_largest_memory():
    small, large = step_forecast(work(), PRICING, RATES), step_forecast(work(micro_batch_tokens=65_536), PRICING, RATES)
    whole = total([small, large])
    assert whole.minutes.value == pytest.approx(small.minutes.value + large.minutes.value)
    assert whole.minutes.high == pytest.approx(small.minutes.high + large.minutes.high)
    assert whole.memory_gb.value == large.memory_gb.value
    assert whole.usd.value == pytest.approx(small.usd.value + large.usd.value)


def test_a_step_keeps_the_memory_of_those_before_it(small):
    large, little = (
        '{name="a", objective="causal", sources=["stories"], batch_tokens=60000}',
        '{name="b", objective="sft"}',
    )
    both = small.with_settings(f"train=[{large}, {little}]")
    alone = small.with_settings(f"train=[{little}]")
    facts = facts_of(both, small.store())
    found = forecast.forecast(both, facts)
    assert found["b"].memory_gb == found["a"].memory_gb
    assert forecast.forecast(alone, facts)["b"].memory_gb.value < found["b"].memory_gb.value


def record(minutes, objective="causal", memory=1.0):
    return ForecastRecord(
        machine="m",
        work=f"desk/tune/{objective}",
        forecast={"minutes": 1.0, "memory_gb": 1.0, "kwh": 1.0},
        actual={"minutes": minutes, "memory_gb": memory, "kwh": minutes},
        created="",
    )


def test_without_records_nothing_is_corrected():
    none = correct([], "causal")
    assert none.runs == 0
    assert set(none.factor.values()) == {1.0}


def test_what_happened_moves_the_forecast_towards_it_and_narrows_the_band():
    factors = [correct([record(2.0)] * n, "causal").factor["minutes"] for n in (1, 2, 8)]
    bands = [correct([record(2.0)] * n, "causal").band["minutes"] for n in (0, 2, 8)]
    assert 1 < factors[0] < factors[1] < factors[2] < 2
    assert factors[2] == pytest.approx(2.0, rel=0.05)
    assert bands[0] > bands[1] > bands[2] >= forecast.LEAST_BAND


def test_the_same_objective_counts_before_others_and_the_latest_before_the_old():
    mixed = [record(5.0, "masked"), record(1.0)]
    assert correct(mixed, "causal").factor["minutes"] == pytest.approx(1.0)
    assert correct(mixed, "masked").factor["minutes"] > 2
    assert correct(mixed, "sft").runs == 2
    old_and_new = [record(9.0)] * 20 + [record(1.0)] * forecast.RECORDS
    assert correct(old_and_new, "causal").factor["minutes"] == pytest.approx(1.0)


def test_one_wild_record_moves_the_median_little_and_widens_the_band():
    calm = correct([record(1.0)] * 7, "causal")
    wild = correct([record(1.0)] * 6 + [record(50.0)], "causal")
    assert wild.factor["minutes"] == pytest.approx(calm.factor["minutes"])
    noisy = correct([record(m) for m in (0.5, 0.7, 1.0, 1.4, 2.0)], "causal")
    assert noisy.band["minutes"] > calm.band["minutes"]


def test_a_record_without_memory_still_teaches_time():
    board = ForecastRecord("m", "desk/tune/causal", {"minutes": 1.0, "kwh": 1.0}, {"minutes": 2.0, "kwh": 2.0}, "")
    learned = correct([board], "causal")
    assert learned.factor["memory_gb"] == 1.0
    assert learned.factor["minutes"] > 1


def test_an_unknown_power_widens_energy_and_money_but_not_time():
    closed = {"minutes": 1.0, "memory_gb": 1.0, "kwh": 1.0}
    known, guessed = (priced(closed, correct([], "causal"), Tariff(), power_known=k) for k in (True, False))
    assert known.minutes == guessed.minutes
    assert guessed.kwh.high > known.kwh.high and guessed.kwh.low < known.kwh.low


def test_a_range_keeps_its_order_when_it_is_scaled_and_added():
    one = Range.around(2.0, 1.5)
    assert one.plus(one.scaled(2)) == Range(pytest.approx(6.0), pytest.approx(4.0), pytest.approx(9.0))


def test_the_work_of_a_step_follows_from_its_rows(project_settings):
    rows = (SourceFacts("tickets", "labelled", 100, 2000, 60, 50), SourceFacts("pages", "document", 10, 3000, 400, 400))
    facts = Facts(rows, vocab_size=1000, labels=7)
    shape = replace(SHAPE, family="modernbert", tied=True)
    masked = TrainStep(name="a", objective="masked")
    classify = TrainStep(name="b", objective="classify")
    found = {}
    for step in (masked, classify):
        derived = derive_step(project_settings, step, shape, facts, scratch=True, first=True)
        found[step.objective] = work_of(step, shape, derived, facts, dtype="float32", validation_tokens=100)
        assert found[step.objective].steps == derived.steps
    assert found["masked"].logits == masked.mask_rate
    assert found["masked"].outputs == 1000
    assert found["classify"].outputs == 7
    assert found["classify"].logits == pytest.approx(1 / 20)
    assert found["classify"].length == 20


def test_a_second_pass_takes_about_twice_the_time_and_no_more_memory(project_settings):
    rows = (SourceFacts("tickets", "labelled", 10_000, 200_000, 60, 50),)
    facts, shape = Facts(rows, vocab_size=1000, labels=7), wider(layers=6, width=384, heads=6, ffn=1024)
    once, twice = (
        work_of(step, shape, derived, facts, dtype="float32")
        for step in (
            TrainStep(name="a", objective="classify", batch_tokens=20_000, r_drop=alpha) for alpha in (0.0, 1.0)
        )
        for derived in [derive_step(project_settings, step, shape, facts, scratch=True, first=True)]
    )
    assert total_flops(twice) == 2 * total_flops(once)
    assert 1.5 < seconds(twice, RATES) / seconds(once, RATES) < 2
    assert memory_gb(twice) == pytest.approx(memory_gb(once), rel=1e-3)


def test_less_is_kept_where_the_memory_asks_for_it_or_the_setting(project_settings):
    rows = (SourceFacts("pages", "document", 100, 50_000, 400, 400),)
    facts, shape = Facts(rows, vocab_size=1000), replace(SHAPE, layers=8, context=512)

    def found(room_gb, **settings):
        step = TrainStep(name="a", objective="causal", batch_tokens=20_000, **settings)
        derived = derive_step(project_settings, step, shape, facts, scratch=True, first=True)
        return work_of(step, shape, derived, facts, dtype="float32", room_gb=room_gb)

    free = found(100.0)
    assert not free.effort.recompute
    tight = found(memory_gb(free) - 0.01)
    assert tight.effort.recompute
    assert memory_gb(tight) < memory_gb(free)
    assert seconds(tight, RATES) > seconds(free, RATES)
    assert found(100.0, checkpoint_activations=True) == tight
    assert found(0.1, checkpoint_activations=False) == free


def test_the_room_is_the_budget_or_the_machine(project_settings):
    machine = hardware.machine().memory_gb
    assert workload.room_gb(project_settings, "cpu") == machine
    bound = project_settings.objective.model_copy(update={"budget": Budget(memory_gb=machine / 2)})
    assert workload.room_gb(project_settings.model_copy(update={"objective": bound}), "cpu") == machine / 2


@pytest.fixture
def project_settings():
    from wyrmling import config

    raw = {"name": "p", "objective": {"task": "classify"}, "data": {"sources": {"s": {"path": "x.csv"}}}}
    return config.parse(raw, where="test")


def config_of(shape):
    return ModelConfig(
        family=shape.family,
        vocab_size=shape.vocab_size,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        ffn=shape.ffn,
        context=shape.context,
        tied=shape.tied,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen3", "modernbert"])
@pytest.mark.parametrize("sizes", [{}, {"width": 256}, {"heads": 4}, {"heads": 4, "kv_heads": 4}, {"ffn": 672}])
def test_the_activation_coefficients_are_those_of_the_real_block(sizes, family, dtype):
    """Counted by saved-tensor hooks as the difference of 4 and 2 layers, so that embedding and end fall out."""
    if family == "modernbert" and "ffn" not in sizes and sizes:
        pytest.skip("its heads have the width of the model")
    n_tokens, held = 512, {}
    for layers in (2, 4):
        shape = replace(SHAPE, family=family, layers=layers, tied=family == "modernbert", **sizes)
        model = Model(config_of(shape), "next" if family == "qwen3" else "masked").train()
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        seen = {}

        def keep(tensor, seen=seen):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            hidden = model.body(torch.zeros(n_tokens, dtype=torch.int64), Segments([64] * 8))
        held[layers] = sum(size for pointer, size in seen.items() if pointer not in weights)
        del hidden
    # The weights' own bfloat16 copies count by themselves.
    copies = 2 * shape.body_parameters / shape.layers if dtype == "bfloat16" else 0
    per_token_and_layer = ((held[4] - held[2]) / 2 - copies) / n_tokens
    assert activation_bytes(shape, dtype) == pytest.approx(per_token_and_layer, rel=0.06)


def test_the_loss_holds_as_many_rows_of_logits_as_the_forecast_says():
    assert workload.LOSS_ROWS == CHUNK_ROWS


def trainable(shape):
    model = Model(config_of(shape), "next").train()
    names = dict(model.named_parameters())
    matrices = {name: p for name, p in names.items() if p.ndim == 2 and "blocks" in name}
    rest = {name: p for name, p in names.items() if name not in matrices}
    return model, Optimizer([Group("matrices", "muon", matrices, 0.02), Group("rest", "adamw", rest, 0.002)])


def train(model, optimizer, n_tokens):
    """One real step on documents of 64 tokens."""
    tokens = torch.randint(0, 1000, (n_tokens,))
    features = model.features(tokens, Segments([64] * (n_tokens // 64)))
    loss, _ = cross_entropy_sum(features, model.output.weight_VD, tokens)
    loss.backward()
    optimizer.step(1.0)
    optimizer.zero_grad()


def two_steps(shape):
    """GB that two real steps add to this process."""
    torch.set_num_threads(1)
    model, optimizer = trainable(shape)
    with Meter() as meter:
        before = meter.cost().peak_memory_gb
        for _ in range(2):
            train(model, optimizer, 8192)
    return meter.cost().peak_memory_gb - before


def test_the_memory_of_real_steps_is_near_the_closed_form():
    """In a fresh process: this one takes what other tests freed. Half as much up and down is allowed."""
    shape = replace(SHAPE, layers=4, context=64)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        added = fresh.submit(two_steps, shape).result()
    said = memory_gb(work(shape=shape, batch_tokens=8192, micro_batch_tokens=8192)) - workload.BASE_GB["cpu"]
    assert said > 0.3
    assert 1 / 1.5 < added / said < 1.5
