"""The space that some vocabularies put before a text: where they do, and the same vocabulary without it.

SentencePiece writes words with the space before them, so a text that begins with a word gets one. A text that goes on
from another must not: it would be a space that nobody wrote.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import tokenizers

Opens = Literal["always", "first", "never"]
"""Before every stretch between special tokens; before the very first characters only; never."""


def opens(hf: tokenizers.Tokenizer) -> Opens:
    """Where this vocabulary puts a space."""
    schemes = {_scheme(part) for part in (*_parts(hf.normalizer), *_parts(hf.pre_tokenizer))}
    return "always" if "always" in schemes else "first" if "first" in schemes else "never"


def without_opening(hf: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same vocabulary, for texts that go on from others."""
    raw = json.loads(hf.to_str())
    kept = [part for part in _members(raw["normalizer"]) if part["type"] != "Prepend"]
    raw["normalizer"] = {"type": "Sequence", "normalizers": kept}
    changed = [part | _UNPREFIXED.get(part["type"], {}) for part in _members(raw["pre_tokenizer"])]
    raw["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": changed} if changed else None
    copy = tokenizers.Tokenizer.from_str(json.dumps(raw))
    copy.encode_special_tokens = hf.encode_special_tokens
    return copy


def _scheme(part: dict[str, Any]) -> Opens:
    if part["type"] == "Prepend" or (part["type"] == "ByteLevel" and part["add_prefix_space"]):
        return "always"
    scheme: Opens = part["prepend_scheme"] if part["type"] == "Metaspace" else "never"
    return scheme


_UNPREFIXED: dict[str, dict[str, Any]] = {
    "ByteLevel": {"add_prefix_space": False},
    "Metaspace": {"prepend_scheme": "never"},
}


def _parts(component: Any) -> list[dict[str, Any]]:
    """The settings of a normalizer or pre-tokenizer, of each member if it is a sequence."""
    return _members(None if component is None else json.loads(component.__getstate__()))


def _members(state: dict[str, Any] | None) -> list[dict[str, Any]]:
    if state is None:
        return []
    return list(state["normalizers"] if "normalizers" in state else state.get("pretokenizers", [state]))
