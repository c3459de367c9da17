"""Train a byte-level BPE vocabulary and say it in the `tokenizers` format.

Training is by `rustbpe`, about four times faster than `tokenizers` for the same merges; where it can't be used,
`tokenizers` trains. Either way the vocabulary is laid out as: 256 single bytes in byte order, merges in rank order,
special tokens last. Knows nothing of projects, files or chat.
"""

from __future__ import annotations

import codecs
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from wyrmling.config import Tokenizer as Settings
from wyrmling.core.errors import NothingToLearn
from wyrmling.core.log import warn
from wyrmling.tokenizer.patterns import grouped, word_pattern

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
MASK = "<|mask|>"
PAD = "<|pad|>"
SPECIALS = (END_OF_TEXT, IM_START, IM_END, MASK, PAD)
# Marks of texts whose middle is filled in; only where a step learns to.
INFILL = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")

# A longer document teaches the vocabulary little more, and one huge file must not outvote the rest (nanochat,
# scripts/tok_train.py).
MAX_DOCUMENT_CHARS = 10_000

# Texts of a run that a converted vocabulary is compared on, each up to so many characters.
_CHECKED_TEXTS, _CHECKED_CHARS = 200, 500

# Texts on which a converted vocabulary must agree with its trainer, whatever it was trained on.
_CHECK_TEXTS = (
    "",
    " ",
    "\n",
    "Hello, world!  It's 12345 o'clock; we'll see.\n\n\tTabs and  spaces \r\n",
    "naïve façade, Straße, Ελλάδα, Привет, 你好世界, こんにちは, مرحبا, 🙂👩‍👩‍👧‍👦",
    "\x00\x01 control \x7f <|endoftext|> <|im_start|>user",
)


class VocabSize(NamedTuple):
    """A derived vocabulary size and the sentence that explains it."""

    value: int
    reason: str


class Vocabulary(NamedTuple):
    """The tokens of a trained BPE in id order, without special tokens, and who trained it."""

    tokens: list[bytes]
    merges: list[tuple[bytes, bytes]]
    pattern: str
    trainer: str


class ConversionError(ValueError):
    """The tokens of a trainer do not say the same thing as merges. Not for users: the other trainer takes over."""


def default_vocab_size(n_bytes: int) -> VocabSize:
    """Tokens in the vocabulary for this much training text, special tokens included.

    n_bytes  UTF-8 bytes of the training text
    The number of different words in a text grows about with the square root of its length (Heaps 1978, exponent
    0.4-0.6), so the vocabulary does too: 2,048 at 0.5 MB, twice that for four times the text, from 512 up to 65,536 in
    steps of 256. With 0.5 MB and about 3.5 bytes per token each token is then seen about 70 times on average; a larger
    vocabulary shortens the text a little, but most of its tokens would be too rare to learn. The anchor, 2,048 at
    0.5 MB, is an assumption.
    """
    size = round(2048 * math.sqrt(n_bytes / 500_000) / 256) * 256
    value = min(max(size, 512), 65_536)
    return VocabSize(value, f"{n_bytes / 1e6:.2f} MB of training text; grows with its square root from 2,048 at 0.5 MB")


def clipped(text: str) -> str:
    """The part of a text that a vocabulary is trained on. Lone surrogates become U+FFFD."""
    return without_surrogates(text[:MAX_DOCUMENT_CHARS])


def without_surrogates(text: str) -> str:
    """`text` as UTF-8 can hold it: a pair of surrogates becomes its character, a lone one U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def train(texts: Iterable[str], vocab_size: int, pattern: str | None = None) -> Vocabulary:
    """The BPE vocabulary of `texts`, with at most `vocab_size` tokens including the special ones.

    texts    gone through once, or twice when `rustbpe` can't do it; never held together in memory
    pattern  cuts the text into words. None: the one that suits the size
    It is smaller when the text runs out of pairs to merge. The same texts give the same vocabulary, in any order.
    Raises   NothingToLearn when there is no text.
    """
    pattern, n_tokens = pattern or word_pattern(Settings(), vocab_size), vocab_size - len(SPECIALS)
    try:
        return _train_rustbpe(texts, n_tokens, pattern)
    except (ImportError, ConversionError) as error:
        warn(f"the tokenizer is trained by tokenizers instead of rustbpe: {error}")
        return _train_tokenizers(texts, n_tokens, pattern)


class _Watched:
    """Goes through texts as they are trained on: clipped, without empty ones; keeps some of them to check on."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.kept: list[str] = []

    def __iter__(self) -> Iterator[str]:
        draw = random.Random(0)
        parts = filter(None, map(clipped, self._texts))
        for number, part in enumerate(parts, start=1):
            at = len(self.kept) if number <= _CHECKED_TEXTS else draw.randrange(number)
            if at < _CHECKED_TEXTS:
                self.kept[at : at + 1] = [part[:_CHECKED_CHARS]]
            yield part

    def require_text(self) -> None:
        if not self.kept:
            raise NothingToLearn(
                "the training split holds no text to train a tokenizer on",
                fix="look at what was dropped and why: wyrmling data",
            )


def _train_rustbpe(texts: Iterable[str], n_tokens: int, pattern: str) -> Vocabulary:
    import rustbpe

    trained, corpus = rustbpe.Tokenizer(), _Watched(texts)
    try:
        trained.train_from_iterator(iter(corpus), n_tokens, buffer_size=1024, pattern=grouped(pattern))
    except BaseException as error:
        # A panic in Rust arrives as PanicException, which is not an Exception and would pass every ordinary guard. A
        # ValueError is an expression that only `tokenizers` understands.
        if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise ConversionError(f"rustbpe stopped: {error}") from error
    corpus.require_text()
    tokens = [bytes(token) for token, _ in sorted(trained.get_mergeable_ranks(), key=lambda pair: pair[1])]
    vocabulary = Vocabulary(tokens, find_merges(tokens), pattern, "rustbpe")
    converted = _text_only(vocabulary)
    for text in (*_CHECK_TEXTS, *corpus.kept):
        ids = converted.encode(text, add_special_tokens=False).ids
        if ids != trained.encode(text) or converted.decode(ids) != text:
            raise ConversionError(f"its ids differ from those of tokenizers on {text[:60]!r}")
    return vocabulary


def _train_tokenizers(texts: Iterable[str], n_tokens: int, pattern: str) -> Vocabulary:
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=[],
    )
    learner, corpus = tokenizers.Tokenizer(models.BPE()), _Watched(texts)
    learner.pre_tokenizer = _pre_tokenizer(pattern)
    learner.train_from_iterator(iter(corpus), trainer)
    corpus.require_text()
    by_id = sorted(learner.get_vocab().items(), key=lambda pair: pair[1])
    spelled = [from_byte_level(token) for token, _ in by_id]
    tokens = [bytes([byte]) for byte in range(256)] + [token for token in spelled if len(token) > 1]
    vocabulary = Vocabulary(tokens, find_merges(tokens), pattern, "tokenizers")
    converted = _text_only(vocabulary)
    for text in (*_CHECK_TEXTS, *corpus.kept):
        if converted.decode(converted.encode(text, add_special_tokens=False).ids) != text:
            raise ConversionError(f"decoding its ids does not give back {text[:60]!r}")
    return vocabulary


def _text_only(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    tokenizer = build(vocabulary)
    tokenizer.encode_special_tokens = True
    return tokenizer


def find_merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The merge that made each token after the 256 bytes, in rank order.

    Most tokens can be cut in two earlier ones in one way only. For the others, the token's own bytes are merged with
    the lower ranks: they end as two parts, and those are its merge.
    Raises   ConversionError when the tokens are not the 256 bytes followed by merges of earlier tokens.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) != len(tokens) or list(tokens[:256]) != [bytes([byte]) for byte in range(256)]:
        raise ConversionError("the vocabulary repeats a token or does not begin with the 256 bytes")
    merges, earlier = [], set(tokens[:256])
    for rank, token in enumerate(tokens[256:], start=256):
        # Few tails are tokens, so they are looked up first.
        cuts = [at for at in range(1, len(token)) if token[at:] in earlier and token[:at] in earlier]
        merges.append((token[: cuts[0]], token[cuts[0] :]) if len(cuts) == 1 else _merge_up_to(token, rank, ranks))
        earlier.add(token)
    return merges


def _merge_up_to(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that a token's bytes end as, merged with the ranks below its own."""
    parts = [token[at : at + 1] for at in range(len(token))]
    scores = [ranks.get(token[at : at + 2], rank) for at in range(len(token) - 1)]
    while len(parts) > 2:
        best = min(scores)
        if best >= rank:
            raise ConversionError(f"token {rank} {token!r} is not a merge of two earlier tokens")
        at = scores.index(best)
        parts[at] += parts.pop(at + 1)
        del scores[at]
        for beside in (at - 1, at):
            if 0 <= beside < len(scores):
                scores[beside] = ranks.get(parts[beside] + parts[beside + 1], rank)
    return parts[0], parts[1]


def build(
    vocabulary: Vocabulary, *, ends: bool = False, extra: Sequence[str] = (), infill: bool = False
) -> tokenizers.Tokenizer:
    """The vocabulary as a `tokenizers` tokenizer, special tokens last.

    ends   True: a text encoded with special tokens is closed by an end-of-text as well as opened by one. That is how an
           encoder is trained; a decoder's prompt must stay open.
    extra  tokens of the user's own, each found wherever it stands in a text; their ids come before the special ones
    infill True: with the special tokens of filling in the middle
    """
    spelled = {token: to_byte_level(token) for token in vocabulary.tokens}
    vocab = {spelled[token]: rank for rank, token in enumerate(vocabulary.tokens)}
    merges = [(spelled[left], spelled[right]) for left, right in vocabulary.merges]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=None))
    tokenizer.pre_tokenizer = _pre_tokenizer(vocabulary.pattern)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in extra])
    specials = (*SPECIALS, *(INFILL if infill else ()))
    tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A {END_OF_TEXT}" if ends else f"{END_OF_TEXT} $A",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )
    return tokenizer


def _pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_level_letters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


_LETTERS = "".join(_byte_level_letters())
_BYTES = {letter: byte for byte, letter in enumerate(_LETTERS)}


def may_be_mistaken(token: str) -> bool:
    """Whether a byte-level vocabulary may hold this very string for other bytes: "é" there stands for byte 0xE9."""
    return not token.isascii() and all(letter in _BYTES for letter in token)


def to_byte_level(token: bytes) -> str:
    """A token's bytes in the letters of a byte-level vocabulary: b" a" is "Ġa"."""
    return codecs.charmap_decode(token, "strict", _LETTERS)[0]


def from_byte_level(token: str) -> bytes:
    """The bytes behind a token of a byte-level vocabulary. Raises KeyError for a letter that stands for no byte."""
    return bytes(_BYTES[letter] for letter in token)
