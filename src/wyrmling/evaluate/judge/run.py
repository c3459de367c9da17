"""Answers of one model or two to the test rows, judged by another model, beside its agreement with people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wyrmling.config import Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key, file_digest
from wyrmling.core.errors import BadInput
from wyrmling.core.store import folder_digest
from wyrmling.evaluate import chat_api, metrics, outcomes, systems, tasks
from wyrmling.evaluate.judge import agreement, human, wording
from wyrmling.evaluate.judge.asking import WHERE, Bench
from wyrmling.evaluate.judge.wording import SCORES, WINNERS, Item, Judged, Word
from wyrmling.evaluate.outcomes import Score
from wyrmling.evaluate.statistics import Ints
from wyrmling.evaluate.tasks import Example

VERSION = 1
ANSWERS = "answers.jsonl"


def estimate(project: Project, data: Artifact, labelled: Path | None, *, two: bool) -> tuple[int, float]:
    """Rows that would be sent, and US dollars, with the expected answers in place of those not written yet."""
    asked = project.settings.evaluate.judge
    rows = _rows(project, data)[0]
    items = [_item(row, [systems.right_answer(row)] * (1 + two)) for row in rows]
    items += [item for item, _ in _labelled(labelled, two=two)]
    prompts = [prompt for item in items for prompt in wording.prompts(item, asked.rubric)]
    return len(items), chat_api.estimate_usd(asked, WHERE, prompts, asked.tokens)


def run(project: Project, data: Artifact, models: Sequence[Path], bench: Bench, labelled: Path | None) -> Artifact:
    """What the judge says of the answers of one model, or which of two models' it prefers, as an artifact.

    models     the folder of one, or of two whose answers stand against each other
    labelled   answers that people judged. None: nothing is known of how far the judge can be trusted
    Raises     BadInput when the judge refuses, or says nothing usable at all
    """
    settings, two = project.settings, len(models) == 2
    names = ("first", "second")
    inputs = {"data": data.id, **{n: folder_digest(path) for n, path in zip(names, models, strict=False)}}
    inputs |= {} if labelled is None else {"human": file_digest(labelled)}
    inputs |= {} if bench.folder is None else {"judge": folder_digest(bench.folder)}
    shaping = {
        "judge": bench.settings.model_dump(include={"url", "model", "rubric", "json_form", "tokens"}),
        "evaluate": settings.evaluate.model_dump(include={"answers", "answer_tokens", "resamples"}),
    }
    key = Key("judge", settings.name, inputs, shaping, VERSION)
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    people = _labelled(labelled, two=two)
    with artifact.create(project.runs, key, project.meter()) as draft:
        rows, cluster_N = _rows(project, data)
        items = _answered(project, rows, models)
        said, usd = _asked(project, bench, [*items, *(item for item, _ in people)])
        own, beside = said[: len(items)], said[len(items) :]
        signed = {"judge": bench.settings.model, "prompt": wording.prompt_hash(bench.settings.rubric, two=two)}
        if bench.folder is not None:
            signed["weights"] = inputs["judge"][:12]
        found = _scores(own, cluster_N, signed, two=two)
        agreed = _agreement(people, beside, settings.evaluate.resamples, two=two) if people else {}
        why_not = trouble(agreed, two=two)
        _write(draft.path / ANSWERS, rows, items, own)
        draft.figures = {
            "judge": {**signed, "url": bench.settings.url},
            "rows": len(items),
            "missing": sum(one.word is None for one in own),
            "metrics": {name: one.as_dict() for name, one in found.items()},
            "human": {
                "rows": len(people),
                "missing": sum(one.word is None for one in beside),
                "metrics": {name: one.as_dict() for name, one in agreed.items()},
            },
            "usable": why_not is None,
            "why_not": why_not,
            "usd": usd,
        }
    return draft.done


def _rows(project: Project, data: Artifact) -> tuple[list[Example], Ints | None]:
    """The test rows whose answers are judged, and which of them are near-duplicates."""
    test = tasks.from_artifact(data, project.settings.objective.task).test
    chosen_N = systems.answered_rows(len(test), project.settings.evaluate)
    return [test[i] for i in chosen_N.tolist()], outcomes.taken(systems.clusters(test), chosen_N)


def _labelled(path: Path | None, *, two: bool) -> list[tuple[Item, Word]]:
    return [] if path is None else human.read(path, two=two)


def _item(row: Example, answers: Sequence[str]) -> Item:
    return Item(systems.question_text(row), systems.right_answer(row), tuple(answers))


def _answered(project: Project, rows: Sequence[Example], models: Sequence[Path]) -> list[Item]:
    """The rows with what each model answers."""
    from wyrmling.evaluate import score, write

    machine, written = project.settings.machine, []
    for path in models:
        scorer = score.load(path, device=machine.device, threads=machine.threads)
        tasks.check_head(project.settings.objective.task, scorer.model.head_name, path)
        written.append(write.answers(scorer, rows, max_tokens=project.settings.evaluate.answer_tokens))
    return [_item(row, answers) for row, *answers in zip(rows, *written, strict=True)]


def _asked(project: Project, bench: Bench, items: Sequence[Item]) -> tuple[list[Judged], float]:
    """What the judge says of each item, and what that cost."""
    each = [wording.prompts(item, bench.settings.rubric) for item in items]
    form = wording.form(two=len(items[0].answers) == 2)
    replies = bench.ask([prompt for some in each for prompt in some], form, project.settings.machine)
    texts = iter([one.text for one in replies])
    said = [wording.judged(item, [next(texts) for _ in some]) for item, some in zip(items, each, strict=True)]
    if all(one.word is None for one in said):
        shown = next((one.text for one in replies if one.text is not None), None)
        raise BadInput(
            f"the judge said nothing of use about {len(items):,} rows; it answered {(shown or '')[:200]!r}",
            where=WHERE,
            fix="use a model that follows instructions, or one that can be held to JSON (json_form)",
        )
    return said, bench.usd(replies)


def _scores(
    said: Sequence[Judged], cluster_N: Ints | None, signed: Mapping[str, Any], *, two: bool
) -> dict[str, Score]:
    """The mean over the rows that were judged, with its interval."""
    there_N = np.flatnonzero([one.word is not None for one in said]).astype(np.int64)
    name, options = ("judge_win_rate", "ties:half|orders:2") if two else ("judge_score", "mean of 1..5")
    signature = metrics.signature(name, options, **signed)
    if not len(there_N):
        return {name: Score(None, None, None, 0, signature, None, "the judge said nothing of use about any row")}
    words = WINNERS if two else SCORES
    # The lowest word is 0, the highest 1.
    place_N = np.array([words.index(said[i].word) for i in there_N.tolist()]) / (len(words) - 1)
    clusters = outcomes.taken(cluster_N, there_N)
    whole = outcomes.share(place_N, np.ones(len(place_N)), signature, clusters)
    if not two:
        return {name: _rescaled(whole)}
    steady_N = np.array([bool(said[i].steady) for i in there_N.tolist()])
    same = outcomes.proportion(steady_N, clusters, metrics.signature("judge_steady", "both orders agree", **signed))
    return {name: whole, "judge_steady": same}


def _rescaled(one: Score) -> Score:
    """From 0..1 to 1..5."""
    wide = SCORES[-1] - SCORES[0]
    value, low, high = (None if x is None else SCORES[0] + wide * x for x in (one.value, one.low, one.high))
    return replace(one, value=value, low=low, high=high, se=None if one.se is None else wide * one.se)


def _agreement(
    people: Sequence[tuple[Item, Word]], said: Sequence[Judged], resamples: int, *, two: bool
) -> dict[str, Score]:
    """How far the judge and people agree on the answers that both judged."""
    words: tuple[Word, ...] = WINNERS if two else SCORES
    both = [
        (words.index(a), words.index(one.word))
        for (_, a), one in zip(people, said, strict=True)
        if one.word is not None
    ]
    human_N, judge_N = np.array(both, dtype=np.int64).reshape(-1, 2).T
    return agreement.measure(human_N, judge_N, len(words), resamples, ordered=not two)


def trouble(agreed: Mapping[str, Score], *, two: bool) -> str | None:
    """Why a judge is not to be relied on; None when people agree with it well enough. Scores count by distance."""
    if not agreed:
        return f"nobody judged the same answers: name a file in {WHERE}.human"
    name = "kappa" if two else "weighted_kappa"
    found = agreed[name]
    if found.n < human.LEAST_ROWS:
        return f"{found.n} answers were judged by people and by it; {human.LEAST_ROWS} are needed"
    if found.value is None:
        return f"{name} is {found.note}"
    if found.value < human.LEAST_KAPPA:
        return f"it agrees with people little: {name} {found.value:.2f}, and {human.LEAST_KAPPA} is needed"
    return None


def _write(path: Path, rows: Sequence[Example], items: Sequence[Item], said: Sequence[Judged]) -> None:
    """Every answer with the judge's word, in the form of a file that a person can fill in."""
    lines = [
        {**human.columns(item), "judge": one.word, "reason": one.reason, "row_id": row["row_id"]}
        for row, item, one in zip(rows, items, said, strict=True)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    artifact.write_durably(path, text.encode("utf-8", "surrogatepass"))
