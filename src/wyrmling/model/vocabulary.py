"""New tokens for a trained model: each begins as the mean of the tokens that spelled it before.

Source   the start of new tokens as a mean of old ones: Hewitt 2021, Initializing new word embeddings
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wyrmling.core.errors import BadInput
from wyrmling.model.heads import Model
from wyrmling.model.transformer import padded_vocab


@torch.no_grad()
def extend(model: Model, new: Mapping[int, Sequence[int]], *, tokens: int) -> Model:
    """A model with rows for more tokens; for old tokens it answers as before.

    new      id of each new token -> the old ids that stood for it
    tokens   ids of the tokenizer, the new ones included
    Raises   BadInput when a new token stands for ids that the model does not have
    """
    known = model.config.vocab_size
    for token, pieces in new.items():
        if not pieces or max(pieces) >= known or not 0 <= token < tokens:
            raise BadInput(
                f"the new token {token} stands for {list(pieces)}, but the model has {known} tokens",
                where="vocab_extension.json",
                fix="make the tokenizer artifact again with this base model",
            )
    config = replace(model.config, vocab_size=max(known, padded_vocab(tokens)), tokens=tokens)
    n_classes = model.n_out if model.head_name in ("classes", "tags") else 0
    with torch.device("meta"):
        grown = Model(config, model.head_name, n_classes, seed=None)
    state = model.state_dict()
    tables = {"body.embedding.weight"} | ({"head.weight", "head.bias"} if n_classes == 0 else set())
    for name in tables & state.keys():
        state[name] = _grown(state[name], config.vocab_size, new)
    grown.load_state_dict(state, assign=True)
    return grown.requires_grad_(True).train(model.training)


def _grown(table: Tensor, rows: int, new: Mapping[int, Sequence[int]]) -> Tensor:
    grown = table.new_zeros(rows, *table.shape[1:])
    grown[: len(table)] = table
    for token, pieces in new.items():
        grown[token] = table[list(pieces)].mean(dim=0)
    return grown
