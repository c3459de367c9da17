"""Everything that answers the test rows: the model, and the cheap baselines beside it, each as an outcome.

torch only comes in through the scorer that the caller loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wyrmling.core.errors import BadInput
from wyrmling.evaluate import baselines, metrics, tasks
from wyrmling.evaluate.outcomes import ClassOutcome, Outcome, TagOutcome, TextOutcome
from wyrmling.evaluate.statistics import Ints
from wyrmling.evaluate.tasks import Example, Rows

if TYPE_CHECKING:
    from wyrmling.evaluate.score import Scorer


class Answered(NamedTuple):
    """What a system did: its outcome, one column per kind of answer, and what a reader should know."""

    outcome: Outcome
    columns: dict[str, list[Any]]
    notes: list[str]


Fit = Callable[[], Answered]


def of_model(task: str, scorer: Scorer, rows: Rows, resamples: int) -> Answered:
    """The model's answers. Raises BadInput naming a test row whose label or tag the model does not know."""
    if task == "classify":
        return _classify(scorer, rows, resamples)
    if task == "tag":
        return _tag(scorer, rows, resamples)
    return _text(scorer, rows)


def _classify(scorer: Scorer, rows: Rows, resamples: int) -> Answered:
    from wyrmling.evaluate import score

    gold_N = np.array(tasks.gold_labels(rows.test, scorer.labels), dtype=np.int64)
    probabilities_NC, cut = score.classify(scorer, rows.test)
    best_N = probabilities_NC.argmax(1).astype(np.int64)
    notes = [f"{cut} texts are longer than {scorer.context} tokens; the model read their beginning"] if cut else []
    columns = {
        "gold": [row["label"] for row in rows.test],
        "predicted": [scorer.labels[i] for i in best_N],
        "score": probabilities_NC.max(1).tolist(),
        "probabilities": probabilities_NC.astype(np.float32).tolist(),
    }
    return Answered(ClassOutcome(scorer.labels, gold_N, best_N, probabilities_NC, resamples), columns, notes)


def _tag(scorer: Scorer, rows: Rows, resamples: int) -> Answered:
    from wyrmling.evaluate import score

    tasks.check_tags(rows.test, scorer.tags)
    predicted, gold = score.tag(scorer, rows.test), [row["tags"] for row in rows.test]
    outcome = TagOutcome(gold, predicted, _types(rows, scorer.tags), resamples)
    return Answered(outcome, {"gold": gold, "predicted": predicted}, [])


def _types(rows: Rows, tags: Sequence[str]) -> list[str]:
    """All entity types that a gold row, the model or a baseline may name."""
    return metrics.entity_types([tags], [row["tags"] for row in rows.test], [row["tags"] for row in rows.train])


def _text(scorer: Scorer, rows: Rows) -> Answered:
    from wyrmling.evaluate import score

    found = score.text(scorer, rows.test)
    empty = np.flatnonzero(found.bytes_N == 0)
    if len(empty):
        row = rows.test[int(empty[0])]
        raise BadInput("the row has no text to score", where=row["origin"], fix="take the row out of the test")
    name = scorer.tokenizer.sha256[:12]
    outcome = TextOutcome(found.text_nll_N, found.bytes_N, found.nll_N, found.targets_N, found.right_N, name)
    columns = {"nats": found.nll_N.tolist(), "tokens": found.targets_N.astype(int).tolist()} | {
        "text_nats": found.text_nll_N.tolist(),
        "bytes": found.bytes_N.astype(int).tolist(),
        "right_tokens": found.right_N.astype(int).tolist(),
    }
    return Answered(outcome, columns, [])


def baselines_for(task: str, rows: Rows, labels: Sequence[str], tags: Sequence[str], resamples: int) -> dict[str, Fit]:
    """Name -> a function that fits the baseline on the training rows and answers the test rows; cheapest first."""
    if task == "classify":
        return _class_baselines(rows, labels, resamples)
    if task == "tag":
        return _tag_baselines(rows, tags, resamples)
    return _text_baselines(rows)


def _class_baselines(rows: Rows, labels: Sequence[str], resamples: int) -> dict[str, Fit]:
    gold_N = np.array(tasks.gold_labels(rows.test, labels), dtype=np.int64)
    train_texts, train_labels = [row["text"] for row in rows.train], [row["label"] for row in rows.train]
    index = {label: i for i, label in enumerate(labels)}

    def answered(predicted: list[str]) -> Answered:
        indices: Ints = np.array([index.get(label, -1) for label in predicted], dtype=np.int64)
        return Answered(ClassOutcome(labels, gold_N, indices, None, resamples), {"predicted": predicted}, [])

    return {
        "majority": lambda: answered(baselines.majority(train_labels, len(rows.test))),
        "tfidf": lambda: answered(baselines.tfidf(train_texts, train_labels, [row["text"] for row in rows.test])[0]),
    }


def _tag_baselines(rows: Rows, tags: Sequence[str], resamples: int) -> dict[str, Fit]:
    gold, words = [row["tags"] for row in rows.test], [row["words"] for row in rows.test]
    train_words, train_tags = [row["words"] for row in rows.train], [row["tags"] for row in rows.train]
    types = _types(rows, tags)

    def answered(predicted: list[list[str]]) -> Answered:
        return Answered(TagOutcome(gold, predicted, types, resamples), {"predicted": predicted}, [])

    return {
        "frequent_tag": lambda: answered(baselines.frequent_tag(train_words, train_tags, words)),
        "crf": lambda: answered(baselines.crf(train_words, train_tags, words)),
    }


def _text_baselines(rows: Rows) -> dict[str, Fit]:
    test, train = [answer_text(row) for row in rows.test], [answer_text(row) for row in rows.train]
    bytes_N = np.array([len(text.encode("utf-8", "replace")) for text in test], dtype=np.float64)
    note = baselines.read_share(train)

    def answered(order: int) -> Answered:
        nats_N = baselines.ngram_nats(train, test, order)
        return Answered(TextOutcome(nats_N, bytes_N), {"text_nats": nats_N.tolist()}, [note] if note else [])

    return {"unigram": lambda: answered(1), "five_gram": lambda: answered(5)}


def answer_text(row: Example) -> str:
    """The text of a row that is scored: a document, or what the assistant says in a conversation."""
    if row["kind"] != "conversation":
        return str(row["text"])
    return "".join(message["content"] for message in row["messages"] if message["role"] == "assistant")
