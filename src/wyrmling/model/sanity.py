"""Does a model that somebody else made read text at all? Weights can fit a config.json in every shape and be wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from wyrmling.core.errors import BadInput, GateRefused
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model

# Enough for a mean that is far from the bound on either side, little enough for a second of CPU time.
SANITY_TOKENS = 2048
# An untrained model guesses and is as good as nothing; wrong weights are sure of wrong tokens. Real stories: 11.5 nats
# with matrices stored transposed, 6.2 by guessing, 1.3 with the right weights.
MARGIN_NATS = 1.0


class Sanity(NamedTuple):
    """loss: nats per token of the text. guessing: nats of a guess among all tokens. tokens: how many were scored."""

    loss: float
    guessing: float
    tokens: int


@torch.no_grad()
def check(model: Model, documents: Sequence[Sequence[int]], *, where: object = None) -> Sanity:
    """The next-token loss on typical documents; the first ones are used, cut to the context.

    Any model that was trained with this tokenizer beats a guess among all tokens, in every language and domain.
    Raises   GateRefused when it is clearly worse than the guess; BadInput when no document has two tokens
    """
    pieces: list[list[int]] = []
    room = SANITY_TOKENS
    for document in documents:
        ids = list(document[: min(model.config.context, room)])
        if len(ids) > 1:
            pieces.append(ids)
            room -= len(ids)
        if room < 2:
            break
    if not pieces:
        raise BadInput("a model can't be checked on texts of less than two tokens", where=where)
    segments = Segments([len(ids) for ids in pieces])
    tokens_N = torch.tensor([id for ids in pieces for id in ids], device=model.body.embedding.weight.device)
    last_S = segments.starts_S(tokens_N.device) + torch.tensor(segments.lengths, device=tokens_N.device) - 1
    asked = torch.ones(len(tokens_N), dtype=torch.bool, device=tokens_N.device)
    asked[last_S] = False
    rows_R = asked.nonzero().squeeze(1)
    logits_RV = model.eval().logits(tokens_N, segments, rows_R).float()
    loss = float(F.cross_entropy(logits_RV, tokens_N[rows_R + 1]))
    n_tokens = model.config.tokens or model.config.vocab_size
    guessing = math.log(n_tokens)
    # A loss that is not a number fails too.
    if not loss < guessing + MARGIN_NATS:
        raise GateRefused(
            f"the model reads text worse than guessing: {loss:.2f} nats per token over {len(rows_R):,} tokens, where a "
            f"guess among its {n_tokens:,} tokens costs {guessing:.2f}. Its tensors fit config.json in shape, but not "
            "in order: matrices stored transposed, heads in another layout, or the tokenizer of another model",
            where=where,
            fix="convert the checkpoint again with a converter for its format, or get it from its origin",
        )
    return Sanity(loss, guessing, len(rows_R))
