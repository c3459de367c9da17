"""How much work a training step is: multiply-adds, bytes moved, calls, memory held; a closed form, no torch.

docs/plan.md has the formulas and how well they did; train/forecast.py adds uncertainty and prices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from wyrmling.config import OptimizerName, Settings, TrainObjective, TrainStep
from wyrmling.core import hardware
from wyrmling.core.hardware import Rates
from wyrmling.train.effort import EVERYTHING, NF4_BYTES, Effort, effort_of
from wyrmling.train.sizing import Derived, Facts, Shape

# How often each counted thing is paid, fitted on 2 cores (AMD Milan, torch 2.13, float32) over 23 kinds of steps of 0.3
# to 14M weights, documents of 16 to 256 tokens, both families; off by 8 % (root mean square), the update by 14 %.
MATMUL = 0.78  # FLOPs of the blocks, against the probe's matrix product
MOVED = 16.3  # times that each saved activation byte crosses the memory bus, forward and backward
HEAD, LOGITS_MOVED = 0.9, 30.7  # FLOPs of the output matrix; crossings of each byte of logits
NEWTON_SCHULZ, STATE_MOVED = 1.04, 8.75  # FLOPs of Muon's iterations; crossings of each byte of weights per update
# Small operations per layer and micro-batch. On a GPU they overlap with the work (assumption, not measured).
CALLS_PER_LAYER = {"cpu": 750.0, "cuda": 200.0}
CALLS_PER_UPDATE = 4000.0  # the loop, its batches and log included
# A layer with a low-rank correction makes so many times the calls (assumption: four small products beside one).
LOW_RANK_CALLS = 1.3
# Crossings of each float32 weight when 4 bits are looked up (measured: 6.1 ms for 4.2M weights on one core).
NF4_MOVED = 3.0
# One random number of dropout, as a share of a small operation: two per layer, token and width.
DROPOUT = 0.015
# Seconds before the first step and after the last: reading the store, checking the rows, writing the model.
START_SECONDS = 3.5
# Memory of the process before the model is there: Python, torch and the libraries of the stage, in GB.
BASE_GB = {"cpu": 0.46, "cuda": 1.3}
# What backward needs beside the kept activations, and the holes that batches of ever other sizes leave in the heap (the
# peaks of whole runs, benchmarks/forecast.py).
KEPT_TWICE = 1.9
# Bytes of moments per weight; with Muon those of the weights that AdamW moves.
MOMENT_BYTES: dict[OptimizerName, int] = {"muon": 8, "adamw": 8, "adamw_8bit": 2, "sgd": 4}
# The chunked loss holds this many rows of logits, three times over.
LOSS_ROWS, LOGITS_HELD = 512, 3


@dataclass(frozen=True)
class Work:
    """One training step, as far as its cost goes. Counts are tokens, weights and optimizer updates.

    logits       share of the tokens that meet the output matrix
    outputs      rows of that matrix: vocabulary, classes or tags
    length       mean length of a document
    looked_at    validation tokens scored over all looks
    """

    objective: TrainObjective
    shape: Shape
    steps: int
    batch_tokens: int
    micro_batch_tokens: int
    length: float
    logits: float
    outputs: int
    looked_at: float
    optimizer: OptimizerName
    device: hardware.Device
    dtype: hardware.Dtype
    threads: int | None = None
    """CPU threads. None: what the machine offers."""
    effort: Effort = EVERYTHING
    dropout: bool = False
    passes: int = 1
    """How often a step computes each of its rows, side by side; the tokens are counted as often."""


def work_of(
    step: TrainStep,
    shape: Shape,
    derived: Derived,
    facts: Facts,
    *,
    dtype: hardware.Dtype,
    validation_tokens: float = 0,
    room_gb: float = math.inf,
) -> Work:
    """The work of one step.

    validation_tokens   scored at each look; 0 when there are no validation rows
    room_gb             memory there is; work that would need more keeps less for the backward pass
    """
    rows = facts.of(step)
    tokens, count = sum(s.tokens for s in rows), sum(s.rows for s in rows)
    length = min(shape.context, tokens / max(1, count))
    # Every token of a document predicts or is predicted, but: masked learns the hidden ones, classify one row per text.
    share = {"masked": step.mask_rate, "classify": 1 / max(1.0, length)}.get(step.objective, 1.0)
    outputs = {"classify": facts.labels, "tag": facts.tags}.get(step.objective, shape.vocab_size)
    passes = 2 if step.r_drop else 1
    plain = Work(
        objective=step.objective,
        shape=shape,
        steps=derived.steps,
        batch_tokens=passes * derived.batch_tokens,
        micro_batch_tokens=passes * min(derived.micro_batch_tokens, derived.batch_tokens),
        length=length,
        logits=share,
        outputs=outputs,
        looked_at=validation_tokens * derived.steps / derived.evaluate_every,
        optimizer=derived.optimizer,
        device=facts.device,
        dtype=dtype,
        threads=facts.threads,
        effort=effort_of(step, shape, dtype=dtype, tokens=tokens + validation_tokens),
        dropout=derived.dropout > 0,
        passes=passes,
    )
    asked = step.checkpoint_activations
    if memory_gb(plain) > room_gb if asked is None else asked:
        return replace(plain, effort=replace(plain.effort, recompute=True))
    return plain


def room_gb(settings: Settings, device: hardware.Device) -> float:
    """Memory that training may take: the budget, else what the device has."""
    machine = hardware.machine()
    has = machine.gpus[0].memory_gb if device == "cuda" and machine.gpus else machine.memory_gb
    return min(has, settings.objective.budget.memory_gb or math.inf)


def moved_parameters(work: Work) -> float:
    """Weights that have a gradient and moments."""
    shape, effort = work.shape, work.effort
    embedding = shape.vocab_size * shape.width
    # A tied output matrix is the embedding; one of labels is the step's own.
    labels = work.objective in ("classify", "tag")
    output = work.outputs * shape.width if labels or (effort.output and not shape.tied) else 0
    return effort.moved * shape.body_parameters + effort.added + (embedding if effort.embedding else 0) + output


def flops_per_token(work: Work) -> float:
    """Multiply-adds (counted as two) of training on one token: 6 per weight, 12 per attended value."""
    shape, effort = work.shape, work.effort
    seen = work.length / 2 if shape.causal and work.device == "cuda" else work.length
    body = 2 * shape.body_parameters + 4 * shape.layers * shape.heads * shape.head_dim * seen
    return (effort.forward + effort.backward) * body + 6 * effort.added + 6 * shape.width * work.outputs * work.logits


def total_flops(work: Work) -> float:
    """Multiply-adds (counted as two) of all updates; the same on every machine."""
    return flops_per_token(work) * work.batch_tokens * work.steps


def activation_bytes(shape: Shape, dtype: hardware.Dtype, *, recompute: bool = False) -> float:
    """Bytes that the forward pass keeps per token and layer for the backward pass.

    The coefficients are counted on our own block by saved-tensor hooks; tests/train/test_forecast.py counts them again.
    With `recompute` they are a block's input and the outputs of its matrices and of attention.
    """
    q, kv, d, f = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.width, shape.ffn
    if recompute:
        outputs = 2 * d + (2 if shape.gated else 1) * f + 2 * q + 2 * kv
        return 4 * d + (4 if dtype == "float32" else 2) * outputs
    return 16 * d + 16 * f + 12 * q + 12 * kv if dtype == "float32" else 12 * d + 8 * f + 14 * q + 12 * kv


def seconds(work: Work, rates: Rates) -> float:
    """Seconds of the step, start and looks at the validation rows included."""
    shape, flops = work.shape, rates.of(work.dtype)
    effort = work.effort
    train = effort.forward + effort.backward
    body = MATMUL * (2 * shape.body_parameters + 4 * shape.layers * shape.heads * shape.head_dim * work.length) / flops
    low_rank = 6 * MATMUL * effort.added / flops
    moved = MOVED / 3 * activation_bytes(shape, work.dtype) * shape.layers / rates.copy
    if effort.recompute:
        # What is cheap to compute is computed a second time: the moved bytes of one more forward pass.
        moved *= (train + 1) / train
    head = 6 * HEAD * shape.width * work.outputs / flops + LOGITS_MOVED * 4 * work.outputs / rates.copy
    micro_batches = math.ceil(work.batch_tokens / work.micro_batch_tokens)
    calls_per_layer = CALLS_PER_LAYER[work.device] * train / 3 * (LOW_RANK_CALLS if effort.added else 1)
    calls = (calls_per_layer * shape.layers * micro_batches + CALLS_PER_UPDATE) * rates.call
    if effort.frozen == NF4_BYTES:
        calls += 2 * micro_batches * NF4_MOVED * 4 * shape.body_parameters / rates.copy
    if work.dropout:
        moved += DROPOUT / 3 * 2 * shape.width * shape.layers * rates.call
    per_token = train * (body + moved) + low_rank + head * work.logits
    per_step = work.batch_tokens * per_token + calls + _update_seconds(work, rates)
    looking = work.looked_at * (effort.forward * (body + moved) + head * work.logits / 3)
    return START_SECONDS + effort.once * (body + moved) + work.steps * per_step + looking


def _update_seconds(work: Work, rates: Rates) -> float:
    """One optimizer update: the bytes of weights and moments, and Muon's iterations on the blocks' matrices."""
    shape = work.shape
    moved = STATE_MOVED * 4 * moved_parameters(work) / rates.copy
    if work.optimizer != "muon" or work.effort.moved == 0:
        return moved
    d, q, kv = shape.width, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = ((q + 2 * kv, d), (d, q), ((2 if shape.gated else 1) * shape.ffn, d), (d, shape.ffn))
    flops = sum(5 * (4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3) for s in sizes) * shape.layers * work.effort.moved
    return moved + NEWTON_SCHULZ * flops / rates.float32


def memory_gb(work: Work) -> float:
    """Peak memory: the process, weights, gradients, moments, kept activations and logits, and the update's own needs.

    Activations are gone when the update begins, but the allocator seldom has their space in the sizes it then needs.
    """
    shape, effort = work.shape, work.effort
    # Without a backward pass a layer's values go as the next one's come.
    layers = max(1.0, shape.layers * effort.kept)
    kept = work.micro_batch_tokens * layers * activation_bytes(shape, work.dtype, recompute=effort.recompute)
    if work.dtype == "bfloat16":
        kept += 2 * effort.moved * shape.body_parameters
    logits = LOGITS_HELD * 4 * work.outputs * min(LOSS_ROWS, work.micro_batch_tokens * work.logits)
    features = 8 * shape.width * work.micro_batch_tokens * work.logits
    # Muon stacks gradients, makes updates and two squares: about four times the matrices.
    updating = 16 * _muon_parameters(work)
    learning = KEPT_TWICE * (kept + logits + features) + updating
    return max(steady_gb(work) + learning / 1e9, BASE_GB[work.device] + merging_bytes(work) / 1e9)


def steady_gb(work: Work) -> float:
    """The part of the peak that is there from the second step on, whatever the batches: process, weights, moments."""
    moved, matrices = moved_parameters(work), _muon_parameters(work)
    moments = 4 * matrices + MOMENT_BYTES[work.optimizer] * (moved - matrices)
    return BASE_GB[work.device] + (weights_bytes(work) + 4 * moved + moments) / 1e9


def _muon_parameters(work: Work) -> float:
    return work.effort.moved * work.shape.body_parameters if work.optimizer == "muon" else 0.0


def weights_bytes(work: Work) -> float:
    """What the weights take, adapters included; those of blocks that do not move may be smaller."""
    still = (1 - work.effort.moved) * work.shape.body_parameters
    return 4 * (work.shape.parameters - still + work.effort.added) + work.effort.frozen * still


def merging_bytes(work: Work) -> float:
    """What an adapter needs at the end, when it is merged into the whole base in float32; 0 without one."""
    return weights_bytes(work) + 4 * work.shape.parameters if work.effort.added else 0.0
