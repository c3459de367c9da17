"""What a method of training asks of the model: passes, moving weights, the size of frozen ones. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wyrmling.config import TrainStep
from wyrmling.core import hardware
from wyrmling.train.methods import STORED
from wyrmling.train.sizing import Shape

# 4 bits, an 8-bit scale per 64 weights, and what a group of 256 scales shares (model/nf4.py).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Effort:
    """What a method of training asks of the model, beside the head. The default is training everything.

    forward     passes forward through the body at each step; 0 when its states are stored
    backward    the same backward, in passes forward: 2 for everything, 1 through frozen matrices
    kept        share of the layers whose values are kept for the backward pass
    moved       share of the blocks' weights that moves, the last of them
    embedding   whether the embedding moves
    output      whether a decoder's own output matrix moves; that of labels always does
    added       weights beside the model's that move
    frozen      bytes that a weight of the blocks takes, when it does not move
    once        tokens that go through the body once, before the first step
    recompute   only outputs of matrix products and attention are kept; the rest is computed again
    """

    forward: float = 1.0
    backward: float = 2.0
    kept: float = 1.0
    moved: float = 1.0
    embedding: bool = True
    output: bool = True
    added: int = 0
    frozen: float = 4.0
    once: float = 0.0
    recompute: bool = False


EVERYTHING = Effort()


def effort_of(step: TrainStep, shape: Shape, *, dtype: hardware.Dtype, tokens: float) -> Effort:
    """What the step's method asks. tokens: those of all rows, validation included."""
    asked = _of_method(step, shape, dtype=dtype, tokens=tokens)
    if step.objective == "preference" and step.preference.loss != "orpo":
        return replace(asked, once=tokens)
    return asked


def _of_method(step: TrainStep, shape: Shape, *, dtype: hardware.Dtype, tokens: float) -> Effort:
    if step.method == "freeze":
        share = min(1.0, step.freeze.layers / shape.layers)
        # Down to the embedding the gradient passes the frozen blocks, without stopping for their weights.
        whole = step.freeze.embedding
        return Effort(
            backward=1 + share if whole else 2 * share, kept=1.0 if whole else share, moved=share, embedding=whole
        )
    if step.method == "probe":
        stored = step.objective in STORED
        forward, once = (0.0, tokens) if stored else (1.0, 0.0)
        return Effort(forward=forward, backward=0.0, kept=0.0, moved=0.0, embedding=False, once=once)
    if step.method == "few-shot":
        # Rows get their vectors once; a decoder's validation rows are read too (a bound: about as many tokens).
        return Effort(forward=0.0, backward=0.0, kept=0.0, moved=0.0, embedding=False, output=False, once=tokens)
    if step.method in ("lora", "qlora"):
        frozen = NF4_BYTES if step.method == "qlora" else _frozen_bytes(dtype)
        return Effort(
            backward=1.0, moved=0.0, embedding=False, output=False, added=_low_rank(step, shape), frozen=frozen
        )
    return EVERYTHING


def _frozen_bytes(dtype: hardware.Dtype) -> float:
    """Bytes of a frozen weight, which is kept as products need it."""
    return 4.0 if dtype == "float32" else 2.0


def _low_rank(step: TrainStep, shape: Shape) -> int:
    """Weights of the corrections of all linear layers: rank x (inputs + outputs) each."""
    d, q, kv, f = shape.width, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.ffn
    sides = (d + q) + 2 * (d + kv) + (q + d) + (2 if shape.gated else 1) * (d + f) + (f + d)
    return step.lora.rank * sides * shape.layers
