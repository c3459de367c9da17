"""A file to read, or a file inside a file: its name, its first bytes, its text. Nothing larger than a limit is held."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from wyrmling.data.decode import BYTE_ORDER_MARKS, decode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# assumption: no single document of a company is larger, and twice of it fits into the memory of a small machine.
MAX_BYTES = 128 * 2**20
MAX_LINE_BYTES = 64 * 2**20
HEAD_BYTES = 65_536


class Unreadable(Exception):
    """A file that can't be read, and what would be needed."""


class TooLarge(Unreadable):
    """More than is held in memory at once."""


@dataclass(frozen=True)
class Content:
    """What there is to read under one name.

    name    where a person finds it: "mail/box.zip!june/note.txt" is the file june/note.txt in mail/box.zip
    path    None for a file inside a file, which is then held in `raw`
    alone   True when it is all that its source has
    depth   how many files it lies in
    """

    name: str
    path: Path | None = None
    raw: bytes = field(default=b"", repr=False)
    alone: bool = False
    depth: int = 0

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()

    @property
    def size(self) -> int:
        return len(self.raw) if self.path is None else self.path.stat().st_size

    def open(self) -> BinaryIO:
        return io.BytesIO(self.raw) if self.path is None else self.path.open("rb")

    def head(self, size: int = HEAD_BYTES) -> bytes:
        with self.open() as file:
            return file.read(size)

    def read(self) -> bytes:
        """All bytes. Raises TooLarge over MAX_BYTES."""
        if self.path is None:
            return self.raw
        with self.path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise TooLarge(
                f"a document of {self.size / 2**20:,.0f} MB, more than the {MAX_BYTES // 2**20} MB held at once; "
                "split it into files, or save it as JSON Lines"
            )
        return raw

    def inside(self, name: str, raw: bytes, *, alone: bool = False) -> Content:
        """A file that lies in this one."""
        return Content(f"{self.name}!{name}", raw=raw, alone=alone, depth=self.depth + 1)

    def lines(self, encoding: str | None = None) -> Iterator[str | None]:
        """The lines of a text that is too large to be held; None for a line of more than MAX_LINE_BYTES.

        Raises Undecodable for binary files; Unreadable for encodings whose line ends are not the byte 10.
        """
        head = self.head(2**20)
        name = encoding or decode(head[: head.rfind(b"\n") + 1] or head).encoding
        if name.lower().startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
            raise Unreadable(f"too large to be read in {name}; save it as UTF-8")
        with self.open() as file:
            for number, line in enumerate(_raw_lines(file)):
                if number == 0 and line is not None:
                    line = next((line[len(m) :] for m, _ in BYTE_ORDER_MARKS if line.startswith(m)), line)
                yield None if line is None else line.decode(name, "replace")


class Lines:
    """Which bytes of a text file hold which of its lines; looked for when first asked."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def span(self, lines: tuple[int, int] | None) -> tuple[int, int] | None:
        """Where the first of the lines starts and the last one ends; None for files whose lines end in another way."""
        if lines is None or self._starts is None:
            return None
        first, last = lines
        return int(self._starts[first - 1]), int(self._starts[last])

    @cached_property
    def _starts(self) -> NDArray[np.int64] | None:
        """Where each line starts, and the end of the file. None for UTF-16, UTF-32 and bare carriage returns."""
        import numpy as np

        starts, size = [np.zeros(1, np.int64)], 0
        with self._content.open() as file:
            while piece := file.read(2**20):
                piece += file.read(1) if piece.endswith(b"\r") else b""
                if b"\0" in piece or piece.count(b"\r") != piece.count(b"\r\n"):
                    return None
                starts.append(np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n")) + size + 1)
                size += len(piece)
        return np.concatenate([*starts, [size]])


def _raw_lines(file: BinaryIO) -> Iterator[bytes | None]:
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while rest := file.read(2**20):
            if (end := rest.find(b"\n")) >= 0:
                file.seek(end + 1 - len(rest), 1)
                break
        yield None
