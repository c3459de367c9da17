"""How a model knows the order of its tokens: rotary angles with their published scalings, and ALiBi slopes.

Letters: P places, H heads, K head width, k pairs of dimensions that turn together, r = 2k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ScalingType = Literal["linear", "llama3", "yarn", "longrope"]


@dataclass(frozen=True)
class Scaling:
    """Rotary frequencies stretched for longer texts; the fields have the names of a config.json's rope parameters."""

    rope_type: ScalingType
    factor: float
    original_max_position_embeddings: int = 0
    """The context before stretching (llama3, yarn, longrope)."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    """Factor of cosine and sine (yarn, longrope). None: by the method's own formula."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    short_factor: tuple[float, ...] = ()
    """longrope: what divides each frequency within the original context."""
    long_factor: tuple[float, ...] = ()
    """longrope: the same beyond it; kept for the file, as we stay within."""


@dataclass(frozen=True)
class Rope:
    """Rotary positions of a layer: base theta, how many dimensions of each head turn, and the scaling."""

    theta: float
    width: int
    scaling: Scaling | None = None

    def rotation(self, positions_P: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles at each position, both (P, 1, r) float32, as `rotate` takes them.

        The first half of the sines has its sign changed: that is the half that the other dimensions are taken off.
        """
        inverse_k, magnitude = self.frequencies()
        angles_P1k = (positions_P.float()[:, None] * inverse_k.to(positions_P.device)).unsqueeze(1)
        cos, sin = angles_P1k.cos() * magnitude, angles_P1k.sin() * magnitude
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def frequencies(self) -> tuple[Tensor, float]:
        """Radians per position of each pair, (k,) float32, and the factor of cosine and sine."""
        powers_k = self.theta ** (torch.arange(0, self.width, 2, dtype=torch.float32) / self.width)
        if self.scaling is None:
            return 1.0 / powers_k, 1.0
        if self.scaling.rope_type == "linear":
            return 1.0 / powers_k / self.scaling.factor, 1.0
        if self.scaling.rope_type == "llama3":
            return _llama3(1.0 / powers_k, self.scaling), 1.0
        if self.scaling.rope_type == "yarn":
            return self._yarn(powers_k, self.scaling), _yarn_magnitude(self.scaling)
        return 1.0 / (torch.tensor(self.scaling.short_factor) * powers_k), longrope_magnitude(self.scaling)

    def _yarn(self, powers_k: Tensor, scaling: Scaling) -> Tensor:
        """Slow pairs stretched, fast ones kept, a ramp between (Peng et al. 2023, arXiv 2309.00071, section 3)."""

        def pair_that_turns(times: float) -> float:
            length = scaling.original_max_position_embeddings / (times * 2 * math.pi)
            return self.width * math.log(length) / (2 * math.log(self.theta))

        low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
        if scaling.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.width - 1)
        # The published code widens an empty ramp by a thousandth.
        ramp_k = (torch.arange(self.width // 2, dtype=torch.float32) - low) / (high - low or 0.001)
        keep_k = 1 - ramp_k.clamp(0, 1)
        return 1.0 / (scaling.factor * powers_k) * (1 - keep_k) + 1.0 / powers_k * keep_k


def _llama3(inverse_k: Tensor, scaling: Scaling) -> Tensor:
    """Long wavelengths stretched, short ones kept, a blend between (the Llama 3.1 release)."""
    wavelength_k = 2 * math.pi / inverse_k
    original, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    keep_k = (original / wavelength_k - low) / (high - low)
    blend_k = (1 - keep_k) * inverse_k / scaling.factor + keep_k * inverse_k
    blend_k = torch.where(wavelength_k > original / low, inverse_k / scaling.factor, blend_k)
    return torch.where(wavelength_k < original / high, inverse_k, blend_k)


def _yarn_magnitude(scaling: Scaling) -> float:
    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return magnitude(scaling.mscale) / magnitude(scaling.mscale_all_dim)
    return magnitude(1.0)


def longrope_magnitude(scaling: Scaling) -> float:
    """Factor of cosine and sine (Ding et al. 2024, LongRoPE, arXiv 2402.13753, as in Phi-3)."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_max_position_embeddings))


def rotate(x_PHK: Tensor, cos_P1r: Tensor, sin_P1r: Tensor) -> Tensor:
    """Rotary positions in the halves layout: dimension i turns together with dimension i + k; those after 2k stay.

    Source   Su et al. 2021, RoFormer (arXiv 2104.09864); halves as in GPT-NeoX and Llama checkpoints
    """
    turning = cos_P1r.shape[-1]
    if turning < x_PHK.shape[-1]:
        return torch.cat((rotate(x_PHK[..., :turning], cos_P1r, sin_P1r), x_PHK[..., turning:]), dim=-1)
    return torch.addcmul(x_PHK * cos_P1r, x_PHK.roll(turning // 2, -1), sin_P1r)


def alibi_slopes(heads: int) -> Tensor:
    """What each head takes off a score per token of distance, (H,) float32.

    Source   Press et al. 2021, Train short, test long (arXiv 2108.12409), with its rule for other than powers of two
    """
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * i / power) for i in range(1, power + 1)]
    slopes += [2.0 ** (-4.0 * i / power) for i in range(1, 2 * (heads - power) + 1, 2)]
    return torch.tensor(slopes)
