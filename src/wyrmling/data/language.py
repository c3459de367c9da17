"""The language of a text, told offline by py3langid (extra `language`): 140 languages, a model inside the package."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from wyrmling.core.errors import BadSetting

UNKNOWN = "und"  # ISO 639-2 for undetermined
# assumption: below 20 letters or a probability of 0.5 the answer is a guess; 1,000 characters tell as much as a book.
MIN_LETTERS, MIN_PROBABILITY, READ_CHARS = 20, 0.5, 1_000
LETTER = re.compile(r"[^\W\d_]")
CODE = re.compile(r"[a-z]{2,3}")


def language_of(text: str) -> str:
    """The ISO 639-1 code of the text's language; "und" for short, mixed or wordless text.

    Raises   BadSetting when py3langid is not installed
    """
    head = text[:READ_CHARS]
    if len(LETTER.findall(head)) < MIN_LETTERS:
        return UNKNOWN
    code, probability = _identifier().classify(head)
    return str(code) if probability >= MIN_PROBABILITY else UNKNOWN


@lru_cache(maxsize=1)
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise BadSetting(
            "data.clean.language and data.clean.languages need py3langid, which is not installed",
            fix="pip install 'wyrmling[language]', or leave them out",
        ) from error
    # Without norm_probs the score is a raw log value.
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def check(languages: tuple[str, ...]) -> None:
    """Raises BadSetting for a wanted language that can never be found, such as "english"."""
    known = _identifier().nb_classes if languages else ()
    for name in languages:
        if name not in known:
            raise BadSetting(
                f"data.clean.languages names {name!r}, which is no language that can be told",
                fix='give ISO 639-1 codes in small letters, such as "en" or "de"',
            )
