"""Text embeddings: one vector per document, from any body.

An encoder folder without a head (MiniLM and other sentence-transformers models) says itself how it pools; any other
model's hidden states can be pooled too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wyrmling.core.errors import BadInput
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model, Pooling, pool
from wyrmling.model.json_files import read_json, write_json

# Where sentence-transformers keeps how hidden states become one vector.
POOLING = Path("1_Pooling") / "config.json"
MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
# Tokens of one forward pass.
BATCH_TOKENS = 8192


@torch.no_grad()
def embed(
    model: Model,
    documents: Sequence[Sequence[int]],
    *,
    pooling: Pooling | None = None,
    normalise: bool = True,
) -> Tensor:
    """One vector per document, (S, D) float32 on the CPU, in the order of the documents.

    documents  token ids, with the tokens that the tokenizer puts around a text
    pooling    first, mean or last hidden state. None: the model's own way, or the mean
    normalise  vectors of length 1, so that their product is the cosine
    Raises     BadInput for an empty document or one longer than the context
    """
    if any(len(ids) == 0 for ids in documents):
        raise BadInput("a document without tokens has no embedding", fix="leave empty texts out")
    pooling = pooling or model.config.pooling or "mean"
    device = model.body.embedding.weight.device
    vectors = torch.empty(len(documents), model.config.width)
    for batch in _batches([len(ids) for ids in documents]):
        tokens_N = torch.tensor([id for i in batch for id in documents[i]], device=device)
        pooled_SD = pool(model.eval().body, tokens_N, Segments([len(documents[i]) for i in batch]), pooling).float()
        vectors[torch.tensor(batch)] = (F.normalize(pooled_SD, dim=-1) if normalise else pooled_SD).cpu()
    return vectors


def _batches(lengths: list[int]) -> list[list[int]]:
    """Documents of about equal length together, so that they pack without filler."""
    batches: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if room < lengths[i]:
            batches.append([])
            room = BATCH_TOKENS
        batches[-1].append(i)
        room -= lengths[i]
    return batches


def read_pooling(folder: Path) -> Pooling | None:
    """How a sentence-transformers folder pools; None when it does not say.

    Raises   BadInput for a way that is not implemented
    """
    if not (folder / POOLING).is_file():
        return None
    raw = read_json(folder / POOLING)
    modes = sorted(key for key, on in raw.items() if key.startswith("pooling_mode_") and on)
    if len(modes) != 1 or modes[0] not in MODES:
        raise BadInput(
            f"{POOLING} asks for {' and '.join(modes) or 'no pooling'}, which wyrmling can't compute",
            where=folder,
            fix=f"use a model with one of {', '.join(MODES)}",
        )
    return MODES[modes[0]]


def write_pooling(folder: Path, model: Model) -> None:
    """Keep how a model without a head pools, as sentence-transformers does."""
    modes = {key: pooling == (model.config.pooling or "mean") for key, pooling in MODES.items()}
    (folder / POOLING).parent.mkdir(exist_ok=True)
    write_json(folder / POOLING, {"word_embedding_dimension": model.config.width} | modes)
