"""Computing again what is cheap gives the same gradients from less memory."""

from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.train.sizing import shape_of
from wyrmling.train.workload import activation_bytes

LENGTHS = [9, 30, 9, 17]


def config(family: str, *, dropout: float = 0.0, **sizes: int) -> ModelConfig:
    parts = {"width": 48, "layers": 3, "heads": 3, "kv_heads": 3, "head_dim": 16, "ffn": 64, **sizes}
    tied = family == "modernbert"
    return ModelConfig(family, 96, **parts, context=64, tied=tied, dropout=dropout)  # type: ignore[arg-type]


def gradients(config: ModelConfig, *, recompute: bool, bfloat16: bool = False) -> list[torch.Tensor]:
    model = Model(config, "next" if config.causal else "masked", seed=1).train()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    model.body.recompute = recompute
    tokens = torch.arange(sum(LENGTHS)) % 96
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = model.logits(tokens, Segments(LENGTHS))
    logits.float().square().mean().backward()  # type: ignore[no-untyped-call]
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", ["qwen3", "modernbert", "falcon", "bert"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_the_same_bit_for_bit(family: str, dropout: float) -> None:
    plain, again = (gradients(config(family, dropout=dropout), recompute=on) for on in (False, True))
    assert len(plain) == len(again) > 10
    assert all(a.equal(b) for a, b in zip(plain, again, strict=True))


def test_gradients_in_bfloat16_are_the_same_bit_for_bit() -> None:
    plain, again = (gradients(config("qwen3"), recompute=on, bfloat16=True) for on in (False, True))
    assert all(a.equal(b) for a, b in zip(plain, again, strict=True))


class Storages(TorchDispatchMode):
    """Remembers the memory of every tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def held(self, model: Model) -> int:
        """Bytes that are still there, without the model's own."""
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        return sum(size for at, (ref, size) in self.made.items() if at not in own and not ref.expired())


@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_held_for_the_backward_pass_is_what_the_forecast_counts(recompute: bool) -> None:
    """As the difference of 4 and 2 layers, so that the ends fall out."""
    held = {}
    for layers in (2, 4):
        sizes = config("qwen3", width=128, ffn=336, heads=2, kv_heads=2, head_dim=64, layers=layers)
        model = Model(sizes, "next", seed=1).train()
        model.body.recompute = recompute
        with Storages() as storages:
            hidden = model.body(torch.zeros(512, dtype=torch.int64), Segments([64] * 8))
            held[layers] = storages.held(model)
        del hidden
    expected = activation_bytes(shape_of(sizes, ""), "float32", recompute=recompute)
    assert (held[4] - held[2]) / 2 / 512 == pytest.approx(expected, rel=0.05)
