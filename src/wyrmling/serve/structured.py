"""Answers in a given form: JSON by a schema, or calls of functions, held to it token by token (llguidance).

The grammar decides which tokens may come next; what is drawn among them is the model's own choice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llguidance
import numpy as np
import torch
from torch import Tensor

from wyrmling.core.functions import CLOSING, OPENING
from wyrmling.model.sampling import Finish
from wyrmling.serve.openai import ApiError
from wyrmling.tokenizer.tokenizer import Tokenizer

_log = logging.getLogger("wyrmling.serve")

# Between two parts of the JSON: nothing, a space, or a line break and its indent. By default it may go on for ever, and
# small models do.
_GUIDANCE: Any = {"whitespace_pattern": r"( |\n {0,16})?"}


@dataclass(frozen=True)
class Form:
    """A grammar that was checked, for the vocabulary of one model. Implements `model.sampling.Grammar`."""

    vocabulary: llguidance.LLTokenizer
    grammar: str
    tokens: int

    def matcher(self) -> Progress:
        return Progress(llguidance.LLMatcher(self.vocabulary, self.grammar), self.tokens)


class Progress:
    """Where one answer stands in its form. Implements `model.sampling.Matcher`."""

    def __init__(self, matcher: llguidance.LLMatcher, tokens: int) -> None:
        self._matcher, self._tokens = matcher, tokens

    def allowed(self) -> Tensor:
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        if self._matcher.is_error():
            # Past llguidance's limits of size and time. `take` ends the answer with the next token, whatever it is.
            return torch.ones(self._tokens, dtype=torch.bool)
        return torch.from_numpy(bits[: self._tokens]).bool()

    def take(self, token: int) -> Finish | None:
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            _log.warning("an answer was cut off: its form is too complex: %s", self._matcher.get_error())
            return "length"
        return "stop" if self._matcher.is_stopped() else None


def of_schema(schema: Mapping[str, Any], tokenizer: Tokenizer, tokens: int) -> Form:
    """Answers that are JSON by `schema`.

    tokens   ids that the model may draw
    Raises   ApiError 400 for a schema that is none, or that holds what can't be enforced
    """
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_GUIDANCE)
    return _checked(grammar, tokenizer, tokens, param="response_format")


def of_calls(functions: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, tokens: int, *, must_call: bool) -> Form:
    """Answers that call one of `functions` with arguments by its schema.

    functions   {name, parameters} each
    must_call   True: the answer is one call; False: text, with calls where the model opens one
    Raises      ApiError 400 for parameters that are no schema, or that hold what can't be enforced
    """
    schema = {"x-guidance": _GUIDANCE, "anyOf": [_call_schema(function) for function in functions]}
    if must_call:
        opening, closing = json.dumps(f"{OPENING}\n"), json.dumps(f"\n{CLOSING}")
        grammar = f"start: {opening} call {closing}\ncall: %json {json.dumps(schema)}\n"
    else:
        tag = llguidance.StructTag(trigger=OPENING, begin=f"{OPENING}\n", grammar=schema, end=f"\n{CLOSING}")
        grammar = llguidance.StructTag.to_grammar([tag], assume_special=False)
    return _checked(llguidance.LLMatcher.grammar_from_lark(grammar), tokenizer, tokens, param="tools")


def _call_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _checked(grammar: str, tokenizer: Tokenizer, tokens: int, *, param: str) -> Form:
    vocabulary = _vocabulary(tokenizer, tokens)
    if wrong := llguidance.LLMatcher.validate_grammar(grammar, vocabulary):
        # The reason is llguidance's; it quotes the schema at most, and is cut so that a request can't grow it.
        raise ApiError(400, f"{param}: {wrong.splitlines()[0][:300]}", code="invalid_value", param=param)
    return Form(vocabulary, grammar, tokens)


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: Tokenizer, tokens: int) -> llguidance.LLTokenizer:
    """A model's vocabulary as llguidance has it; made once, as it takes a moment."""
    return llguidance.LLTokenizer(tokenizer.json(), n_vocab=tokens, eos_token=list(tokenizer.end_ids))
