"""The cheap rungs that a model has to beat, fitted on the train split and scored on the same test rows.

classify: majority; TF-IDF of words and characters with a linear SVM.   tag: most frequent tag of a word; CRF.
answer, summarize: the answer to the nearest question.   all text: unigram and 5-gram over bytes. None needs torch.

A function that learns gives back one that answers, so that learning and answering can be timed apart.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wyrmling.core.errors import NothingToLearn
from wyrmling.evaluate.statistics import Floats, Ints
from wyrmling.model import retrieval

# Reading more than this changes a 5-gram little and costs memory; the cut is said in the result.
MOST_TRAIN_BYTES = 16_000_000
CRF_ITERATIONS = 60
_WORD = re.compile(r"\w+")

Texts = Sequence[str]
Sentences = Sequence[Sequence[str]]
Label = TypeVar("Label", str, tuple[str, ...])


def majority(train_labels: Sequence[Label], n_test: int) -> list[Label]:
    """The most frequent training label, or set of labels, for every test row; of equally frequent ones the first.

    Raises   NothingToLearn without training rows
    """
    if not train_labels:
        raise NothingToLearn("there is no labelled training row for the majority baseline", where="data split train")
    counts = Counter(train_labels)
    best = min(counts, key=lambda label: (-counts[label], label))
    return [best] * n_test


def tfidf(train_texts: Texts, train_labels: Texts) -> Callable[[Texts], list[str]]:
    """Labels by TF-IDF of words (1-2) and characters (2-5) and a linear SVM."""
    if len(set(train_labels)) < 2:
        return lambda texts: majority(train_labels, len(texts))
    features = _features(train_texts)
    machine = _machine(features.fit_transform(train_texts), train_labels)
    return lambda texts: [str(label) for label in machine.predict(features.transform(texts))]


def tfidf_sets(train_texts: Texts, train_sets: Sequence[Sequence[str]]) -> Callable[[Texts], list[list[str]]]:
    """The same features with a yes or no for each label; a label that all rows have is given to every text."""
    features = _features(train_texts)
    train = features.fit_transform(train_texts)
    machines: dict[str, Any] = {}
    for label in sorted({label for names in train_sets for label in names}):
        has = [label in names for names in train_sets]
        machines[label] = None if all(has) else _machine(train, has)

    def answer(texts: Texts) -> list[list[str]]:
        test = features.transform(texts)
        said = {label: None if one is None else one.predict(test) for label, one in machines.items()}
        return [[label for label, yes in said.items() if yes is None or yes[row]] for row in range(len(texts))]

    return answer


def _machine(features: Any, answers: Sequence[Any]) -> Any:
    """A linear SVM that has learned the answers. Its C and the n-gram ranges are fixed, not tuned on anything."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LinearSVC(C=0.5, random_state=0).fit(features, answers)


def _features(texts: Texts) -> Any:
    """TF-IDF of words and characters, still to be fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    # Texts without any word of two letters ("?", "5") have characters only; the words would be an empty vocabulary.
    has_words = any(re.search(r"\w\w", text) for text in texts)
    return make_union(words, characters) if has_words else characters


def frequent_tag(train_words: Sentences, train_tags: Sentences) -> Callable[[Sentences], list[list[str]]]:
    """Each word's most frequent training tag; O for a word never seen."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for words, tags in zip(train_words, train_tags, strict=True):
        for word, tag in zip(words, tags, strict=True):
            counts[word][tag] += 1
    best = {word: min(tags, key=lambda tag: (-tags[tag], tag)) for word, tags in counts.items()}
    return lambda sentences: [[best.get(word, "O") for word in words] for words in sentences]


def crf(train_words: Sentences, train_tags: Sentences) -> Callable[[Sentences], list[list[str]]]:
    """Tags by a linear-chain conditional random field over words, shapes, prefixes, suffixes and neighbours."""
    import pycrfsuite

    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params({"c1": 0.1, "c2": 0.01, "max_iterations": CRF_ITERATIONS, "feature.possible_transitions": True})
    for words, tags in zip(train_words, train_tags, strict=True):
        trainer.append(pycrfsuite.ItemSequence(_crf_features(words)), list(tags))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "crf")
        trainer.train(path)
        learned = Path(path).read_bytes()
    tagger = pycrfsuite.Tagger()
    tagger.open_inmemory(learned)
    return lambda sentences: [list(tagger.tag(pycrfsuite.ItemSequence(_crf_features(words)))) for words in sentences]


def nearest_answer(questions: Texts, answers: Texts) -> Callable[[Texts], list[str]]:
    """The answer to the training question that shares most with the new one, by BM25 over words."""
    if not questions:
        raise NothingToLearn("there is no answered training row to look among", where="data split train")
    index = retrieval.Bm25([_words(text) for text in questions])
    return lambda texts: [answers[int(retrieval.best(index.scores(_words(text)), 1)[0])] for text in texts]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _crf_features(words: Sequence[str]) -> list[list[str]]:
    shapes = [_shape(word) for word in words]
    lower = [word.lower() for word in words]
    return [_word_features(words, lower, shapes, i) for i in range(len(words))]


def _word_features(words: Sequence[str], lower: list[str], shapes: list[str], i: int) -> list[str]:
    features = ["bias", f"w={words[i]}", f"l={lower[i]}", f"s={shapes[i]}"]
    for size in (2, 3, 4):
        features += [f"p{size}={lower[i][:size]}", f"x{size}={lower[i][-size:]}"]
    for offset in (-2, -1, 1, 2):
        at = i + offset
        if 0 <= at < len(words):
            features += [f"{offset}l={lower[at]}", f"{offset}s={shapes[at]}"]
        elif at in (-1, len(words)):
            features.append("first" if at < 0 else "last")
    return features


def _shape(word: str) -> str:
    """X for capitals, x for small letters, d for digits, others as they are, repeats collapsed: "McX99!" is XxXd!"""
    shape = ""
    for character in word:
        kind = "X" if character.isupper() else "x" if character.islower() else "d" if character.isdigit() else character
        if not shape.endswith(kind):
            shape += kind
    return shape


BOUNDARY = 256
# 9 bits hold a byte or the boundary, so 5 symbols fit one 64-bit integer.
_BITS = 9


class ByteNgram:
    """Probabilities of the next byte from the bytes before it, interpolated over shorter contexts.

    order   symbols looked at, the predicted one included: 1 is a unigram
    Source  Witten and Bell 1991, method C, recursive; the last resort is uniform over 256 bytes
    """

    def __init__(self, texts: Sequence[str], order: int) -> None:
        if not 1 <= order <= 64 // _BITS:
            raise ValueError(f"order {order} does not fit 64 bits")
        self.order = order
        symbols = np.concatenate([_symbols(text, order) for text in _first_bytes(texts)] or [np.empty(0, np.int64)])
        if not (symbols != BOUNDARY).any():
            raise NothingToLearn("there is no training text for the n-gram baseline", where="data split train")
        self._tables = [self._count(symbols, size) for size in range(1, order + 1)]

    @staticmethod
    def _count(symbols: Ints, size: int) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        grams = _grams(symbols, size)[symbols != BOUNDARY]
        codes, counts = np.unique(grams, return_counts=True)
        contexts, first, kinds = np.unique(codes >> _BITS, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        return codes, counts, contexts, totals, kinds

    def nats(self, text: str) -> float:
        """Minus log-probability of the text's bytes; its end is not predicted."""
        symbols = _symbols(text, self.order)
        scored = symbols != BOUNDARY
        probability = np.full(int(scored.sum()), 1 / 256)
        for size, (codes, counts, contexts, totals, kinds) in enumerate(self._tables, start=1):
            grams = _grams(symbols, size)[scored]
            seen = _lookup(codes, counts, grams)
            total, kind = _lookup(contexts, totals, grams >> _BITS), _lookup(contexts, kinds, grams >> _BITS)
            known = total > 0
            mixed = (seen + kind * probability) / np.maximum(total + kind, 1)
            probability = np.where(known, mixed, probability)
        return float(-np.log(probability).sum())


def _first_bytes(texts: Sequence[str]) -> Iterator[str]:
    left = MOST_TRAIN_BYTES
    for text in texts:
        if left <= 0:
            return
        left -= len(text)
        yield text


def _symbols(text: str, order: int) -> Ints:
    """The bytes of a text after as many boundaries as the longest context needs."""
    body = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    return np.concatenate([np.full(max(order - 1, 1), BOUNDARY, dtype=np.int64), body.astype(np.int64)])


def _grams(symbols: Ints, size: int) -> Ints:
    """The last `size` symbols up to each position as one integer, the newest in the lowest bits."""
    grams = symbols.copy()
    for back in range(1, size):
        shifted = np.full(len(symbols), BOUNDARY, dtype=np.int64)
        shifted[back:] = symbols[:-back]
        grams |= shifted << (_BITS * back)
    return grams


def _lookup(keys: Ints, values: Ints, wanted: Ints) -> Floats:
    """values at the sorted keys, 0 where a key is not there."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)


def ngram(train_texts: Texts, order: int) -> Callable[[Texts], Floats]:
    """Nats of each text under a byte n-gram of the training texts."""
    model = ByteNgram(train_texts, order)
    return lambda texts: np.array([model.nats(text) for text in texts])


def read_share(train_texts: Sequence[str]) -> str | None:
    """A note when the n-gram baselines read only the first part of the training text."""
    total = sum(len(text) for text in train_texts)
    if total <= MOST_TRAIN_BYTES:
        return None
    return f"fitted on the first {MOST_TRAIN_BYTES:,} of {total:,} characters of training text"
