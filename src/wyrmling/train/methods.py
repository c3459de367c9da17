"""What the way of training changes in a step's derived numbers. No torch; train/trainable.py applies the methods."""

from __future__ import annotations

from dataclasses import dataclass

from wyrmling.config import TrainMethod


@dataclass(frozen=True)
class Method:
    """How a method's numbers differ from those of training everything.

    muon     matrices may be moved by Muon, in a model of our own
    rate     learning rate of the matrices, as a multiple; head_rate: that of the head, of labels and tags
    passes   passes over the rows, as a multiple
    noise    tokens may be hidden, and labels smoothed, while labels are learned
    rows     rows of a step when labels are learned; None: about 128, and 20 steps per pass
    reason   why, for `wyrmling plan`
    """

    muon: bool = True
    rate: float = 1.0
    head_rate: float = 1.0
    passes: float = 1.0
    noise: bool = True
    rows: int | None = None
    reason: str = ""


# Objectives whose inputs are the same at every pass, and whose hidden states are few enough to keep for a probe.
STORED = ("classify", "tag")

# A new head must keep ahead of the corrections, as it does of the weights in full training: at their own rate they make
# all hidden states alike before the head tells them apart, and tags are not learned at all.
_LORA = Method(
    muon=False,
    rate=10.0,
    head_rate=5.0,
    reason="low-rank corrections learn 10 times faster (LoRA Without Regret, 2025)",
)
METHODS: dict[TrainMethod, Method] = {
    "full": Method(),
    "freeze": Method(),
    # The body runs once; what follows costs next to nothing.
    "probe": Method(
        muon=False,
        rate=6.0,
        head_rate=6.0,
        passes=10.0,
        noise=False,
        rows=1024,
        reason="a pass over stored features costs next to nothing",
    ),
    "lora": _LORA,
    "few-shot": Method(passes=0.0, noise=False, reason="nothing is trained: rows are shown"),
    "qlora": _LORA,
}
