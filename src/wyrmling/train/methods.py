"""What the way of training changes in a step's derived numbers. No torch; train/trainable.py applies the methods."""

from __future__ import annotations

from dataclasses import dataclass

from wyrmling.config import TrainMethod


@dataclass(frozen=True)
class Method:
    """How a method's numbers differ from those of training everything.

    muon     matrices may be moved by Muon, in a model of our own
    rate     learning rate of the matrices, as a multiple
    passes   passes over the rows, as a multiple
    noise    tokens may be hidden while labels are learned
    reason   why, for `wyrmling plan`
    """

    muon: bool = True
    rate: float = 1.0
    passes: float = 1.0
    noise: bool = True
    reason: str = ""


_LORA = Method(muon=False, rate=10.0, reason="low-rank corrections learn 10 times faster (LoRA Without Regret, 2025)")
METHODS: dict[TrainMethod, Method] = {
    "full": Method(),
    "freeze": Method(),
    # The body runs once; what follows costs next to nothing.
    "probe": Method(muon=False, passes=10.0, noise=False, reason="a pass over stored features costs next to nothing"),
    "lora": _LORA,
    "qlora": _LORA,
}
