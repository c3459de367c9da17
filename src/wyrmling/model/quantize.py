"""A loaded model with smaller matrices, for inference: int8, int8 products, or 4 bits.

Each method replaces a model's linear layers in place. Norms, biases and the embedding table stay as they are. Every row
of an input is rounded on its own, so an answer does not depend on what else is in the batch.

Letters: N rows of the input, I its width, O outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyrmling.config import Quantize
from wyrmling.core.errors import BadSetting
from wyrmling.core.log import say, warn
from wyrmling.model import folder as model_folder
from wyrmling.model import probes
from wyrmling.model.heads import Model

METHODS: tuple[Quantize, ...] = get_args(Quantize)
# How far the distributions of rounded weights may be from the trained model's, on the stored probes: about ten times
# what was measured on small trained models (benchmarks/RESULTS.md), and far below what a wrong matrix does.
ALLOWED: dict[Quantize, probes.Allowed] = {
    "int8": probes.Allowed(mean_kl=0.01),
    "int8-dynamic": probes.Allowed(mean_kl=0.02),
    "4bit": probes.Allowed(mean_kl=0.25),
}
# Weights of one row that share a scale and an offset in 4 bits.
GROUP = 32
# What torch's kernels take at a time, without checking: the product with int8 weights on a CPU reads past the end of a
# row of another length, the one with 4-bit weights makes outputs 16 at a time, and the one of two int8 matrices on CUDA
# wants more than 16 rows and sizes in eights.
INT8_WIDTH, OUTPUTS_AT_ONCE, LEAST_ROWS, EIGHT = 32, 16, 32, 8


class Shrunk(NamedTuple):
    """What a quantised model holds.

    matrices       how many were replaced
    kept           names of linear layers that stayed as they were, because their sizes don't fit
    bytes_before   of all parameters
    bytes_after    of all parameters and their replacements
    """

    matrices: int
    kept: list[str]
    bytes_before: int
    bytes_after: int


def quantize(model: Model, method: Quantize) -> Shrunk:
    """Replace the linear layers of a model in place; it can only answer afterwards, not learn.

    int8           weights in 8 bits, one scale per output; inputs in bfloat16
    int8-dynamic   inputs in 8 bits too, one scale per row: the fastest on a CPU
    4bit           weights in 4 bits, one scale and offset per 32; the output matrix in 8
    Raises         BadSetting for another method
    """
    if method not in METHODS:
        raise BadSetting(f"there is no quantisation {method!r}", fix=f"choose one of: {', '.join(METHODS)}")
    before = sum(p.numel() * p.element_size() for p in model.parameters())
    make = MAKERS[method]
    matrices, kept = 0, []
    for name, module in list(model.body.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        if method == "4bit" and module.in_features % GROUP:
            kept.append(f"body.{name}")
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.body.get_submodule(parent), child, make(module.weight.detach(), module.bias))
        matrices += 1
    if model.head_name in ("next", "masked"):
        weight_VD, bias_V = model.output
        output = Int8Linear if method == "4bit" else make
        model.packed_output = output(weight_VD.detach(), bias_V)
        if model.head.weight is not None:
            model.head.weight = nn.Parameter(torch.empty_like(weight_VD, device="meta"), requires_grad=False)
        matrices += 1
    model.eval().requires_grad_(False)
    after = sum(p.numel() * p.element_size() for p in model.parameters() if not p.is_meta)
    after += sum(m.n_bytes for m in model.modules() if isinstance(m, Quantised))
    return Shrunk(matrices, kept, before, after)


def quantize_checked(folder: Path, model: Model, method: Quantize) -> None:
    """Quantise a model that was loaded from a folder, say what it costs, and replay the folder's probes.

    Raises   GateRefused when the answers differ too much from the trained model's
    """
    shrunk = quantize(model, method)
    said = f"{method}: {shrunk.bytes_before / 1e6:.1f} MB of parameters became {shrunk.bytes_after / 1e6:.1f} MB"
    if shrunk.kept:
        said += f"; {len(shrunk.kept)} matrices stay as they are, because their width does not divide by {GROUP}"
    if model_folder.about(folder) is None:
        warn(f"{said}; the folder has no stored probes, so the cost in quality is not known")
        return
    say(f"{said}; {probes.replay(folder, model, allowed=ALLOWED[method])}")


class Quantised(nn.Module):
    """A linear layer with a small matrix. `n_bytes` is what the matrix and its scales take."""

    n_bytes: int

    def __init__(self, bias: Tensor | None) -> None:
        super().__init__()
        self.bias = bias

    def product(self, x_NI: Tensor) -> Tensor:
        """x @ W.T in float32, without the bias."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        # torch's kernels take matrices; networks of transformers also bring batches of them.
        x_NI = x if x.dim() == 2 else x.flatten(0, -2)
        out_NO = self.product(x_NI).to(x.dtype)
        out = out_NO if x.dim() == 2 else out_NO.view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


class Int8Linear(Quantised):
    """Weights in int8, one scale per output. The input is rounded to bfloat16, as torch's kernel for a CPU wants it."""

    def __init__(self, weight_OI: Tensor, bias: Tensor | None) -> None:
        super().__init__(bias)
        # The scale is rounded up to bfloat16 first, then the weights are rounded to multiples of that.
        self.scale_O = _up_to_bfloat16(_positive(weight_OI.float().abs().amax(1) / 127))
        self.filler = -weight_OI.shape[1] % INT8_WIDTH
        self.weight_OI = F.pad(_rounded(weight_OI, self.scale_O.float()), (0, self.filler))
        self.n_bytes = self.weight_OI.numel() + 2 * len(self.scale_O)

    def product(self, x_NI: Tensor) -> Tensor:
        x_NI = x_NI.bfloat16()
        if self.filler:
            x_NI = F.pad(x_NI, (0, self.filler))
        if x_NI.device.type == "cpu":
            return torch._weight_int8pack_mm(x_NI, self.weight_OI, self.scale_O)
        return F.linear(x_NI, self.weight_OI.bfloat16()) * self.scale_O


class DynamicInt8Linear(Quantised):
    """Weights in int8, one scale per output, times inputs in int8, one scale per row; sums are whole numbers.

    FBGEMM's kernels, which torch brings for x86, multiply unsigned by signed bytes. Without the VNNI instructions they
    add two such products in 16 bits, and what does not fit is cut off: with plain scales that doubles the error
    (2.2 % instead of 1.0 % on normal weights, measured). Here the scale of an output is so large that no two
    neighbouring weights can overflow; the error is 1.2 %, on every machine.
    """

    def __init__(self, weight_OI: Tensor, bias: Tensor | None) -> None:
        super().__init__(bias)
        weight_OI = weight_OI.float()
        pairs_O = _in_groups(F.pad(weight_OI, (0, weight_OI.shape[1] % 2)), 2).sum(-1).abs().amax(1)
        # 255 * (127 + 1 for rounding) is less than 2^15.
        self.scale_O = _positive(torch.maximum(weight_OI.abs().amax(1), pairs_O) / 127)
        weight_OI = _rounded(weight_OI, self.scale_O)
        self.n_bytes = weight_OI.numel() + 4 * len(self.scale_O)
        self.packed = _fbgemm_pack(weight_OI, self.scale_O) if weight_OI.device.type == "cpu" else None
        self.weight_OI = weight_OI if self.packed is None else None

    def product(self, x_NI: Tensor) -> Tensor:
        x_NI = x_NI.float()
        # A row of zeros becomes a row of anything times zero.
        largest_N1 = x_NI.abs().amax(-1, keepdim=True)
        if self.weight_OI is None:
            return _packed_product(x_NI / largest_N1, self.packed).mul_(largest_N1)
        whole_NI = (x_NI / largest_N1 * 127).round_().to(torch.int8)
        return _whole_product(whole_NI, self.weight_OI).float() * self.scale_O * (largest_N1 / 127)


class FourBitLinear(Quantised):
    """Weights in 4 bits, a scale and an offset per 32 of a row, in bfloat16: 5 bits per weight in all."""

    def __init__(self, weight_OI: Tensor, bias: Tensor | None) -> None:
        super().__init__(bias)
        groups_OGg = _in_groups(weight_OI.float(), GROUP)
        low_OG, high_OG = groups_OGg.amin(-1), groups_OGg.amax(-1)
        scale_OG = _up_to_bfloat16(_positive((high_OG - low_OG) / 15))
        # torch's kernels take the value of code 8 as the offset.
        offset_OG = (low_OG + 8 * scale_OG.float()).bfloat16()
        codes_OGg = (groups_OGg - offset_OG.float()[..., None]) / scale_OG.float()[..., None]
        codes_OI = codes_OGg.round_().add_(8).clamp_(0, 15).flatten(1).to(torch.int32)
        self.scales_GO2 = torch.stack((scale_OG, offset_OG), -1).transpose(0, 1).contiguous()
        self.fast = weight_OI.device.type == "cpu" and len(weight_OI) % OUTPUTS_AT_ONCE == 0
        if self.fast:
            self.codes = torch._convert_weight_to_int4pack_for_cpu(codes_OI, 1)
        else:
            self.codes = (codes_OI[:, ::2] | codes_OI[:, 1::2] << 4).to(torch.uint8)
        self.n_bytes = self.codes.numel() + 2 * self.scales_GO2.numel()

    def product(self, x_NI: Tensor) -> Tensor:
        x_NI = x_NI.bfloat16()
        if self.fast:
            out_NO: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x_NI, self.codes, GROUP, self.scales_GO2)
            return out_NO
        codes_OI = torch.stack((self.codes & 15, self.codes >> 4), -1).flatten(1)
        scale_OG1, offset_OG1 = self.scales_GO2.permute(2, 1, 0).unsqueeze(-1)
        weight_OGg = (_in_groups(codes_OI.bfloat16(), GROUP) - 8) * scale_OG1 + offset_OG1
        return F.linear(x_NI, weight_OGg.flatten(1))


MAKERS: dict[Quantize, Callable[[Tensor, Tensor | None], Quantised]] = {
    "int8": Int8Linear,
    "int8-dynamic": DynamicInt8Linear,
    "4bit": FourBitLinear,
}


def _whole_product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """The exact product of int8 matrices, int32."""
    n, width = x_NI.shape
    outputs = len(weight_OI)
    x_NI = F.pad(x_NI, (0, -width % EIGHT, 0, max(0, LEAST_ROWS - n)))
    weight_OI = F.pad(weight_OI, (0, -width % EIGHT, 0, -outputs % EIGHT))
    return torch._int_mm(x_NI, weight_OI.t())[:n, :outputs]


def _fbgemm_pack(weight_OI: Tensor, scale_O: Tensor) -> Any:
    """The int8 weights in FBGEMM's layout; None on machines without it."""
    return _pack(weight_OI, scale_O) if _fbgemm_works() else None


@cache
def _fbgemm_works() -> bool:
    """Whether FBGEMM is there and computes what it should: torch means to move it to another package."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    weight_OI = torch.arange(-60, 60, dtype=torch.int8).view(8, 15)
    x_NI = torch.linspace(-1, 1, 30).view(2, 15)
    try:
        given_NO = _packed_product(x_NI, _pack(weight_OI, torch.ones(8)))
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(given_NO, (x_NI * 127).round() / 127 @ weight_OI.float().t(), atol=1e-3)


def _pack(weight_OI: Tensor, scale_O: Tensor) -> Any:
    zero_O = torch.zeros(len(scale_O), dtype=torch.int64)
    with _engine("fbgemm"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rows = torch._make_per_channel_quantized_tensor(weight_OI, scale_O.double(), zero_O, 0)
        return torch.ops.quantized.linear_prepack(rows, None)


def _packed_product(x_NI: Tensor, packed: Any) -> Tensor:
    """x @ W.T, the input rounded to 127ths with zero at 128. Values are between -1 and 1."""
    out_NO: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default(
        x_NI, 1 / 127, 128, packed
    )
    return out_NO


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """torch packs for the engine that is chosen for the whole process; it is set back."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def _rounded(weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    return (weight_OI.float() / scale_O[:, None]).round_().clamp_(-127, 127).to(torch.int8)


def _in_groups(matrix_OI: Tensor, size: int) -> Tensor:
    return matrix_OI.view(len(matrix_OI), -1, size)


def _positive(scale: Tensor) -> Tensor:
    """A row of zeros has the scale 1, so that nothing is divided by zero."""
    return scale.where(scale > 0, 1.0)


def _up_to_bfloat16(scale: Tensor) -> Tensor:
    """The next bfloat16 that is not smaller, so that the largest value still fits: bits of a positive number ascend."""
    return ((scale.view(torch.int32) + 0xFFFF) & ~0xFFFF).view(torch.float32).bfloat16()
