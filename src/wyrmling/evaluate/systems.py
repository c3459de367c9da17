"""Everything that answers the test rows: the model, and the cheap baselines beside it, each as an outcome.

torch only comes in through the scorer that the caller loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wyrmling.config import Evaluate
from wyrmling.core.errors import BadInput
from wyrmling.evaluate import answers, baselines, entities, resampling, tasks
from wyrmling.evaluate.answer_outcome import AnswerOutcome, WithAnswers
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.label_set_outcome import LabelSetOutcome
from wyrmling.evaluate.outcomes import Outcome, taken
from wyrmling.evaluate.statistics import Floats, Ints
from wyrmling.evaluate.tag_outcome import TagOutcome
from wyrmling.evaluate.tasks import Example, Rows
from wyrmling.evaluate.text_outcome import TextOutcome

if TYPE_CHECKING:
    from wyrmling.evaluate.score import Scorer


class Answered(NamedTuple):
    """What a system did: its outcome, one column per kind of answer, and what a reader should know."""

    outcome: Outcome
    columns: dict[str, list[Any]]
    notes: list[str]


Predict = Callable[[Sequence[Example]], list[Any]]
"""Rows -> an answer for each: a label, tags, a text, or nats."""


def of_model(task: str, scorer: Scorer, rows: Rows, settings: Evaluate) -> Answered:
    """The model's answers. Raises BadInput naming a test row whose label or tag the model does not know."""
    if task == "tag":
        tasks.check_tags(rows.test, scorer.tags)
    return of_opponent(task, scorer, rows, scorer, settings)


def of_opponent(task: str, scorer: Scorer, rows: Rows, model: Scorer, settings: Evaluate) -> Answered:
    """The answers of another model, in the labels of `model`: a label that only the other knows is a wrong answer."""
    if task == "classify":
        answer = _label_sets if model.several else _classify
        return answer(scorer, rows, model.labels, settings)
    if task == "tag":
        return _tag(scorer, rows, [*model.tags, *scorer.tags], settings)
    return _text(task, scorer, rows, settings)


def clusters(rows: Sequence[Example]) -> Ints | None:
    """Which test rows are near-duplicates of each other, as the data stage found: they are resampled together."""
    return resampling.numbered([row["cluster"] for row in rows])


def _classify(scorer: Scorer, rows: Rows, labels: Sequence[str], settings: Evaluate) -> Answered:
    gold_N = np.array(tasks.gold_labels(rows.test, labels), dtype=np.int64)
    own_NC, notes = _probabilities(scorer, rows)
    predicted = [scorer.labels[i] for i in own_NC.argmax(1)]
    probabilities_NC = _in_labels(own_NC, scorer.labels, labels)
    columns = {
        "gold": [row["label"] for row in rows.test],
        "predicted": predicted,
        "score": own_NC.max(1).tolist(),
        "probabilities": probabilities_NC.astype(np.float32).tolist(),
    }
    predicted_N = numbers_of(predicted, labels)
    outcome = ClassOutcome(labels, gold_N, predicted_N, probabilities_NC, settings.resamples, clusters(rows.test))
    return Answered(outcome, columns, notes)


def _label_sets(scorer: Scorer, rows: Rows, labels: Sequence[str], settings: Evaluate) -> Answered:
    """Every label that is likelier than not."""
    gold_NC = tasks.gold_label_sets(rows.test, labels)
    own_NC, notes = _probabilities(scorer, rows)
    probabilities_NC = _in_labels(own_NC, scorer.labels, labels)
    outcome = LabelSetOutcome(labels, gold_NC, probabilities_NC >= 0.5, settings.resamples, clusters(rows.test))
    columns = _label_columns(outcome) | {"probabilities": probabilities_NC.astype(np.float32).tolist()}
    return Answered(outcome, columns, notes)


def _probabilities(scorer: Scorer, rows: Rows) -> tuple[Floats, list[str]]:
    """(N, C) of the model's own labels, and a note on texts that it did not read to their end."""
    from wyrmling.evaluate import score

    own_NC, cut = score.classify(scorer, rows.test)
    _check_numbers(own_NC, rows.test)
    note = f"{cut} texts are longer than {scorer.context} tokens; the model read their beginning"
    return own_NC, [note] if cut else []


def _in_labels(own_NC: Floats, own: Sequence[str], labels: Sequence[str]) -> Floats:
    """Probabilities in the order of `labels`; a label that the model lacks has probability 0."""
    index = {label: i for i, label in enumerate(own)}
    nothing_N = np.zeros(len(own_NC))
    return np.stack([own_NC[:, index[label]] if label in index else nothing_N for label in labels], axis=1)


def numbers_of(predicted: Sequence[str | None], labels: Sequence[str]) -> Ints:
    """Index of each predicted label; -1 for one that is not among the labels, and for none."""
    index = {label: i for i, label in enumerate(labels)}
    return np.array([-1 if label is None else index.get(label, -1) for label in predicted], dtype=np.int64)


def _label_columns(outcome: LabelSetOutcome) -> dict[str, list[Any]]:
    """The names of each row's labels."""
    sides = {"gold": outcome.gold_NC, "predicted": outcome.predicted_NC}
    return {
        name: [[label for label, has in zip(outcome.labels, row, strict=True) if has] for row in side_NC]
        for name, side_NC in sides.items()
    }


def _check_numbers(values: Floats, rows: Sequence[Example]) -> None:
    """Raises BadInput naming the first row for which the model gave something that is no number."""
    broken = np.flatnonzero(~np.isfinite(values.reshape(len(rows), -1)).all(1))
    if len(broken):
        raise BadInput(
            f"the model's answer to {len(broken):,} of {len(rows):,} test rows is not a number",
            where=f"{rows[int(broken[0])]['origin']} (row {rows[int(broken[0])]['row_id']})",
            fix="the weights are broken: train again, with a smaller learning rate if the loss was not a number either",
        )


def _tag(scorer: Scorer, rows: Rows, tags: Sequence[str], settings: Evaluate) -> Answered:
    from wyrmling.evaluate import score

    predicted, gold = score.tag(scorer, rows.test), [row["tags"] for row in rows.test]
    outcome = TagOutcome(gold, predicted, _types(rows, tags), settings.resamples, clusters(rows.test))
    return Answered(outcome, {"gold": gold, "predicted": predicted}, [])


def _types(rows: Rows, tags: Sequence[str]) -> list[str]:
    """All entity types that a gold row, the model or a baseline may name."""
    return entities.entity_types([tags], [row["tags"] for row in rows.test], [row["tags"] for row in rows.train])


def _text(task: str, scorer: Scorer, rows: Rows, settings: Evaluate) -> Answered:
    from wyrmling.evaluate import score

    found = score.text(scorer, rows.test)
    empty = np.flatnonzero(found.bytes_N == 0)
    if len(empty):
        row = rows.test[int(empty[0])]
        raise BadInput("the row has no text to score", where=row["origin"], fix="take the row out of the test")
    _check_numbers(found.nll_N, rows.test)
    name, groups = scorer.tokenizer.sha256[:12], clusters(rows.test)
    text = TextOutcome(found.text_nll_N, found.bytes_N, found.nll_N, found.targets_N, found.right_N, name, groups)
    columns = {"nats": found.nll_N.tolist(), "tokens": found.targets_N.astype(int).tolist()} | {
        "text_nats": found.text_nll_N.tolist(),
        "bytes": found.bytes_N.astype(int).tolist(),
        "right_tokens": found.right_N.astype(int).tolist(),
    }
    if task not in tasks.ANSWERED or settings.answers == 0:
        return Answered(text, columns, [])
    return _answered(scorer, rows, settings, text, columns)


def _answered(scorer: Scorer, rows: Rows, settings: Evaluate, text: TextOutcome, columns: dict[str, Any]) -> Answered:
    """The same with written answers to some of the rows, chosen at random with a fixed seed."""
    from wyrmling.evaluate import write

    chosen_N = answered_rows(len(rows.test), settings)
    chosen = [rows.test[i] for i in chosen_N.tolist()]
    given = write.answers(scorer, chosen, max_tokens=settings.answer_tokens)
    expected = [right_answer(row) for row in chosen]
    outcome = WithAnswers(text, AnswerOutcome(expected, given, taken(text.cluster_N, chosen_N)), chosen_N)
    written: list[str | None] = [None] * len(rows.test)
    for i, answer in zip(chosen_N.tolist(), given, strict=True):
        written[i] = answer
    notes = [f"exact match and the like are of {len(chosen):,} answers, at most {settings.answer_tokens} tokens long"]
    missing = sorted({package for name in answers.NAMES if (package := answers.needs(name)) is not None})
    if missing:
        notes.append(f"without {' and '.join(missing)} there is no ROUGE, BLEU or chrF: {answers.INSTALL}")
    return Answered(outcome, columns | {"answer": written}, notes)


def answered_rows(n: int, settings: Evaluate) -> Ints:
    """The test rows that answers are written to, the same for every system."""
    return np.sort(np.random.default_rng(0).permutation(n)[: settings.answers]).astype(np.int64)


@dataclass(frozen=True)
class Baseline:
    """A cheap answer.

    fit        learns from the training rows; what it gives back answers any rows
    answered   the outcome of the answers to the test rows; to those `rows_N` alone, where it is not None
    """

    fit: Callable[[], Predict]
    answered: Callable[[list[Any]], Answered]
    rows_N: Ints | None = None

    def run(self, rows: Rows) -> Answered:
        """Fit it and answer the test rows."""
        return self.answered(self.fit()(self.asked(rows)))

    def asked(self, rows: Rows) -> list[Example]:
        """The test rows that it answers."""
        return rows.test if self.rows_N is None else [rows.test[i] for i in self.rows_N.tolist()]


def baselines_for(
    task: str, rows: Rows, labels: Sequence[str], tags: Sequence[str], settings: Evaluate
) -> dict[str, Baseline]:
    """The baselines of a task by name, cheapest first."""
    if task == "classify" and tasks.several(rows.test):
        return _label_set_baselines(rows, labels, settings.resamples)
    if task == "classify":
        return _class_baselines(rows, labels, settings.resamples)
    if task == "tag":
        return _tag_baselines(rows, tags, settings.resamples)
    with_answers = task in tasks.ANSWERED and settings.answers > 0
    return (_answer_baselines(rows, settings) if with_answers else {}) | _text_baselines(rows)


def _class_baselines(rows: Rows, labels: Sequence[str], resamples: int) -> dict[str, Baseline]:
    gold_N = np.array(tasks.gold_labels(rows.test, labels), dtype=np.int64)
    texts, named = [row["text"] for row in rows.train], [row["label"] for row in rows.train]

    def answered(predicted: list[str]) -> Answered:
        predicted_N = numbers_of(predicted, labels)
        outcome = ClassOutcome(labels, gold_N, predicted_N, None, resamples, clusters(rows.test))
        return Answered(outcome, {"predicted": predicted}, [])

    return _guess_and_linear(texts, named, baselines.tfidf, answered)


def _label_set_baselines(rows: Rows, labels: Sequence[str], resamples: int) -> dict[str, Baseline]:
    gold_NC = tasks.gold_label_sets(rows.test, labels)
    texts = [row["text"] for row in rows.train]
    sets = [tuple(label for label in row["labels"] or () if label in labels) for row in rows.train]

    def answered(said: list[Any]) -> Answered:
        said_NC = tasks.label_table(said, labels)
        outcome = LabelSetOutcome(labels, gold_NC, said_NC, resamples, clusters(rows.test))
        return Answered(outcome, {"predicted": _label_columns(outcome)["predicted"]}, [])

    return _guess_and_linear(texts, sets, baselines.tfidf_sets, answered)


def _guess_and_linear(
    texts: list[str],
    wanted: list[Any],
    fit: Callable[[list[str], list[Any]], Callable[[list[str]], Any]],
    answered: Callable[[Any], Answered],
) -> dict[str, Baseline]:
    """The commonest answer, and a linear model over TF-IDF that `fit` makes of the training rows."""

    def tfidf() -> Predict:
        answer = fit(texts, wanted)
        return lambda some: answer([row["text"] for row in some])

    return {
        "majority": Baseline(lambda: lambda some: baselines.majority(wanted, len(some)), answered),
        "tfidf": Baseline(tfidf, answered),
    }


def _tag_baselines(rows: Rows, tags: Sequence[str], resamples: int) -> dict[str, Baseline]:
    gold, types = [row["tags"] for row in rows.test], _types(rows, tags)
    words, named = [row["words"] for row in rows.train], [row["tags"] for row in rows.train]

    def answered(predicted: list[list[str]]) -> Answered:
        outcome = TagOutcome(gold, predicted, types, resamples, clusters(rows.test))
        return Answered(outcome, {"predicted": predicted}, [])

    def learned(how: Callable[..., Callable[..., list[list[str]]]]) -> Predict:
        answer = how(words, named)
        return lambda some: answer([row["words"] for row in some])

    return {
        "frequent_tag": Baseline(lambda: learned(baselines.frequent_tag), answered),
        "crf": Baseline(lambda: learned(baselines.crf), answered),
    }


def _answer_baselines(rows: Rows, settings: Evaluate) -> dict[str, Baseline]:
    chosen_N = answered_rows(len(rows.test), settings)
    expected = [right_answer(rows.test[i]) for i in chosen_N.tolist()]

    def fit() -> Predict:
        questions, answers = [question_text(row) for row in rows.train], [right_answer(row) for row in rows.train]
        answer = baselines.nearest_answer(questions, answers)
        return lambda some: answer([question_text(row) for row in some])

    def answered(given: list[str]) -> Answered:
        outcome = AnswerOutcome(expected, given, taken(clusters(rows.test), chosen_N))
        return Answered(WithAnswers(None, outcome, chosen_N), {"answer": given}, [])

    return {"bm25": Baseline(fit, answered, chosen_N)}


def _text_baselines(rows: Rows) -> dict[str, Baseline]:
    train = [answer_text(row) for row in rows.train]
    bytes_N = bytes_of(rows.test)
    note = baselines.read_share(train)

    def answered(nats: list[float]) -> Answered:
        outcome = TextOutcome(np.array(nats), bytes_N, cluster_N=clusters(rows.test))
        return Answered(outcome, {"text_nats": nats}, [note] if note else [])

    def learned(order: int) -> Predict:
        answer = baselines.ngram(train, order)
        return lambda some: answer([answer_text(row) for row in some]).tolist()

    return {
        "unigram": Baseline(lambda: learned(1), answered),
        "five_gram": Baseline(lambda: learned(5), answered),
    }


def question_text(row: Example) -> str:
    """What is asked in a conversation: all but its last turn."""
    return "\n".join(message["content"] for message in row["messages"][:-1])


def right_answer(row: Example) -> str:
    """What a conversation's last turn says."""
    return str(row["messages"][-1]["content"])


def bytes_of(rows: Sequence[Example]) -> Floats:
    """(N,) UTF-8 bytes of what is scored of each row."""
    return np.array([len(answer_text(row).encode("utf-8", "replace")) for row in rows], dtype=np.float64)


def answer_text(row: Example) -> str:
    """The text of a row that is scored: a document, or what the assistant says in a conversation."""
    if row["kind"] != "conversation":
        return str(row["text"])
    return "".join(message["content"] for message in row["messages"] if message["role"] == "assistant")
