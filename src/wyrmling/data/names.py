"""Names of people in text, found by a function of the user's: no pattern knows them, and wyrmling has no model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from wyrmling.core.errors import BadSetting

FindNames = Callable[[str], Iterable[tuple[int, int]]]
WHERE = "data.clean.names"


def no_names(text: str) -> Iterable[tuple[int, int]]:
    """None: without `data.clean.names` names stay as they are."""
    return ()


def reach(root: Path) -> None:
    """Let functions in files of the project folder be found, here and in the processes that start from here."""
    if str(root) not in sys.path:
        sys.path.append(str(root))


@lru_cache
def finder(reference: str | None) -> FindNames:
    """The function that "package.module:function" names, which gives (start, end) for each name in a text.

    Raises   BadSetting when there is none, and, when it is called, for spans that are not inside the text
    """
    if reference is None:
        return no_names
    module, _, name = reference.partition(":")
    try:
        function: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadSetting(
            f"{reference!r} can't be imported: {error}",
            where=WHERE,
            fix="give package.module:function of an installed package, or of a Python file in the project folder",
        ) from error

    def find(text: str) -> list[tuple[int, int]]:
        spans = [(int(start), int(end)) for start, end in function(text)]
        for start, end in spans:
            if not 0 <= start < end <= len(text):
                raise BadSetting(
                    f"{reference} gives the span ({start}, {end}) for a text of {len(text)} characters",
                    where=WHERE,
                    fix="it must give (start, end) in characters for each name in the text",
                )
        return spans

    return find
