"""Derived numbers: pure, explained, overridable, and sensible from forty rows to a billion tokens."""

import itertools
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from wyrmling import config
from wyrmling.config import Settings, TrainStep
from wyrmling.core.errors import BadSetting
from wyrmling.train.sizing import Derived, Facts, Shape, SourceFacts, derive_model, derive_step

BANKING77 = Facts(
    sources=(
        SourceFacts("tickets", "labelled", rows=9436, tokens=152_908, longest=112, p99=50),
        SourceFacts("handbook", "document", rows=77, tokens=10_189, longest=400, p99=380),
    ),
    vocab_size=2304,
    labels=77,
)
STORIES = Facts(sources=(SourceFacts("s", "document", 1835, 399_761, 1021, 500),), vocab_size=3584)
FORTY = Facts(sources=(SourceFacts("t", "labelled", 40, 440, 14, 14),), vocab_size=400, labels=4)
BILLION = Facts(sources=(SourceFacts("w", "document", 2_000_000, 10**9, 90_000, 4000),), vocab_size=32_768)


def settings(task: str, **model: object) -> Settings:
    return config.parse(
        {"name": "p", "objective": {"task": task}, "data": {"sources": {"t": {"path": "x"}}}, "model": model},
        where="test",
    )


def step(objective: str, **changes: object) -> TrainStep:
    return TrainStep.model_validate({"name": "s", "objective": objective, **changes})


def sizes(facts: Facts, *objectives: str, **model: object) -> tuple[Shape, list[Derived]]:
    steps = tuple(step(objective) for objective in objectives)
    asked = settings("classify", **model)
    shape = derive_model(asked, steps, facts)
    return shape, [
        derive_step(asked, one, shape, facts, scratch=True, first=number == 0) for number, one in enumerate(steps)
    ]


@pytest.mark.parametrize(
    ("facts", "objectives", "family", "layers", "width", "context"),
    [
        (BANKING77, ("masked", "classify"), "modernbert", 2, 128, 400),
        (STORIES, ("causal",), "qwen3", 3, 192, 512),
        (FORTY, ("classify",), "modernbert", 2, 128, 16),
        (BILLION, ("causal",), "qwen3", 12, 768, 512),
    ],
)
def test_the_sizes_of_known_projects(
    facts: Facts, objectives: tuple[str, ...], family: str, layers: int, width: int, context: int
) -> None:
    shape, _ = sizes(facts, *objectives)
    assert (shape.family, shape.layers, shape.width, shape.context) == (family, layers, width, context)
    assert shape.heads * shape.head_dim == shape.width and shape.tied == (family == "modernbert")


def test_every_derived_number_says_why() -> None:
    shape, (masked, classify) = sizes(BANKING77, "masked", "classify")
    assert {"family", "parameters", "layers", "width", "heads", "ffn", "context"} <= set(shape.reasons)
    for derived in (masked, classify):
        assert {"optimizer", "lr", "batch_tokens", "micro_batch_tokens", "steps", "weight_decay"} <= set(
            derived.reasons
        )
    assert all(len(reason) > 10 for reason in (*shape.reasons.values(), *masked.reasons.values()))


def test_what_is_set_is_taken_and_needs_no_reason() -> None:
    asked = {"layers": 5, "width": 96, "heads": 3, "kv_heads": 1, "ffn": 208, "context": 40}
    shape, _ = sizes(STORIES, "causal", **asked)
    assert {name: getattr(shape, name) for name in asked} == asked
    assert not set(asked) & set(shape.reasons)
    numbers = {
        "steps": 7,
        "batch_tokens": 999,
        "micro_batch_tokens": 50,
        "lr": 0.5,
        "dropout": 0.4,
        "weight_decay": 0.3,
    }
    one = step("classify", optimizer="adamw", evaluate_every=3, **numbers)
    derived = derive_step(settings("classify"), one, shape, STORIES, scratch=True, first=True)
    assert {name: getattr(derived, name) for name in numbers} == numbers
    assert derived.optimizer == "adamw" and derived.evaluate_every == 3


def test_the_other_rates_keep_their_ratio_to_lr() -> None:
    shape, (own, _) = sizes(BANKING77, "masked", "classify")
    doubled = derive_step(
        settings("classify"), step("masked", lr=2 * own.lr), shape, BANKING77, scratch=True, first=True
    )
    assert doubled.embedding_lr == pytest.approx(2 * own.embedding_lr)
    assert doubled.head_lr == pytest.approx(2 * own.head_lr)


@pytest.mark.parametrize("objective", ["causal", "masked", "sft", "classify", "tag"])
@pytest.mark.parametrize("tokens", [1, 30, 440, 10**4, 10**6, 10**9])
def test_any_amount_of_data_gives_usable_numbers(objective: str, tokens: int) -> None:
    kind = {"sft": "conversation", "classify": "labelled", "tag": "tagged"}.get(objective, "document")
    rows = max(1, tokens // 12)
    facts = Facts(sources=(SourceFacts("t", kind, rows, tokens, 12, 12),), vocab_size=300, labels=3, tags=3)
    shape, (derived,) = sizes(facts, objective)
    assert 0 < derived.lr < 1 and 1 <= derived.batch_tokens <= max(tokens, 1)
    # One pass holds a step, which may be a document longer than asked.
    assert 1 <= derived.micro_batch_tokens <= derived.batch_tokens + shape.context
    assert derived.steps >= 1 and 0 <= derived.warmup_steps < max(derived.steps, 2)
    assert 1 <= derived.decay_steps <= max(derived.steps, 1) and 1 <= derived.evaluate_every <= derived.steps
    assert shape.width % shape.heads == 0 and shape.head_dim % 2 == 0


def test_more_text_gives_a_larger_model_and_fewer_passes() -> None:
    grown = [replace(STORIES.sources[0], tokens=10**power) for power in range(4, 10)]
    shapes, passes = [], []
    for source in grown:
        shape, (derived,) = sizes(Facts(sources=(source,), vocab_size=4096), "causal")
        shapes.append(shape.parameters)
        passes.append(derived.steps * derived.batch_tokens / source.tokens)
    assert shapes == sorted(shapes) and len(set(shapes)) > 3
    assert all(later <= earlier * 1.01 for earlier, later in itertools.pairwise(passes))


def test_a_model_somebody_else_made_is_moved_gently() -> None:
    shape, _ = sizes(BILLION, "causal")
    own, base = (
        derive_step(settings("complete"), step("sft"), shape, BILLION, scratch=scratch, first=False)
        for scratch in (True, False)
    )
    assert (own.optimizer, base.optimizer) == ("muon", "adamw")
    assert base.lr < 1e-4 and base.weight_decay == 0


def test_odd_widths_get_heads_that_fit() -> None:
    for width in (16, 48, 80, 112, 208, 1040):
        shape, _ = sizes(STORIES, "causal", width=width)
        assert shape.heads * shape.head_dim == width and shape.head_dim % 2 == 0


def test_sizing_needs_no_torch() -> None:
    code = "import sys, wyrmling.train.sizing, wyrmling.train.run, wyrmling.train.facts; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_nothing_derived_is_left_open() -> None:
    _, both = sizes(BANKING77, "masked", "classify")
    assert all(getattr(derived, field.name) is not None for derived in both for field in fields(Derived))


def test_a_memory_budget_makes_the_micro_batches_smaller_and_nothing_else() -> None:
    one = step("causal")
    plain = settings("complete")
    tight = plain.model_copy(
        update={"objective": plain.objective.model_copy(update={"budget": config.Budget(memory_gb=0.2)})}
    )
    shape = derive_model(plain, (one,), BILLION)
    free, bound = (derive_step(s, one, shape, BILLION, scratch=True, first=True) for s in (plain, tight))
    assert bound.micro_batch_tokens < free.micro_batch_tokens
    assert replace(bound, micro_batch_tokens=free.micro_batch_tokens, reasons=free.reasons) == free


def method(name: str, objective: str = "classify", *, scratch: bool = False, **changes: object) -> Derived:
    """The numbers of a step with this method on a base model that somebody else trained, or on our own."""
    shape, _ = sizes(BANKING77, objective)
    one = step(objective, method=name, **changes)
    return derive_step(settings("classify", base="b"), one, shape, BANKING77, scratch=scratch, first=not scratch)


def test_low_rank_corrections_learn_ten_times_faster_and_a_new_head_faster_still() -> None:
    full, lora, qlora = method("full"), method("lora"), method("qlora")
    assert lora.lr == pytest.approx(10 * full.lr) and lora.head_lr == pytest.approx(5 * full.head_lr)
    # a new head keeps ahead of what it reads
    assert lora.head_lr == pytest.approx(5 * lora.lr)
    assert replace(qlora, reasons={}) == replace(lora, reasons={}) and lora.optimizer == "adamw"
    assert "LoRA Without Regret" in lora.reasons["lr"]
    assert method("lora", lr=1e-4).lr == 1e-4


def test_many_labels_of_a_ready_model_are_smoothed() -> None:
    ready, own = method("full"), method("full", scratch=True)
    assert (ready.label_smoothing, own.label_smoothing) == (0.1, 0.0)
    assert "by heart" in ready.reasons["label_smoothing"]
    # a head alone can't know them by heart
    assert method("lora").label_smoothing == 0.1 and method("probe").label_smoothing == 0
    assert method("full", label_smoothing=0.0).label_smoothing == 0
    assert method("full", label_smoothing=0.2).label_smoothing == 0.2
    shape, _ = sizes(BANKING77, "classify")
    for facts in (replace(BANKING77, labels=9), replace(BANKING77, several=True)):
        one = derive_step(settings("classify", base="b"), step("classify"), shape, facts, scratch=False, first=True)
        assert one.label_smoothing == 0


def test_a_low_rank_step_on_our_own_model_has_no_muon_unless_asked() -> None:
    shape, _ = sizes(BANKING77, "classify")
    for changes, expected in (({}, "adamw"), ({"optimizer": "muon"}, "muon")):
        one = step("classify", method="lora", **changes)
        derived = derive_step(settings("classify"), one, shape, BANKING77, scratch=True, first=False)
        assert derived.optimizer == expected


def test_a_probe_takes_large_steps_many_passes_and_no_noise() -> None:
    full, probe = method("full"), method("probe")
    rows = probe.batch_tokens / (152_908 / 9436)
    assert 1000 < rows < 1050
    passes = [one.steps * one.batch_tokens for one in (full, probe)]
    assert passes[1] == pytest.approx(10 * passes[0], rel=0.01)
    shape, _ = sizes(BANKING77, "classify")
    # transformers computes it, so nothing is stored
    foreign, one = replace(shape, family="electra"), step("classify", method="probe")
    slow = derive_step(settings("classify", base="b"), one, foreign, BANKING77, scratch=False, first=True)
    assert slow.steps * slow.batch_tokens == pytest.approx(passes[0], rel=0.05)
    own, own_probe = method("full", scratch=True), method("probe", scratch=True)
    assert own_probe.token_noise == 0 < own.token_noise
    # hidden words are what the masked objective is about, and other ones in each pass: nothing is stored either
    masked, whole = method("probe", "masked"), method("full", "masked")
    assert masked.token_noise > 0
    assert masked.steps * masked.batch_tokens == pytest.approx(whole.steps * whole.batch_tokens, rel=0.05)


def test_rates_of_groups_are_derived_or_as_asked() -> None:
    shape = derive_model(settings("complete"), (step("causal"),), STORIES)
    derived = derive_step(settings("complete"), step("causal"), shape, STORIES, scratch=True, first=True)
    names = ("lr", "embedding_lr", "head_lr", "scalar_lr")
    assert all(name in derived.reasons for name in names)
    asked = dict(zip(names, (0.01, 0.2, 0.003, 0.004), strict=True))
    chosen = derive_step(settings("complete"), step("causal", **asked), shape, STORIES, scratch=True, first=True)
    assert [getattr(chosen, name) for name in names] == list(asked.values())
    assert not any(name in chosen.reasons for name in names)


def test_norms_of_a_ready_model_move_no_faster_than_its_matrices_and_no_word_is_hidden() -> None:
    shape = derive_model(settings("classify"), (step("classify"),), STORIES)
    fresh, ready = (
        derive_step(settings("classify"), step("classify"), shape, STORIES, scratch=scratch, first=True)
        for scratch in (True, False)
    )
    assert fresh.scalar_lr == fresh.head_lr
    assert ready.scalar_lr == ready.lr < ready.head_lr
    assert ready.token_noise == 0 < fresh.token_noise


@pytest.mark.parametrize(("objective", "new"), [("classify", True), ("tag", True), ("sft", False), ("masked", False)])
def test_only_a_new_head_learns_faster_than_the_ready_model_below_it(objective: str, new: bool) -> None:
    shape = derive_model(settings("complete"), (step("causal"),), STORIES)
    derived = derive_step(settings("complete"), step(objective), shape, STORIES, scratch=False, first=True)
    assert derived.head_lr == pytest.approx(10 * derived.lr if new else derived.lr)


@pytest.mark.parametrize(
    ("layers", "width", "expected"),
    # MiniLM-L6 as measured; BERT-base as its paper has it; a large one as any model that somebody else made
    [(6, 384, 2e-4), (12, 768, 5e-5), (24, 1024, 2.99e-5)],
)
def test_a_small_ready_encoder_learns_labels_and_tags_faster(layers: int, width: int, expected: float) -> None:
    encoder = Shape("bert", 30_522, width, layers, width // 64, width // 64, 64, 4 * width, 512, True, {}, False, False)

    def rate(shape: Shape, objective: str = "classify", name: str = "full") -> float:
        one = step(objective, method=name)
        return derive_step(settings("classify", base="b"), one, shape, BANKING77, scratch=False, first=True).lr

    assert rate(encoder) == pytest.approx(expected, rel=0.01)
    assert rate(encoder, "tag") == rate(encoder)
    for other in (rate(replace(encoder, causal=True)), rate(encoder, "masked"), rate(encoder, name="lora") / 10):
        assert other == pytest.approx(2e-5 * (1e9 / encoder.body_parameters) ** (1 / 3))


def test_an_optimizer_for_gpus_is_refused_on_a_cpu() -> None:
    asked = settings("complete")
    shape = derive_model(asked, (step("causal"),), STORIES)
    eight = step("causal", optimizer="adamw_8bit")
    with pytest.raises(BadSetting, match="needs a GPU"):
        derive_step(asked, eight, shape, STORIES, scratch=True, first=True)
    derived = derive_step(asked, eight, shape, replace(STORIES, device="cuda"), scratch=True, first=True)
    assert derived.optimizer == "adamw_8bit"


def test_tied_or_not_is_as_asked() -> None:
    for tied in (True, False):
        assert derive_model(settings("complete", tied=tied), (step("causal"),), STORIES).tied == tied


def test_replay_takes_its_share_of_the_steps() -> None:
    both = Facts(
        sources=(*STORIES.sources, SourceFacts("general", "document", 9000, 9 * 10**6, 800, 500)), vocab_size=64
    )
    shape = derive_model(settings("complete"), (step("causal"),), STORIES)
    numbers = {"epochs": 2, "batch_tokens": 1000}
    alone, mixed = (
        derive_step(settings("complete"), one, shape, both, scratch=True, first=True)
        for one in (step("causal", sources=["s"], **numbers), step("causal", replay={"general": 0.2}, **numbers))
    )
    assert alone.steps == round(2 * 399_761 / 1000) and mixed.steps == round(2 * 399_761 / 800)
