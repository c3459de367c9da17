"""New tokens for the tokenizer of a base model: merges learned from the project's text, appended to its own.

A new merge ranks below all of the base's, so a text is first encoded as the base would, and then neighbours are joined:
every new token stands for a fixed run of the base's tokens, its pieces. `vocab_extension.json` names them, and the
model begins with the mean of their rows. Knows nothing of models.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from wyrmling.core.artifact import write_durably
from wyrmling.core.errors import BadSetting
from wyrmling.tokenizer import bpe
from wyrmling.tokenizer.tokenizer import TOKENIZER_FILE

EXTENSION_FILE = "vocab_extension.json"

# Words are cut by `tokenizers`, at 1 to 3 MB a second; more text hardly changes which pairs are frequent.
MAX_CORPUS_BYTES = 20_000_000
# A pair that occurs once says nothing about the next text.
_MIN_COUNT = 2

Pair = tuple[int, int]


class NewToken(NamedTuple):
    """A token to add: how the vocabulary spells it, the base's ids it stands for, and the two tokens it is merged from.

    merge   None for a special token, which is found as it stands
    """

    spelled: str
    pieces: tuple[int, ...]
    merge: tuple[str, str] | None


def extend(folder: Path, texts: Iterable[str], n: int, special_tokens: Sequence[str]) -> list[NewToken]:
    """Add up to `n` learned tokens and the special ones to the tokenizer.json in `folder`; what was added, in id order.

    texts   gone through once
    Fewer are added when no pair of tokens inside a word occurs twice any more, or when the base has a special token.
    Raises   BadSetting when the tokenizer is not a byte-level BPE.
    """
    path = folder / TOKENIZER_FILE
    document = json.loads(path.read_text(encoding="utf-8"))
    base = tokenizers.Tokenizer.from_str(json.dumps(document))
    if document["model"]["type"] != "BPE" or "ByteLevel" not in str(base.decoder) or base.pre_tokenizer is None:
        raise BadSetting(
            "only a byte-level BPE tokenizer can be given new tokens; that of model.base is another kind",
            where="tokenizer.extend" if n else "tokenizer.special_tokens",
            fix="leave the setting out, or choose a base such as GPT-2, Llama 3 or Qwen",
        )
    known = base.get_vocab(with_added_tokens=True)
    base.encode_special_tokens = True
    specials = [
        NewToken(token, tuple(base.encode(token, add_special_tokens=False).ids), None)
        for token in special_tokens
        if token not in known
    ]
    new = [*_learn(base, texts, n), *specials]
    if new or special_tokens:
        base_size = max(known.values()) + 1
        extended = _extended(document, base, new, base_size)
        _recognise(extended, special_tokens)
        write_durably(path, json.dumps(extended, ensure_ascii=False).encode())
    if new:
        entries = [{"id": base_size + at, "pieces": list(token.pieces)} for at, token in enumerate(new)]
        record = {"base_vocab_size": base_size, "new": entries}
        write_durably(folder / EXTENSION_FILE, json.dumps(record).encode())
    return new


def _extended(document: dict[str, Any], base: tokenizers.Tokenizer, new: list[NewToken], first: int) -> dict[str, Any]:
    model = document["model"]
    # `tokenizers` numbers an added token anew unless the vocabulary has it: as that grows, their ids must be said.
    model["vocab"] |= {token.content: id_ for id_, token in base.get_added_tokens_decoder().items()}
    model["vocab"] |= {token.spelled: first + at for at, token in enumerate(new)}
    in_pairs = not model["merges"] or isinstance(model["merges"][0], list)
    model["merges"] += [list(t.merge) if in_pairs else " ".join(t.merge) for t in new if t.merge is not None]
    return document


def _recognise(document: dict[str, Any], special_tokens: Sequence[str]) -> None:
    """Have tokens found wherever they stand, unless the base does that already."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    there = {token["content"] for token in document["added_tokens"]}
    document["added_tokens"] += [
        {"id": document["model"]["vocab"][token], "content": token, **plain}
        for token in special_tokens
        if token not in there
    ]


def _learn(base: tokenizers.Tokenizer, texts: Iterable[str], n: int) -> list[NewToken]:
    """Up to `n` tokens from the most frequent pairs of tokens inside words, each pair as frequent as it was by then."""
    if n == 0:
        return []
    model, taken = base.model, base.get_vocab(with_added_tokens=True)
    spelled = {id_: token for token, id_ in taken.items()}
    pieces: dict[int, tuple[int, ...]] = {}
    first = max(taken.values()) + 1
    new: list[NewToken] = []
    words = [
        ([token.id for token in model.tokenize(word)], count) for word, count in sorted(_words(base, texts).items())
    ]
    joins = _Joins([(ids, count) for ids, count in words if len(ids) > 1])
    while len(new) < n and (pair := joins.most_frequent()) is not None:
        left, right = pair
        token = spelled[left] + spelled[right]
        made_of = pieces.get(left, (left,)) + pieces.get(right, (right,))
        # A token that exists already would revive merges of the base; one that the base spells otherwise when it stands
        # alone would mean other pieces there.
        if token in taken or tuple(part.id for part in model.tokenize(token)) != made_of:
            joins.refuse(pair)
            continue
        id_ = first + len(new)
        new.append(NewToken(token, made_of, (spelled[left], spelled[right])))
        taken[token], spelled[id_], pieces[id_] = id_, token, made_of
        joins.join(pair, id_)
    return new


def _words(base: tokenizers.Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, in the letters of the vocabulary."""
    words: Counter[str] = Counter()
    for text in texts:
        part = bpe.clipped(text)
        if base.normalizer is not None:
            part = base.normalizer.normalize_str(part)
        words.update(word for word, _ in base.pre_tokenizer.pre_tokenize_str(part))
    return words


class _Joins:
    """Words as lists of ids, and how often each pair of neighbours occurs in them."""

    def __init__(self, words: list[tuple[list[int], int]]) -> None:
        self._words = words
        self._counts: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, set[int]] = defaultdict(set)
        for at, (ids, count) in enumerate(words):
            for pair in pairwise(ids):
                self._counts[pair] += count
                self._places[pair].add(at)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self) -> Pair | None:
        """The pair that occurs most often, of equal ones that of the smallest ids; None when none occurs twice."""
        while self._heap:
            count, pair = self._heap[0]
            if -count == self._counts[pair]:
                return pair if -count >= _MIN_COUNT else None
            heapq.heappop(self._heap)
            if self._counts[pair] > 0:
                heapq.heappush(self._heap, (-self._counts[pair], pair))
        return None

    def refuse(self, pair: Pair) -> None:
        """Never offer this pair again."""
        heapq.heappop(self._heap)
        self._counts[pair] = -(2**62)

    def join(self, pair: Pair, id_: int) -> None:
        """Put `id_` in the place of the pair everywhere."""
        grown: set[Pair] = set()
        for at in self._places.pop(pair):
            ids, count = self._words[at]
            joined = list(_joined(ids, pair, id_))
            for old in pairwise(ids):
                self._counts[old] -= count
            for new in pairwise(joined):
                self._counts[new] += count
                self._places[new].add(at)
                grown.add(new)
            self._words[at] = (joined, count)
        for new in grown:
            heapq.heappush(self._heap, (-self._counts[new], new))


def _joined(ids: Sequence[int], pair: Pair, id_: int) -> Iterator[int]:
    at = 0
    while at < len(ids):
        if tuple(ids[at : at + 2]) == pair:
            yield id_
            at += 2
        else:
            yield ids[at]
            at += 1
