"""`[tokenizer]`: the vocabulary and how text is cut into tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wyrmling.config.section import Section, Strings


class Tokenizer(Section):
    vocab_size: int | None = Field(default=None, ge=264, le=262_144)
    """Tokens in the vocabulary, special ones included. None: from the size of the training text."""
    pattern: str | None = Field(default=None, min_length=1)
    """How text is cut into words, which tokens never cross: gpt2, cl100k, llama3, qwen2, o200k, or a regular expression
    of your own. None: cl100k, with two digits to a token up to 32,768 tokens and three above."""
    digits: int | None = Field(default=None, ge=1, le=16)
    """Digits of a number that one token holds at most. None: as the pattern has it."""
    whitespace: Literal["joined", "apart", "single"] = "joined"
    """White space: joined (a space belongs to the word after it), apart (in tokens of its own), or single (each
    character a token)."""
    special_tokens: Strings = ()
    """Tokens of your own, such as "<|ticket|>": one token wherever they stand in a text. The template's are there."""
    extend: int = Field(default=0, ge=0, le=65_536)
    """New tokens that the tokenizer of a base model gets, learned from the training text."""
