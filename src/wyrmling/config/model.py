"""`[model]`: what training starts from, or the shape of a new model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wyrmling.config.section import Section


class RemoteBase(Section):
    """Where `base = "openai:MODEL"` is trained and asked; nothing is sent without --spend."""

    url: str | None = Field(default=None, pattern=r"^https?://")
    """Where the OpenAI-compatible API begins, such as "http://127.0.0.1:8000/v1"."""
    key: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; without it requests carry none."""
    usd_per_million_training: float | None = Field(default=None, ge=0)
    """Price of a million tokens learned from, counted once per epoch, in US dollars. None: 0 on this machine."""
    usd_per_million_input: float | None = Field(default=None, ge=0)
    """Price of a million tokens that the trained model reads. None: 0 on this machine."""
    usd_per_million_output: float | None = Field(default=None, ge=0)
    """Price of a million tokens that it writes. None: 0 on this machine."""
    at_once: int = Field(default=4, ge=1)
    """Test rows asked at the same time."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """A request that takes longer is sent again, three times in all."""


REMOTE = "openai:"


class Model(Section):
    base: str = "scratch"
    """The model to start from: "scratch", a model folder, ORGANISATION/NAME of the Hugging Face hub, a registry name of
    this project, or openai:MODEL, which is trained behind the API of `[model.remote]`."""
    remote: RemoteBase = RemoteBase()
    revision: str | None = Field(default=None, min_length=1)
    """The commit, tag or branch of a base from the hub. None: its main branch as it was first downloaded."""
    preset: Literal["compat", "llama", "palm", "encoder"] | None = None
    """What to build from scratch: compat (Qwen3's blocks), llama, palm (parallel blocks, one key head) or encoder
    (ModernBERT). None: compat when a step learns to write, else encoder."""
    size: str | None = Field(default=None, pattern=r"^[1-9]\d*(\.\d+)?[MB]$")
    """The weights to start with, such as "20M" or "1B"; layers, width and heads follow. None: from the text."""
    layers: int | None = Field(default=None, ge=1)
    """Transformer blocks. None: from the amount of training text and the budget."""
    width: int | None = Field(default=None, ge=16, multiple_of=16)
    """Size of the hidden state. None: 64 per layer, within the budget."""
    heads: int | None = Field(default=None, ge=1)
    """Attention heads. None: width / 64, at least 2."""
    kv_heads: int | None = Field(default=None, ge=1)
    """Key and value heads (grouped-query attention). None: as many as heads."""
    ffn: int | None = Field(default=None, ge=16)
    """Size of the feed-forward layer. None: about 8/3 of the width."""
    context: int | None = Field(default=None, ge=8)
    """The longest text in tokens. None: from the lengths in the training data."""
    tied: bool | None = None
    """The embedding is also the output matrix. None: as preset and size have it."""
    zero_init: bool = True
    """Output matrices of attention and feed-forward layers start at zero, so that each block starts as the identity."""

    @property
    def behind(self) -> str | None:
        """The name of the model that is trained behind an API; None for one that is trained here."""
        return self.base.removeprefix(REMOTE) if self.base.startswith(REMOTE) else None
