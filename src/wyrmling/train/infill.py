"""Fill in the middle: a stretch of text is cut in three, and its middle is moved to the end to be learned last.

Source   Bavarian 2022 (arXiv 2207.14255). A stretch is cut between tokens; the paper cuts between characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wyrmling.config import TrainStep
from wyrmling.core.errors import BadSetting
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.train.order import Array

# How vocabularies spell (prefix, middle, suffix): ours and Qwen's, StarCoder's, DeepSeek's, CodeLlama's.
SPELLINGS = (
    ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    ("<fim_prefix>", "<fim_middle>", "<fim_suffix>"),
    ("<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜fim▁hole｜>"),
    ("▁<PRE>", "▁<MID>", "▁<SUF>"),
)


@dataclass(frozen=True)
class Infill:
    """How often stretches are rearranged, and the tokens that say so.

    rate    share of the stretches
    spm     share of these in the order suffix, prefix, middle; the others are prefix, suffix, middle
    """

    rate: float
    spm: float
    prefix_id: int
    middle_id: int
    suffix_id: int
    ADDED: ClassVar[int] = 3
    """Tokens that a rearranged stretch has more."""

    def apply(self, tokens: Array, learn: Array, draws: Array, *, opened: bool, ended: bool) -> tuple[Array, Array]:
        """The stretch as it is learned, and which of its tokens are targets.

        draws           four numbers in [0, 1): whether to rearrange, in which order, and the two cuts
        opened, ended   the first token opens the document, the last ends it: these stay where they are, so that the
                        end of the text is learned after the middle
        """
        first, last = int(opened), len(tokens) - int(ended)
        if draws[0] >= self.rate or last - first < 1:
            return tokens, learn
        cuts = first + np.sort((draws[2:] * (last - first + 1)).astype(np.int64))
        whole = np.stack([tokens, learn.astype(np.int64)])
        head, prefix, middle, suffix, tail = np.split(whole, [first, *cuts, last], axis=1)
        prefix_mark, middle_mark, suffix_mark = (
            np.array([[id_], [1]]) for id_ in (self.prefix_id, self.middle_id, self.suffix_id)
        )
        if draws[1] < self.spm:
            order = (prefix_mark, suffix_mark, suffix, middle_mark, prefix, middle)
        else:
            order = (prefix_mark, prefix, suffix_mark, suffix, middle_mark, middle)
        moved = np.concatenate([head, *order, tail], axis=1)
        return moved[0], moved[1].astype(bool)


def infill_for(step: TrainStep, tokenizer: Tokenizer) -> Infill | None:
    """How texts are rearranged to learn to fill in the middle; None: not at all.

    Raises   BadSetting when the tokenizer has no tokens for it
    """
    if step.fim_rate == 0:
        return None
    known = tokenizer.special_ids
    for spelled in SPELLINGS:
        if all(token in known for token in spelled):
            prefix, middle, suffix = (known[token] for token in spelled)
            return Infill(step.fim_rate, step.fim_spm_rate, prefix, middle, suffix)
    raise BadSetting(
        "the tokenizer of the base model has no tokens for filling in the middle",
        where=f"train.{step.name}.fim_rate",
        fix=f"leave fim_rate out, or train from scratch: the tokenizer then gets {', '.join(SPELLINGS[0])}",
    )
