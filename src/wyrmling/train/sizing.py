"""Every number that training derives, as pure functions of settings and facts; each comes with its reason.

No torch: `wyrmling plan` prints these without loading it. The sources named in the reasons are in docs/train.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from wyrmling import config
from wyrmling.config import OptimizerName, Settings, TrainObjective, TrainStep
from wyrmling.core.errors import BadSetting
from wyrmling.model.design import FAMILIES, body_parameters
from wyrmling.train.learning_rates import learning_rates
from wyrmling.train.methods import METHODS, STORED
from wyrmling.train.sizes import PRESETS, Kind, Preset, Sized, ffn_of, heads_of, sized, width_per_layer

if TYPE_CHECKING:
    from wyrmling.model.transformer import ModelConfig


# What the rows of each objective look like; causal and masked learn from text of any kind.
KINDS: dict[TrainObjective, tuple[str, ...]] = {
    "causal": ("document", "labelled", "tagged", "conversation"),
    "masked": ("document", "labelled", "tagged", "conversation"),
    "sft": ("conversation",),
    "classify": ("labelled",),
    "tag": ("tagged",),
    "preference": ("pair", "rating"),
}
# What a decoder learns.
WRITING: tuple[TrainObjective, ...] = ("causal", "sft", "preference")
# Labels from which on smoothing them was measured to help a ready encoder: 77 of Banking77 (benchmarks/RESULTS.md).
MANY_LABELS = 10


def kinds_of(step: TrainStep) -> tuple[str, ...]:
    """The kinds of rows that a step learns from."""
    if step.objective == "preference" and step.preference.loss != "kto":
        return ("pair",)
    return KINDS[step.objective]


@dataclass(frozen=True)
class SourceFacts:
    """The training rows of one kind in one source. Lengths are in tokens, end marks included."""

    source: str
    kind: str
    rows: int
    tokens: int
    longest: int
    p99: int


@dataclass(frozen=True)
class Facts:
    """What sizes are derived from.

    vocab_size   tokens in the vocabulary
    labels       number of classes; 0 = no labelled rows
    tags         number of word tags; 0 = no tagged rows
    several      a row may have several labels
    flops        float32 operations per second that a matrix product reaches here; None: not measured
    """

    sources: tuple[SourceFacts, ...]
    vocab_size: int
    labels: int = 0
    tags: int = 0
    several: bool = False
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    flops: float | None = None

    def of(self, step: TrainStep) -> tuple[SourceFacts, ...]:
        """The rows that a step learns from, those of its replay left out."""
        kinds = kinds_of(step)
        return tuple(
            s
            for s in self.sources
            if s.kind in kinds and s.source not in step.replay and (step.sources is None or s.source in step.sources)
        )


@dataclass(frozen=True)
class Shape:
    """A model's sizes; `reasons` says why each derived one is what it is."""

    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context: int
    tied: bool
    reasons: dict[str, str] = field(default_factory=dict)
    causal: bool = True
    gated: bool = True
    """The feed-forward layer has three matrices; False: two."""

    @property
    def body_parameters(self) -> int:
        """Weights of the blocks' matrices."""
        sizes = (self.layers, self.width, self.heads, self.kv_heads, self.head_dim, self.ffn)
        return body_parameters(*sizes, gated=self.gated)

    @property
    def parameters(self) -> int:
        """Weights of blocks, embedding and output matrix; norms and biases are left out."""
        return self.body_parameters + self.vocab_size * self.width * (1 if self.tied else 2)


@dataclass(frozen=True)
class Derived:
    """The numbers of one training step, none of them open. Counts are tokens and optimizer steps."""

    optimizer: OptimizerName
    lr: float
    embedding_lr: float
    head_lr: float
    scalar_lr: float
    weight_decay: float
    batch_tokens: int
    micro_batch_tokens: int
    steps: int
    warmup_steps: int
    decay_steps: int
    dropout: float
    label_smoothing: float
    token_noise: float
    evaluate_every: int
    reasons: dict[str, str] = field(default_factory=dict)


def derive_model(settings: Settings, steps: Iterable[TrainStep], facts: Facts) -> Shape:
    """The model to start from scratch with, for all of the project's steps."""
    steps = tuple(steps)
    why: dict[str, str] = {}
    asked = settings.model
    kind = _kind(asked.preset, steps, why)
    if asked.size is None:
        found = _sizes_for_text(asked, kind, _body_parameters(kind, steps, facts, why), facts, why)
    else:
        found = _sizes_by_name(asked.size, asked, kind, facts, why)
    return Shape(
        family=kind.family,
        vocab_size=facts.vocab_size,
        width=found.width,
        layers=found.layers,
        heads=found.heads,
        kv_heads=found.kv_heads,
        head_dim=found.width // found.heads,
        ffn=found.ffn,
        context=asked.context or _context(steps, facts, why),
        tied=_tied(asked, found, why),
        reasons=why,
        causal=kind.causal,
        gated=kind.gated,
    )


def shape_of(config: ModelConfig, reason: str) -> Shape:
    """The sizes of a model that exists."""
    return Shape(
        family=config.family,
        vocab_size=config.vocab_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        ffn=config.ffn,
        context=config.context,
        tied=config.tied,
        reasons=dict.fromkeys(("family", "layers", "width", "heads", "ffn", "context"), reason),
        causal=config.causal,
        gated=config.switches.gated,
    )


def _kind(preset: Preset | None, steps: tuple[TrainStep, ...], why: dict[str, str]) -> Kind:
    """What to build. Raises BadSetting when a step can't learn its objective with the preset that was asked for."""
    writes = [step.name for step in steps if step.objective in WRITING]
    if preset is None:
        kind = PRESETS["compat" if writes else "encoder"]
        why["family"] = f"{kind.what}, because " + ("a step" if writes else "no step") + " learns to write text"
        return kind
    kind = PRESETS[preset]
    wrong = [step.name for step in steps if step.objective == "masked"] if kind.causal else writes
    if wrong:
        raise BadSetting(
            f'model.preset = "{preset}" is {kind.what}, which can\'t learn what train.{wrong[0]} asks for',
            where="model.preset",
            fix="choose compat, llama or palm for causal, sft and preference, encoder for masked",
        )
    why["family"] = kind.what
    return kind


def _sizes_by_name(size: str, asked: config.Model, kind: Kind, facts: Facts, why: dict[str, str]) -> Sized:
    """Raises BadSetting when the sizes are also set one by one, or the name is too small for the vocabulary."""
    if also := [name for name in ("layers", "width", "heads", "kv_heads", "ffn") if getattr(asked, name) is not None]:
        raise BadSetting(
            f'model.size = "{size}" decides model.{also[0]} too',
            where="model.size",
            fix=f"leave out model.size, or model.{' and model.'.join(also)}",
        )
    found = sized(size, kind, facts.vocab_size)
    why["layers"] = (
        f'{found.parameters / 1e6:,.1f}M weights, for model.size = "{size}" and a vocabulary of {facts.vocab_size:,}'
    )
    why["width"] = f"{found.width / found.layers:.0f} per layer; {width_per_layer(size)} is the aim"
    why["heads"] = f"{found.width // found.heads} wide each; {found.kv_heads} key heads"
    why["ffn"] = "8/3 of the width" if kind.gated else "4 times the width"
    return found


def _sizes_for_text(asked: config.Model, kind: Kind, body: float, facts: Facts, why: dict[str, str]) -> Sized:
    # Width 64 per layer: a body of 12 x layers x width^2 = 49,152 x layers^3 weights.
    layers = asked.layers or max(2, round((body / 49_152) ** (1 / 3)))
    if asked.layers is None:
        why["layers"] = f"about {body / 1e6:.1f}M weights in blocks as wide as 64 per layer"
    width = asked.width or 64 * layers
    if asked.width is None:
        why["width"] = "64 per layer (nanochat's ratio)"
    heads = asked.heads or heads_of(width, 64)
    if asked.heads is None:
        why["heads"] = "one per 64 of the width, at least 2"
    if asked.ffn is None:
        gated = "8/3 of the width: a gated layer then costs as much as a plain one of 4"
        why["ffn"] = gated if kind.gated else "4 times the width"
    ffn = asked.ffn or ffn_of(kind, width)
    # A quarter of the key heads is for widths that no text asks for here.
    kv_heads = asked.kv_heads or (1 if kind.keys == "one" else heads)
    return Sized(layers, width, heads, kv_heads, ffn, tied=kind.tied, parameters=0)


def _tied(asked: config.Model, found: Sized, why: dict[str, str]) -> bool:
    if asked.tied is not None:
        return asked.tied
    why["tied"] = "the embedding is also the output matrix" if found.tied else "embedding and output matrix are apart"
    return found.tied


def _body_parameters(kind: Kind, steps: tuple[TrainStep, ...], facts: Facts, why: dict[str, str]) -> float:
    """Weights in the blocks, growing with the square root of the text.

    Decoder: 1M at 150k tokens, which is 85M at 1G tokens, as nanochat's d12. Encoder: 0.4M, because on Banking77 two
    layers of width 128 did as well as three and as width 192 in a fraction of the time (docs/train.md).
    """
    tokens = max((sum(s.tokens for s in facts.of(step)) for step in steps), default=0)
    wanted = (1e6 if kind.causal else 4e5) * math.sqrt(max(tokens, 1) / 150_000)
    why["parameters"] = f"{tokens:,} training tokens bear about {wanted / 1e6:.2g}M weights in the blocks"
    return wanted


def _context(steps: tuple[TrainStep, ...], facts: Facts, why: dict[str, str]) -> int:
    rows = [source for step in steps for source in facts.of(step)]
    longest = max((s.longest for s in rows), default=8)
    cap = 512 if facts.device == "cpu" else 2048
    if any(step.objective in WRITING for step in steps):
        context = _power_of_two(max(128, min(longest, cap)))
        why["context"] = f"the longest row has {longest} tokens; at most {cap} on {facts.device}"
    else:
        context = 8 * math.ceil(max(16, min(longest, cap)) / 8)
        why["context"] = f"the longest row has {longest} tokens; at most {cap} on {facts.device}"
    return context


def _power_of_two(value: float) -> int:
    return int(2.0 ** max(0, math.ceil(math.log2(value))))


def derive_step(
    settings: Settings, step: TrainStep, shape: Shape, facts: Facts, *, scratch: bool, first: bool
) -> Derived:
    """The numbers of one step.

    shape    the model that the step trains
    scratch  True when the weights came from this project's own training, not from a folder somebody else made
    first    True when no step trained these weights before
    """
    why: dict[str, str] = {}
    rows = facts.of(step)
    tokens = sum(s.tokens for s in rows)
    # A trunk is of a training of our own, and is gone on with as it began.
    scratch, first = scratch or step.trunk is not None, first or step.trunk is not None
    muon = scratch and METHODS[step.method].muon and step.objective != "preference"
    optimizer = step.optimizer or ("muon" if muon else "adamw")
    if step.optimizer is None:
        why["optimizer"] = "muon for our own models" if muon else "adamw: it moves weights that are already good"
    _check_optimizer(step, optimizer, facts)
    rates = learning_rates(step, shape, optimizer, scratch=scratch, first=first, why=why)
    batch_tokens = step.batch_tokens or _batch_tokens(step, rows, tokens, why)
    # A step is about as long as asked; one pass should hold it even when it is a document longer.
    micro = step.micro_batch_tokens or min(
        _micro_batch_tokens(settings, step, shape, facts, why), batch_tokens + shape.context
    )
    steps = _steps(step, shape, tokens, batch_tokens, why)
    dropout = _dropout(step, why)
    return Derived(
        optimizer=optimizer,
        lr=rates.matrices,
        embedding_lr=rates.embedding,
        head_lr=rates.head,
        scalar_lr=rates.scalars,
        weight_decay=_weight_decay(step, optimizer, why),
        batch_tokens=batch_tokens,
        micro_batch_tokens=micro,
        steps=steps,
        warmup_steps=_warmup_steps(step, steps, why),
        decay_steps=max(1, round(step.decay * steps)),
        dropout=dropout,
        label_smoothing=_label_smoothing(step, facts, scratch, why),
        token_noise=_token_noise(step, scratch, why),
        evaluate_every=step.evaluate_every or max(1, math.ceil(steps / 10)),
        reasons=why,
    )


def _check_optimizer(step: TrainStep, optimizer: str, facts: Facts) -> None:
    """Raises BadSetting for an optimizer that this device can't run well."""
    if optimizer == "adamw_8bit" and facts.device == "cpu":
        raise BadSetting(
            'optimizer = "adamw_8bit" needs a GPU: on a CPU it is 30 times slower than adamw and saves little',
            where=f"train.{step.name}.optimizer",
            fix='leave it out, or use "adamw" or "sgd"',
        )


def _batch_tokens(step: TrainStep, rows: tuple[SourceFacts, ...], tokens: int, why: dict[str, str]) -> int:
    n_rows = max(1, sum(s.rows for s in rows))
    if step.objective == "preference":
        why["batch_tokens"] = "about 32 rows, fewer when that leaves less than 20 steps per pass"
        return max(1, min(tokens, round(min(32, max(4, n_rows // 20)) * tokens / n_rows)))
    if step.objective in ("classify", "tag"):
        asked = METHODS[step.method].rows
        wanted = (asked or min(128, max(4, n_rows // 20))) * tokens / n_rows
        why["batch_tokens"] = (
            f"about {asked} rows: {METHODS[step.method].reason}"
            if asked
            else "about 128 rows, fewer when that leaves less than 20 steps per pass"
        )
        return max(1, min(tokens, round(wanted)))
    wanted = min(max(512.0, tokens / 100), 2**19 * math.pow(tokens / 1e9, 0.383))
    why["batch_tokens"] = "2^19 x (tokens / 1G)^0.383 (arXiv 2505.13738), and about 100 steps per pass at least"
    return max(1, min(tokens, round(wanted)))


def _micro_batch_tokens(settings: Settings, step: TrainStep, shape: Shape, facts: Facts, why: dict[str, str]) -> int:
    """What keeps the saved activations near 1 GB on CPU, 8 GB on a GPU, or a quarter of the memory budget."""
    # float32 bytes per token and layer: 24 D + 16 F + 20 H K + 4 H (fit of a plain block by saved-tensor hooks)
    per_token = shape.layers * (24 * shape.width + 16 * shape.ffn + 20 * shape.heads * shape.head_dim + 4 * shape.heads)
    budget = 1e9 if facts.device == "cpu" else 8e9
    if (memory_gb := settings.objective.budget.memory_gb) is not None:
        budget = min(budget, memory_gb * 1e9 / 4)
    if step.r_drop:
        per_token *= 2
    why["micro_batch_tokens"] = f"{per_token / 1e3:.0f} kB of activations per token, {budget / 1e9:.2g} GB in all"
    return max(shape.context, int(budget / per_token))


def _steps(step: TrainStep, shape: Shape, tokens: int, batch_tokens: int, why: dict[str, str]) -> int:
    if METHODS[step.method].passes == 0:
        why["steps"] = METHODS[step.method].reason
        return 0
    if step.steps is not None:
        return step.steps
    epochs = step.epochs
    if epochs is None:
        method = METHODS[step.method]
        # Where no hidden states are stored (other objectives, a network that transformers computes) every pass runs it.
        stored = step.objective in STORED and shape.family in FAMILIES
        passes = method.passes if stored else min(1.0, method.passes)
        epochs = _epochs(step.objective, tokens) * passes
        why["steps"] = f"{epochs:.3g} passes over {tokens:,} tokens" + (f": {method.reason}" if passes != 1 else "")
    return max(1, round(epochs * tokens / (batch_tokens * (1 - sum(step.replay.values())))))


def _warmup_steps(step: TrainStep, steps: int, why: dict[str, str]) -> int:
    if step.trunk is not None and "warmup" not in step.model_fields_set:
        why["warmup_steps"] = "none: the trunk's optimizer is warm"
        return 0
    return round(step.warmup * steps)


def _epochs(objective: TrainObjective, tokens: int) -> float:
    """Small data bears many passes, large data few: a square root between them (measured points in docs/train.md)."""
    at_150k, most, least = {
        "classify": (8.0, 30.0, 2.0),
        "tag": (8.0, 30.0, 2.0),
        "sft": (6.0, 20.0, 2.0),
        "masked": (3.0, 20.0, 1.0),
        "causal": (6.0, 30.0, 1.0),
        "preference": (2.0, 3.0, 1.0),
    }[objective]
    return min(most, max(least, at_150k * math.sqrt(150_000 / max(tokens, 1))))


def _dropout(step: TrainStep, why: dict[str, str]) -> float:
    if step.dropout is not None:
        return step.dropout
    value = 0.1 if step.objective in ("classify", "tag") else 0.0
    why["dropout"] = "few labels are soon known by heart" if value else "the text is too much to be known by heart"
    return value


def _label_smoothing(step: TrainStep, facts: Facts, scratch: bool, why: dict[str, str]) -> float:
    if step.label_smoothing is not None:
        return step.label_smoothing
    many = step.objective == "classify" and facts.labels >= MANY_LABELS and not facts.several
    if not many or scratch or not METHODS[step.method].noise:
        return 0.0
    why["label_smoothing"] = "many labels of a ready model: it soon knows its rows by heart"
    return 0.1


def _token_noise(step: TrainStep, scratch: bool, why: dict[str, str]) -> float:
    """Share of hidden tokens. A ready model has seen enough words; hiding some of them costs it accuracy."""
    if step.objective == "masked":
        return step.mask_rate
    if scratch and step.objective in ("classify", "tag") and METHODS[step.method].noise:
        why["token_noise"] = "a tenth of the tokens is hidden while training, so that no single word decides"
        return 0.1
    return 0.0


def _weight_decay(step: TrainStep, optimizer: str, why: dict[str, str]) -> float:
    if step.weight_decay is not None:
        return step.weight_decay
    value = 0.1 if optimizer == "muon" else 0.0
    why["weight_decay"] = (
        "cautious decay for Muon" if value else "none: AdamW here only moves weights that are already good"
    )
    return value
