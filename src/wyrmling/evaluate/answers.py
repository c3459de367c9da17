"""How near a written answer is to the expected one: exact match, token F1, ROUGE, BLEU and chrF.

Exact match and token F1 are own code; the others are those of sacrebleu and rouge-score, from `wyrmling[text-metrics]`.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from wyrmling.core.errors import BadSetting
from wyrmling.evaluate.statistics import Floats

INSTALL = 'pip install "wyrmling[text-metrics]"'
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORDS = re.compile(r"\w+")


class RowMetric(NamedTuple):
    """A metric with a value per row, whose mean is reported. needs: the package it is computed with."""

    of: Callable[[Sequence[str], Sequence[str]], Floats]
    options: str
    needs: str | None = None


class CorpusMetric(NamedTuple):
    """A metric of sums over rows: `counts` gives them per row (N, K), `of` turns sums (..., K) into values (...)."""

    counts: Callable[[Sequence[str], Sequence[str]], Floats]
    of: Callable[[Floats], Floats]
    options: str
    needs: str = "sacrebleu"


def squad_form(text: str) -> str:
    """Lower case without punctuation, articles and extra spaces. Source: the SQuAD 2.0 evaluation script."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(expected: Sequence[str], given: Sequence[str]) -> Floats:
    """1 where both have the same `squad_form`, (N,)."""
    return np.array([float(squad_form(a) == squad_form(b)) for a, b in zip(expected, given, strict=True)])


def token_f1(expected: Sequence[str], given: Sequence[str]) -> Floats:
    """F1 of the words of both, counted with repeats, (N,); where one has no words, 1 only if neither has."""
    return np.array([_token_f1(a, b) for a, b in zip(expected, given, strict=True)])


def _token_f1(expected: str, given: str) -> float:
    gold, said = squad_form(expected).split(), squad_form(given).split()
    if not gold or not said:
        return float(gold == said)
    shared = sum((Counter(gold) & Counter(said)).values())
    return 2 * shared / (len(gold) + len(said))


class _UnicodeWords:
    """Words of any script: rouge-score's own tokenizer drops every letter outside a-z."""

    def tokenize(self, text: str) -> list[str]:
        return _WORDS.findall(unicodedata.normalize("NFKC", text).lower())


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing("rouge-score") from error
    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_UnicodeWords())


def _rouge(kind: str) -> Callable[[Sequence[str], Sequence[str]], Floats]:
    def of(expected: Sequence[str], given: Sequence[str]) -> Floats:
        scorer = _rouge_scorer()
        return np.array([scorer.score(a, b)[kind].fmeasure for a, b in zip(expected, given, strict=True)])

    return of


@lru_cache(maxsize=2)
def _sacrebleu(name: str) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise _missing("sacrebleu") from error
    return BLEU() if name == "bleu" else CHRF()


def _statistics(name: str) -> Callable[[Sequence[str], Sequence[str]], Floats]:
    def counts(expected: Sequence[str], given: Sequence[str]) -> Floats:
        # Sums of a corpus are what sacrebleu resamples too (`_extract_corpus_statistics`).
        found = _sacrebleu(name)._extract_corpus_statistics(list(given), [list(expected)])
        return np.array(found, dtype=np.float64).reshape(len(given), -1)

    return counts


def _score_of_sums(name: str) -> Callable[[Floats], Floats]:
    def of(sums: Floats) -> Floats:
        score = _sacrebleu(name)._compute_score_from_stats
        flat = sums.reshape(-1, sums.shape[-1])
        return np.array([score([int(x) for x in row]).score for row in flat]).reshape(sums.shape[:-1])

    return of


ROWS: dict[str, RowMetric] = {
    "exact_match": RowMetric(exact_match, "norm:squad-en"),
    "token_f1": RowMetric(token_f1, "norm:squad-en"),
    "rouge1": RowMetric(_rouge("rouge1"), "f|words:unicode|stem:no", "rouge-score"),
    "rouge2": RowMetric(_rouge("rouge2"), "f|words:unicode|stem:no", "rouge-score"),
    "rougeL": RowMetric(_rouge("rougeL"), "f|words:unicode|stem:no", "rouge-score"),
}
CORPUS: dict[str, CorpusMetric] = {
    "bleu": CorpusMetric(
        _statistics("bleu"), _score_of_sums("bleu"), "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|range:0-100"
    ),
    "chrf": CorpusMetric(
        _statistics("chrf"), _score_of_sums("chrf"), "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|range:0-100"
    ),
}
NAMES = (*ROWS, *CORPUS)


def needs(name: str) -> str | None:
    """The package that a metric is computed with and that is not installed; None when it can be computed."""
    package = ROWS[name].needs if name in ROWS else CORPUS[name].needs
    if package is None:
        return None
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return package
    return None


def version_of(name: str) -> str:
    """`sacrebleu:2.6.0` for a signature; "" for own code."""
    package = ROWS[name].needs if name in ROWS else CORPUS[name].needs
    return f"{package}:{metadata.version(package)}" if package else ""


def _missing(package: str) -> BadSetting:
    return BadSetting(f"{package} is not installed, which ROUGE, BLEU and chrF come from", fix=INSTALL)
