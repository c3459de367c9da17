"""One question to one model, in this process and without HTTP: what the verbs chat, classify and tag call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wyrmling.core.errors import BadInput
from wyrmling.model.generate import Decoder
from wyrmling.model.sampling import Sampling
from wyrmling.serve import labels
from wyrmling.serve.answers import Answer, Question
from wyrmling.serve.loaded import Loaded, find, load


def complete(model: Path, text: str, *, greedy: bool = False, max_tokens: int = 128, seed: int | None = None) -> str:
    """The continuation of a text.

    greedy   always take the likeliest token; else tokens are drawn, the same ones for the same seed
    Raises   UsageError when the model does not generate; BadInput for a text that fills its context
    """
    loaded = load(find(model))
    loaded.need("generate", "chat")
    return _generate(loaded, loaded.tokenizer.prompt(text), greedy=greedy, max_tokens=max_tokens, seed=seed)


def message(model: Path, text: str, *, greedy: bool = False, max_tokens: int = 128, seed: int | None = None) -> str:
    """The answer to a message; of a model that never learned to chat, the continuation. Arguments as `complete`."""
    loaded = load(find(model))
    loaded.need("generate", "chat")
    prompt = loaded.prompt([{"role": "user", "content": text}])
    return _generate(loaded, prompt, greedy=greedy, max_tokens=max_tokens, seed=seed)


def classify(model: Path, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Per text {index, label, probabilities}, the likeliest label first.

    Raises   UsageError when the model does not classify; BadInput naming a text that is too long
    """
    loaded = load(find(model))
    loaded.need("classify", "classify")
    rows = _rows(texts, lambda text: labels.text_row(loaded.tokenizer, text, loaded.context))
    found = _label(loaded, rows)
    return [labels.classified(loaded.labels, i, words[0]).model_dump() for i, words in enumerate(found)]


def tag(model: Path, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Per text {index, words, tags, probabilities, entities}.

    Raises   UsageError when the model does not tag; BadInput naming a text that is too long or has no word
    """
    loaded = load(find(model))
    loaded.need("tag", "tag")
    rows = _rows(texts, lambda text: labels.words_row(loaded.tokenizer, labels.split_words(text), loaded.context))
    found = _label(loaded, rows)
    return [
        labels.tagged(loaded.tags, i, row.words, words).model_dump()
        for i, (row, words) in enumerate(zip(rows, found, strict=True))
    ]


def _rows(texts: Sequence[str], row_of: Callable[[str], labels.Row]) -> list[labels.Row]:
    rows = []
    for number, text in enumerate(texts, start=1):
        try:
            rows.append(row_of(text))
        except BadInput as error:
            raise BadInput(error.what, where=f"text {number}", fix=error.fix) from error
    return rows


def _generate(loaded: Loaded, prompt: list[int], *, greedy: bool, max_tokens: int, seed: int | None) -> str:
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=0.0 if greedy else 1.0,
        seed=seed,
        stop_ids=frozenset(loaded.tokenizer.end_ids),
    )
    decoder = Decoder(loaded.model)
    decoder.add(prompt, sampling)
    answer = Answer(Question(0, prompt, sampling), loaded.tokenizer)
    text = ""
    while decoder.running:
        text += "".join(answer.take(token).text for token in decoder.step())
    return text


def _label(loaded: Loaded, rows: Sequence[labels.Row]) -> list[list[list[float]]]:
    found: dict[int, list[list[float]]] = {}
    for chosen in labels.passes(rows):
        shares = labels.probabilities(loaded.model, [rows[index] for index in chosen])
        found.update(zip(chosen, shares, strict=True))
    return [found[index] for index in range(len(rows))]
