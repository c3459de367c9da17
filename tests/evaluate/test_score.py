"""Scoring by batches equals scoring one by one, and every token counts once however long the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from wyrmling.core.errors import BadInput
from wyrmling.evaluate import choice, score, tasks
from wyrmling.model.attention import Segments

# The fixture of conftest.py.
Make = Callable[..., Any]


def rows_of(made: Any, task: str) -> list[tasks.Example]:
    return tasks.from_artifact(made.data, task).test


@pytest.mark.parametrize(("n", "context"), [(2, 4), (5, 4), (6, 4), (9, 4), (13, 4), (100, 7), (1, 4), (4, 100)])
def test_windows_score_every_token_once_with_as_much_context_as_fits(n: int, context: int) -> None:
    seen = []
    for start, first, last in score.windows(n, context):
        assert 0 <= start < first < last <= n
        assert last - 1 - start <= context
        # All windows but the first see a full context at their end.
        assert start == 0 or last - 1 - start == context
        seen += range(first, last)
    assert seen == list(range(1, n))


def test_a_batch_of_texts_scores_like_each_text_alone(make: Make) -> None:
    made = make("complete")
    scorer, rows = score.load(made.model), rows_of(made, "complete")
    together = score.text(scorer, rows)
    for i, row in enumerate(rows):
        alone = score.text(scorer, [row])
        for whole, one in zip(together, alone, strict=True):
            assert whole[i] == pytest.approx(one[0], rel=1e-5)


def test_bytes_are_those_of_the_text_and_tokens_are_all_but_the_first(make: Make) -> None:
    made = make("complete")
    scorer, rows = score.load(made.model), rows_of(made, "complete")
    found = score.text(scorer, rows)
    assert found.bytes_N.tolist() == [len(row["text"].encode()) for row in rows]
    assert found.targets_N.tolist() == [len(scorer.tokenizer.document(row["text"])) - 1 for row in rows]
    assert max(found.targets_N) > scorer.context


def test_text_within_the_context_equals_the_plain_cross_entropy(make: Make) -> None:
    made = make("complete")
    scorer = score.load(made.model)
    row = {"kind": "document", "text": "Story 3. A dragon."}
    ids = torch.tensor(scorer.tokenizer.document(row["text"]))
    with torch.no_grad():
        logits = scorer.model.logits(ids[:-1], Segments([len(ids) - 1]))
    nll = F.cross_entropy(logits.double(), ids[1:], reduction="none")
    found = score.text(scorer, [row])
    assert found.nll_N[0] == pytest.approx(float(nll.sum()), rel=1e-5)
    # The end of the text is a target, but it is no text.
    assert found.text_nll_N[0] == pytest.approx(float(nll[:-1].sum()), rel=1e-5)


def test_only_what_the_assistant_says_is_scored(make: Make) -> None:
    made = make("chat")
    scorer, rows = score.load(made.model), rows_of(made, "chat")
    found = score.text(scorer, rows)
    said = [row["messages"][1]["content"] for row in rows]
    assert found.bytes_N.tolist() == [len(text.encode()) for text in said]
    assert found.targets_N.tolist() == [len(scorer.tokenizer.encode(text)) + 1 for text in said]


def test_probabilities_do_not_depend_on_the_batch(make: Make) -> None:
    made = make("classify")
    scorer, rows = score.load(made.model), rows_of(made, "classify")
    together, cut = score.classify(scorer, rows)
    alone = np.concatenate([score.classify(scorer, [row])[0] for row in rows])
    assert np.abs(together - alone).max() < 1e-5
    assert together.sum(1) == pytest.approx(np.ones(len(rows)))
    assert cut == sum(len(scorer.tokenizer.document(row["text"])) > scorer.context for row in rows)


def test_a_text_longer_than_the_context_is_classified_by_its_beginning(make: Make) -> None:
    scorer = score.load(make("classify").model)
    text = "my card has a problem " * 40
    whole, cut = score.classify(scorer, [{"text": text}, {"text": text + "and more"}])
    assert cut == 2
    assert whole[0] == pytest.approx(whole[1], abs=1e-6)


def test_every_word_gets_a_tag_even_in_a_sentence_longer_than_the_context(make: Make) -> None:
    made = make("tag")
    scorer, rows = score.load(made.model), rows_of(made, "tag")
    words = ["Mr", "Anna", "Nr7", "came", "€", "\u200b"] * 30
    found = score.tag(scorer, [*rows, {"words": words}])
    assert [len(tags) for tags in found] == [*(len(row["words"]) for row in rows), len(words)]
    assert {tag for tags in found for tag in tags} <= set(scorer.tags)
    alone = [score.tag(scorer, [row])[0] for row in rows]
    assert found[:-1] == alone


def test_latencies_stop_at_the_budget(make: Make) -> None:
    made = make("classify")
    scorer, rows = score.load(made.model), rows_of(made, "classify")
    assert len(score.latencies(scorer, "classify", rows, most=20, budget_seconds=60)) == 20
    assert len(score.latencies(scorer, "classify", rows, most=20, budget_seconds=0)) == 3
    assert len(score.latencies(scorer, "classify", rows[:1], most=20, budget_seconds=60)) == 1


def test_predictions_of_text_hold_the_sums_behind_the_scores(make: Make) -> None:
    from wyrmling.evaluate import run

    project, data, model = make("complete")
    made = run.run(project, data, model)
    table = pq.read_table(made.path / run.PREDICTIONS).to_pydict()
    bits = sum(table["text_nats"]) / np.log(2) / sum(table["bytes"])
    assert made.figures["metrics"]["bpb"]["value"] == pytest.approx(bits)


def test_the_likelihood_of_a_choice_is_that_of_its_tokens_after_the_prompt(make: Make) -> None:
    scorer = score.load(make("complete").model)
    choices = (" dragon", " a dragon of number", " 12.")
    (asked,) = choice.asked(scorer, [choice.Question("Once upon a time there was", choices, 0)])
    for text, nats in zip(choices, asked.nats, strict=True):
        before = scorer.tokenizer.prompt(asked.prompt)
        ids = torch.tensor(before + scorer.tokenizer.encode(text))
        with torch.no_grad():
            logits = scorer.model.logits(ids[:-1], Segments([len(ids) - 1])).double()
        nll = F.cross_entropy(logits[len(before) - 1 :], ids[len(before) :], reduction="sum")
        assert nats == pytest.approx(-float(nll), rel=1e-4)
    assert choice.credits([asked], "choice_bytes")[0] in (0.0, 1.0)
    with pytest.raises(BadInput, match="don't fit the context of 48"):
        choice.asked(scorer, [choice.Question("Once upon a time " * 30, choices, 0)])
