"""The access log: one JSON line per request, with counts and times. Never a prompt, an answer, a key or a query."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

from wyrmling.core.errors import BadSetting
from wyrmling.core.store import now


class AccessLog:
    """Writes to a file, to stderr for "-", or nowhere for None.

    folder   what a relative path is relative to
    Raises   BadSetting when the file can't be written
    """

    def __init__(self, where: str | None, folder: Path) -> None:
        self._file: TextIO | None = None
        if where == "-":
            self._file = sys.stderr
        elif where is not None:
            try:
                # Appending, a line at a time: rotation may cut the file short, and two servers may share it.
                self._file = (folder / where).open("a", buffering=1, encoding="utf-8")
            except OSError as error:
                raise BadSetting(
                    f"serve.access_log: {where} can't be written: {error.strerror}",
                    where="serve.access_log",
                    fix="name a file in a folder that exists and may be written, or -",
                ) from error

    def write(self, entry: dict[str, Any]) -> None:
        """One line, with the time of now in front."""
        if self._file is not None:
            self._file.write(json.dumps({"time": now(), **entry}) + "\n")
