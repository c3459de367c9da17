"""A model's name, such as 135M, to its layers, width and heads; and what the presets are.

The rule: the embedding is also the output matrix below 1B; a head is 64 wide, 128 from width 2048 on, where four query
heads share a key head; from width 4096 on the key heads are a multiple of 8, so that 2, 4 or 8 devices share them; a
gated feed-forward layer is 8/3 as wide as the stream, a plain one 4 times. Each width gets as many layers as bring the
weights nearest to the name. Of those within 10 % of it, with a fifth of the weights in blocks, the one is taken that is
nearest in size and in width per layer: 64 (nanochat), or 128 from 1B on (Llama 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from wyrmling.core.errors import BadSetting

Preset = Literal["compat", "llama", "palm", "encoder"]

# How far from its name a size may end up, how much 1 % of it weighs against 10 % of width per layer, and the smallest
# share of the blocks.
FARTHEST, SIZE_WEIGHT, LEAST_BLOCKS = 0.10, 10.0, 0.2
# A taller stack than this is nobody's.
LEAST_WIDTH_PER_LAYER = 16
WIDTHS = (
    *range(32, 256, 32),
    *range(256, 1024, 64),
    *range(1024, 2048, 128),
    *range(2048, 4096, 512),
    *range(4096, 16_385, 1024),
)


@dataclass(frozen=True)
class Kind:
    """What a preset builds.

    what    in words
    keys    key heads: as many as query heads, a quarter of them in wide models, or one
    gated   the feed-forward layer is
    tied    the embedding is the output matrix whatever the size
    """

    family: Literal["qwen3", "llama", "falcon", "modernbert"]
    what: str
    keys: Literal["all", "quarter", "one"] = "quarter"
    gated: bool = True
    causal: bool = True
    tied: bool = False


PRESETS: dict[Preset, Kind] = {
    "compat": Kind("qwen3", "a decoder (Qwen3)"),
    "llama": Kind("llama", "a decoder (Llama)"),
    "palm": Kind("falcon", "a decoder with parallel blocks and one key head (PaLM's; Falcon)", "one", False, tied=True),
    "encoder": Kind("modernbert", "a bidirectional encoder (ModernBERT)", "all", causal=False, tied=True),
}


class Sized(NamedTuple):
    """The sizes that a name stands for; `parameters` are the weights of all matrices."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    tied: bool
    parameters: int


def parse(size: str) -> float:
    """Weights that a name such as 5M or 1.5B stands for."""
    return float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]


def heads_of(width: int, head_width: int) -> int:
    """Heads of about this width; at least 2, and of equal even width."""
    heads = max(2, width // head_width)
    while width % heads or (width // heads) % 2:
        heads -= 1
    return heads


def ffn_of(kind: Kind, width: int) -> int:
    """Width of the feed-forward layer: a gated one of 8/3 costs as much as a plain one of 4."""
    return 16 * round(width * 8 / 3 / 16) if kind.gated else 4 * width


def width_per_layer(size: str) -> int:
    return 128 if parse(size) >= 1e9 else 64


def sized(size: str, kind: Kind, vocab_size: int) -> Sized:
    """The sizes of a name, by the rule above.

    vocab_size  rows of the embedding
    Raises      BadSetting when the embedding leaves no room for blocks
    """
    wanted = parse(size)
    tied = wanted < 1e9 or kind.tied

    def distance(found: Sized) -> float:
        off = abs(found.parameters / wanted - 1)
        return abs(math.log(found.width / found.layers / width_per_layer(size))) + SIZE_WEIGHT * off

    fitting = [
        found
        for width in WIDTHS
        if abs((found := _with_width(width, wanted, kind, vocab_size, tied)).parameters / wanted - 1) <= FARTHEST
        and vocab_size * width * (1 if tied else 2) <= (1 - LEAST_BLOCKS) * wanted
        and width >= LEAST_WIDTH_PER_LAYER * found.layers
    ]
    if not fitting:
        raise BadSetting(
            f'model.size = "{size}" leaves no room for blocks beside a vocabulary of {vocab_size:,} tokens',
            where="model.size",
            fix="choose a larger size, or a smaller tokenizer.vocab_size",
        )
    return min(fitting, key=distance)


def _with_width(width: int, wanted: float, kind: Kind, vocab_size: int, tied: bool) -> Sized:
    heads, ffn = heads_of(width, 128 if width >= 2048 else 64), ffn_of(kind, width)
    quarter = heads // 4 if width >= 2048 else heads
    if width >= 4096:
        quarter = max(keys for keys in range(8, quarter + 1, 8) if heads % keys == 0)
    kv_heads = {"all": heads, "quarter": quarter, "one": 1}[kind.keys]
    attention = width * (width // heads) * (2 * heads + 2 * kv_heads)
    layer = attention + (3 if kind.gated else 2) * width * ffn
    embedding = vocab_size * width * (1 if tied else 2)
    layers = max(2, round((wanted - embedding) / layer))
    return Sized(layers, width, heads, kv_heads, ffn, tied, layers * layer + embedding)
