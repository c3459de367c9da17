"""One question to one model, in this process and without HTTP: what the verbs chat, classify and tag call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wyrmling.config import Quantize
from wyrmling.core.errors import BadInput
from wyrmling.model.generate import Decoder, Token
from wyrmling.model.quantize import quantize_checked
from wyrmling.model.sampling import Sampling
from wyrmling.serve import labels
from wyrmling.serve.answers import Answer, Question
from wyrmling.serve.loaded import Job, Loaded, find, load
from wyrmling.serve.responses import FinishReason
from wyrmling.serve.spelling import Spelling


@dataclass(frozen=True)
class Reply:
    """A generated text, why it ended, and its tokens; the token that ended it, if one did, is the last."""

    text: str
    finish: FinishReason
    tokens: list[Token]

    def document(self, spelling: Spelling, *, with_tokens: bool) -> dict[str, Any]:
        """The reply for --json."""
        told: dict[str, Any] = {"text": self.text, "finish": self.finish}
        if with_tokens:
            told["tokens"] = [
                {
                    "token": spelling.shown(token.id),
                    "id": token.id,
                    "logprob": token.logprob,
                    "top": [{"token": spelling.shown(id), "id": id, "logprob": value} for id, value in token.top],
                }
                for token in self.tokens
            ]
        return told


class Talker:
    """A model that generates, with its tokenizer.

    quantize   how its weights are rounded. None: not at all
    Raises     UsageError when the model does not generate
    """

    def __init__(self, model: Path, *, quantize: Quantize | None = None) -> None:
        self.loaded = _load(model, "generate", "chat", quantize)
        self.spelling = Spelling(self.loaded.tokenizer)

    def complete(self, text: str, sampling: Sampling, *, stops: tuple[str, ...] = ()) -> Reply:
        """The continuation of a text. Raises BadInput for one that fills the context."""
        return self._generate(self.loaded.tokenizer.prompt(text), sampling, stops)

    def message(self, text: str, sampling: Sampling, *, stops: tuple[str, ...] = ()) -> Reply:
        """The answer to a message; of a model that never learned to chat, the continuation."""
        return self._generate(self.loaded.prompt([{"role": "user", "content": text}]), sampling, stops)

    def _generate(self, prompt: list[int], sampling: Sampling, stops: tuple[str, ...]) -> Reply:
        sampling = replace(sampling, stop_ids=sampling.stop_ids | frozenset(self.loaded.tokenizer.end_ids))
        decoder = Decoder(self.loaded.model)
        decoder.add(prompt, sampling)
        answer = Answer(Question(0, prompt, sampling, stops), self.loaded.tokenizer)
        text, tokens = "", []
        while True:
            (token,) = decoder.step()
            piece = answer.take(token)
            text += piece.text
            tokens.append(token)
            if piece.finish is not None:
                return Reply(text, piece.finish, tokens)


def _load(model: Path, job: Job, verb: str, quantize: Quantize | None) -> Loaded:
    loaded = load(find(model))
    loaded.need(job, verb)
    if quantize is not None:
        quantize_checked(loaded.found.folder, loaded.model, quantize)
    return loaded


def classify(model: Path, texts: Sequence[str], *, quantize: Quantize | None = None) -> list[dict[str, Any]]:
    """Per text {index, label, labels, probabilities}, the likeliest label first; labels are all that the text has.

    Raises   UsageError when the model does not classify; BadInput naming a text that is too long
    """
    loaded = _load(model, "classify", "classify", quantize)
    rows = _rows(texts, lambda text: labels.text_row(loaded.tokenizer, text, loaded.context))
    found = _label(loaded, rows)
    return [
        labels.classified(loaded.labels, i, words[0], several=loaded.several).model_dump()
        for i, words in enumerate(found)
    ]


def tag(model: Path, texts: Sequence[str], *, quantize: Quantize | None = None) -> list[dict[str, Any]]:
    """Per text {index, words, tags, probabilities, entities}.

    Raises   UsageError when the model does not tag; BadInput naming a text that is too long or has no word
    """
    loaded = _load(model, "tag", "tag", quantize)
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


def _label(loaded: Loaded, rows: Sequence[labels.Row]) -> list[list[list[float]]]:
    found: dict[int, list[list[float]]] = {}
    for chosen in labels.passes(rows):
        shares = labels.probabilities(loaded.model, [rows[index] for index in chosen], several=loaded.several)
        found.update(zip(chosen, shares, strict=True))
    return [found[index] for index in range(len(rows))]
