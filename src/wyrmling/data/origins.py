"""Where rows come from: the files of a source, or the rows of its query, found and hashed before anything is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wyrmling.config import Source
from wyrmling.core.artifact import file_digest
from wyrmling.core.errors import BadInput
from wyrmling.data.files import find_files, relative
from wyrmling.data.query import read_query


@dataclass(frozen=True)
class Origin:
    """Where a source's rows come from, hashed: the files in order, or the query's rows."""

    name: str
    source: Source
    files: tuple[tuple[Path, str], ...] = ()
    """Each file and its path relative to the project folder."""
    digests: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    """Files and folders that can't be read, and why."""
    alone: bool = False
    """True when there is one file only."""

    @property
    def inputs(self) -> dict[str, str]:
        """What the artifact's id depends on: sha256 by file, the reason for what can't be read."""
        names = [shown for _, shown in self.files] if self.source.url is None else ["query"]
        read = {f"{self.name}: {name}": digest for name, digest in zip(names, self.digests, strict=True)}
        return read | {f"{self.name}: {name}": message for name, message in self.refused}


def find_origin(name: str, source: Source, root: Path) -> Origin:
    """The files of a source, or the rows of its query. Raises BadInput when there are none."""
    if source.path is None:
        columns, rows = read_query(name, source, root)
        if not rows:
            raise BadInput("the query gives no rows", where=f"data.sources.{name}.query", fix="correct the query")
        text = json.dumps([columns, rows], default=repr, ensure_ascii=False)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return Origin(name, source, digests=(digest,), columns=tuple(columns), rows=tuple(rows))
    paths, refused = find_files(name, source.path, root)
    files: list[tuple[Path, str]] = []
    digests: list[str] = []
    reasons = [(relative(entry.path, root), entry.message) for entry in refused]
    for path in paths:
        try:
            digests.append(file_digest(path))
            files.append((path, relative(path, root)))
        except OSError as error:
            reasons.append((relative(path, root), f"the file can't be read: {error.strerror or error}"))
    return Origin(
        name,
        source,
        files=tuple(files),
        digests=tuple(digests),
        refused=tuple(reasons),
        alone=len(files) == 1,
    )
