"""Classes of texts and tags of words, many texts in one forward pass of flat tokens.

Tokens are made as for training: a text is opened, encoded and ended; a word is encoded with the space before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from wyrmling.core.errors import BadInput
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.serve.responses import Classified, Entity, Tagged
from wyrmling.tokenizer.tokenizer import Tokenizer

# One forward pass holds about this many tokens: enough to fill two cores, little enough to answer others in between.
TOKENS_PER_PASS = 4096

# Links, @names and #topics stay whole, as do words with an inner apostrophe, hyphen or point; other signs stand alone.
_WORD = re.compile(r"https?://\S+|[@#]?\w+(?:[.'’&-]\w+)*|[^\w\s]")


class TooLong(BadInput):
    """A text has more tokens than the model reads."""

    def __init__(self, tokens: int, context: int) -> None:
        super().__init__(
            f"this text has {tokens} tokens, but the model reads at most {context}",
            fix="shorten or split it, or train with a larger model.context",
        )
        self.tokens, self.context = tokens, context


@dataclass(frozen=True)
class Row:
    """The tokens of one text; for tagging also its words and where each word's first token is."""

    tokens: list[int]
    words: tuple[str, ...] = ()
    firsts: tuple[int, ...] = ()


def split_words(text: str) -> list[str]:
    """The words of a text for tagging: punctuation stands alone."""
    return _WORD.findall(text)


def text_row(tokenizer: Tokenizer, text: str, context: int) -> Row:
    """The row of a text to classify. Raises TooLong."""
    return _checked(Row(tokenizer.document(text)), context)


def words_row(tokenizer: Tokenizer, words: Sequence[str], context: int) -> Row:
    """The row of a text to tag, given as words. Raises TooLong; BadInput for an empty word or none at all."""
    if not words or not all(word.strip() for word in words):
        raise BadInput("there is no word to tag", fix="give at least one word, and no empty ones")
    ids, firsts = tokenizer.encode_words(words)
    opening = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ending = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    row = Row(opening + ids + ending, tuple(words), tuple(first + len(opening) for first in firsts))
    return _checked(row, context)


def _checked(row: Row, context: int) -> Row:
    if len(row.tokens) > context:
        raise TooLong(len(row.tokens), context)
    if not row.tokens:
        raise BadInput("this text is empty", fix="give a text with at least one word")
    return row


def passes(rows: Sequence[Row], tokens_per_pass: int = TOKENS_PER_PASS) -> Iterator[list[int]]:
    """Indices of the rows, cut into forward passes; rows of like length together, so that little is wasted."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].tokens))
    chosen: list[int] = []
    tokens = 0
    for index in order:
        if chosen and tokens + len(rows[index].tokens) > tokens_per_pass:
            yield chosen
            chosen, tokens = [], 0
        chosen.append(index)
        tokens += len(rows[index].tokens)
    if chosen:
        yield chosen


@torch.inference_mode()
def probabilities(model: Model, rows: Sequence[Row], *, several: bool = False) -> list[list[list[float]]]:
    """One forward pass. classes: one distribution per row; tags: one per word of each row.

    several   a text may have several labels: each has a probability for itself
    """
    device = model.body.embedding.weight.device
    tokens_N = torch.tensor([token for row in rows for token in row.tokens], device=device)
    wanted_R = None
    if model.head_name == "tags":
        wanted, start = [], 0
        for row in rows:
            wanted += [start + first for first in row.firsts]
            start += len(row.tokens)
        wanted_R = torch.tensor(wanted, device=device)
    logits_RC = model.logits(tokens_N, Segments([len(row.tokens) for row in rows]), wanted_R)
    wide_RC = logits_RC.double()
    shares: list[list[float]] = (wide_RC.sigmoid() if several else wide_RC.softmax(-1)).tolist()
    if model.head_name == "classes":
        return [[share] for share in shares]
    answers, at = [], 0
    for row in rows:
        answers.append(shares[at : at + len(row.firsts)])
        at += len(row.firsts)
    return answers


def classified(labels: Sequence[str], index: int, shares: Sequence[float], *, several: bool = False) -> Classified:
    """The likeliest label and the probability of every label, likeliest first; of several, those likelier than not."""
    ranked = sorted(zip(labels, shares, strict=True), key=lambda pair: -pair[1])
    chosen = [label for label, share in ranked if share >= 0.5] if several else [ranked[0][0]]
    return Classified(index=index, label=ranked[0][0], labels=chosen, probabilities=dict(ranked))


def tagged(tags: Sequence[str], index: int, words: Sequence[str], shares: Sequence[Sequence[float]]) -> Tagged:
    """The likeliest tag of each word, and the entities that these make."""
    best = [max(range(len(tags)), key=share.__getitem__) for share in shares]
    names = [tags[i] for i in best]
    probabilities = [share[i] for share, i in zip(shares, best, strict=True)]
    return Tagged(
        index=index,
        words=list(words),
        tags=names,
        probabilities=probabilities,
        entities=entities(words, names, probabilities),
    )


def entities(words: Sequence[str], tags: Sequence[str], probabilities: Sequence[float]) -> list[Entity]:
    """The entities of BIO tags. An I- tag without a beginning starts one, as in the CoNLL evaluation."""
    found: list[Entity] = []
    for at, (tag, probability) in enumerate(zip(tags, probabilities, strict=True)):
        kind, _, label = tag.partition("-")
        if tag == "O":
            continue
        last = found[-1] if found else None
        if kind == "I" and last is not None and last.end == at and last.label == label:
            start, least = last.start, min(last.probability, probability)
            found.pop()
        else:
            start, least = at, probability
        text = " ".join(words[start : at + 1])
        found.append(Entity(label=label, text=text, start=start, end=at + 1, probability=least))
    return found
