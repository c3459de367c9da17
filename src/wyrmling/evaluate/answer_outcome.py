"""Written answers beside the expected ones: exact match, token F1, ROUGE, BLEU, chrF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wyrmling.evaluate import answers, metrics, resampling, statistics
from wyrmling.evaluate.metrics import Bools
from wyrmling.evaluate.outcomes import (
    SEED,
    Score,
    accuracy_difference,
    independent,
    proportion,
    ratio_difference,
    share,
    taken,
)
from wyrmling.evaluate.statistics import Difference, Floats, Interval, Ints, logit_normal
from wyrmling.evaluate.text_outcome import TextOutcome

# sacrebleu scores one resample at a time, in about 20 microseconds.
RESAMPLES = 500


@dataclass(frozen=True)
class AnswerOutcome:
    """One written answer per row."""

    expected: Sequence[str]
    given: Sequence[str]
    cluster_N: Ints | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics whose packages are installed."""
        return tuple(name for name in answers.NAMES if answers.needs(name) is None)

    def right(self) -> Bools:
        return np.asarray(answers.exact_match(self.expected, self.given) == 1)

    def take(self, rows_N: Ints) -> AnswerOutcome:
        expected, given = ([texts[i] for i in rows_N.tolist()] for texts in (self.expected, self.given))
        return replace(self, expected=expected, given=given, cluster_N=taken(self.cluster_N, rows_N))

    def score(self, name: str) -> Score:
        if name in answers.CORPUS:
            return self._of_corpus(name)
        signature = _signature(name, answers.ROWS[name].options)
        if name == "exact_match":
            return proportion(self.right(), self.cluster_N, signature)
        values_N = answers.ROWS[name].of(self.expected, self.given)
        return share(values_N, np.ones(len(values_N)), signature, self.cluster_N)

    def _of_corpus(self, name: str) -> Score:
        metric = answers.CORPUS[name]
        counts_NK = metric.counts(self.expected, self.given)
        value = float(metric.of(counts_NK.sum(0)))
        se = float(metric.of(_resampled(counts_NK, self.cluster_N)).std(ddof=1))
        low, high = logit_normal(value / 100, se / 100)
        ends = Interval(None, None)
        if len(counts_NK) > 1 and low is not None and high is not None:
            ends = Interval(100 * low, 100 * high)
        return Score(value, *ends, n=len(counts_NK), signature=_signature(name, metric.options), se=se)

    def per_class(self) -> dict[str, dict[str, Score]]:
        return {}

    def difference(self, old: AnswerOutcome, metric: str) -> Difference:
        """This minus `old` on the same rows. Raises KeyError for a metric that is none of `names`."""
        if metric == "exact_match":
            return accuracy_difference(self.right(), old.right(), self.cluster_N)
        if metric in answers.ROWS:
            of = answers.ROWS[metric].of
            change_N = of(self.expected, self.given) - of(old.expected, old.given)
            return ratio_difference(change_N, np.ones(len(change_N)), self.cluster_N)
        corpus = answers.CORPUS[metric]
        new_NK, old_NK = (corpus.counts(one.expected, one.given) for one in (self, old))
        both_RK = _resampled(np.concatenate([new_NK, old_NK], axis=1), self.cluster_N)
        width = new_NK.shape[1]
        change_R = corpus.of(both_RK[:, :width]) - corpus.of(both_RK[:, width:])
        point = float(corpus.of(new_NK.sum(0)) - corpus.of(old_NK.sum(0)))
        return statistics.paired(point, change_R, independent(len(new_NK), self.cluster_N))


@dataclass(frozen=True)
class WithAnswers:
    """How well the expected answers were predicted, and for some of the rows the answers that were written.

    text         None for a system that only writes answers
    answered_N   the rows that `answers` is about, ascending
    """

    text: TextOutcome | None
    answers: AnswerOutcome
    answered_N: Ints

    @property
    def cluster_N(self) -> Ints | None:
        return None if self.text is None else self.text.cluster_N

    @property
    def names(self) -> tuple[str, ...]:
        of_text = () if self.text is None else self.text.names
        return (*of_text, *(self.answers.names if len(self.answered_N) else ()))

    def right(self) -> Bools | None:
        return None

    def take(self, rows_N: Ints) -> WithAnswers:
        _, places, kept = np.intersect1d(rows_N, self.answered_N, return_indices=True)
        order = np.argsort(places)
        text = None if self.text is None else self.text.take(rows_N)
        return WithAnswers(text, self.answers.take(kept[order]), places[order].astype(np.int64))

    def score(self, name: str) -> Score:
        return self.answers.score(name) if name in answers.NAMES else self._text.score(name)

    @property
    def _text(self) -> TextOutcome:
        if self.text is None:
            raise KeyError("this system only writes answers")
        return self.text

    def per_class(self) -> dict[str, dict[str, Score]]:
        return {}

    def difference(self, old: WithAnswers | TextOutcome, metric: str) -> Difference:
        """This minus `old` on the same rows; one that wrote no answers is compared in bits per byte only."""
        if metric not in answers.NAMES:
            return self._text.difference(old._text if isinstance(old, WithAnswers) else old, metric)
        if not isinstance(old, WithAnswers):
            raise KeyError(metric)
        return self.answers.difference(old.answers, metric)


def _resampled(counts_NK: Floats, cluster_N: Ints | None) -> Floats:
    cells = resampling.fold(counts_NK.astype(np.int64), cluster_N)
    return np.concatenate([weights_RM @ cells.table_MK for weights_RM in cells.draw(RESAMPLES, SEED)])


def _signature(name: str, options: str) -> str:
    return metrics.signature(name, "|".join(part for part in (options, answers.version_of(name)) if part))
