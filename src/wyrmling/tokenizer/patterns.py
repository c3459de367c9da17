"""The regular expression that cuts text into words before tokens are formed; a token never crosses its cuts."""

from __future__ import annotations

import tokenizers

from wyrmling.config import Tokenizer as Settings
from wyrmling.core.errors import BadSetting

# %s is the repetition of the digits in one piece. Sources: GPT-2 encoder.py; tiktoken openai_public.py (cl100k_base,
# o200k_base); tokenizer.json of Qwen2, which is cl100k with one digit at a time.
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}%s| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# name -> the expression, and the digits that it takes together; None: all.
NAMED: dict[str, tuple[str, int | None]] = {
    "gpt2": (_GPT2, None),
    "cl100k": (_CL100K, 3),
    "llama3": (_CL100K, 3),
    "qwen2": (_CL100K, 1),
    "o200k": (_O200K, 3),
}

# What is tried before the expression itself: white space that is never part of a word.
_WHITESPACE = {"joined": "", "apart": r"\s+|", "single": r"\s|"}

# Vocabularies up to this size take numbers two digits at a time: best there, as measured by nanochat.
_SMALL_VOCAB = 32_768

# The end of all named patterns: white space, but for the last of it before a word.
_LOOKING_AHEAD = r"|\s+(?!\S)|\s+"


def grouped(pattern: str) -> str:
    """The same expression for rustbpe, whose engine tries each part of one that looks ahead by itself.

    In a group of their own the parts that don't look ahead are tried at once, which takes three quarters of the time.
    """
    before = pattern.removesuffix(_LOOKING_AHEAD)
    is_whole = before in ("", pattern) or before.endswith("\\")
    return pattern if is_whole else f"(?:{before}){_LOOKING_AHEAD}"


def word_pattern(settings: Settings, vocab_size: int) -> str:
    """The expression that the settings ask for, by default that of GPT-4 (cl100k).

    Raises   BadSetting for an expression that is not valid, and for one of the user's own beside `digits` or
             `whitespace`, which shape the named ones only.
    """
    name = settings.pattern or "cl100k"
    if name not in NAMED:
        return _own(settings)
    expression, digits = NAMED[name]
    if settings.pattern is None:
        digits = 2 if vocab_size <= _SMALL_VOCAB else 3
    digits = settings.digits or digits
    repetition = "+" if digits is None else "" if digits == 1 else f"{{1,{digits}}}"
    return _WHITESPACE[settings.whitespace] + expression % repetition


def _own(settings: Settings) -> str:
    pattern = str(settings.pattern)
    if settings.digits is not None or settings.whitespace != "joined":
        raise BadSetting(
            "digits and whitespace shape the named patterns, not one of your own",
            where="tokenizer.pattern",
            fix=f"say it in the pattern itself, or name one of: {', '.join(NAMED)}",
        )
    try:
        probe = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        probe.pre_tokenize_str("a 1")
    except Exception as error:  # tokenizers raises plain Exception for an expression it can't compile
        raise BadSetting(
            f"tokenizer.pattern = {pattern!r} is neither a named pattern nor a valid regular expression: {error}",
            where="tokenizer.pattern",
            fix=f"correct it, or name one of: {', '.join(NAMED)}",
        ) from error
    return pattern
