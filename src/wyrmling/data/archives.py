"""Files inside files: ZIP and tar archives, compressed files. Nothing is ever written to disk.

Every size is counted while it is unpacked, because what an archive says of itself may be a lie.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO

from wyrmling.data.content import MAX_BYTES, Content, Unreadable
from wyrmling.data.tables import Problem

MAX_DEPTH = 2
# assumption: text is packed 3 to 20 times smaller, tables of zeros 100 times; bombs start at about 1,000 times.
MAX_RATIO = 200
RATIO_FREE_BYTES = 16 * 2**20
MAX_TOTAL_BYTES = 4 * 2**30
MAX_MEMBERS = 100_000
CHUNK = 2**20

# What the standard library raises for damaged archives.
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError,
    KeyError, NotImplementedError, RuntimeError,
)  # fmt: skip
COMPRESSED = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}


@dataclass
class Allowance:
    """What may still be unpacked from one file of the source, whatever is nested in it."""

    total: int = MAX_TOTAL_BYTES
    members: int = MAX_MEMBERS

    def take(self, size: int) -> None:
        self.total -= size
        if self.total < 0:
            raise Unreadable(f"it unpacks to more than {MAX_TOTAL_BYTES / 2**30:.0f} GB; unpack it and name the folder")

    def take_member(self) -> None:
        self.members -= 1
        if self.members < 0:
            raise Unreadable(f"it holds more than {MAX_MEMBERS:,} files; unpack it and name the folder")


def members(content: Content, family: str, allowance: Allowance) -> Iterator[Content | Problem]:
    """The files in a zip, tar, gz, bz2 or xz, one at a time. What is refused or broken is a problem with its name.

    Raises Unreadable when the whole can't be opened, or may not be opened.
    """
    if content.depth >= MAX_DEPTH:
        raise Unreadable(f"an archive in {MAX_DEPTH} others; unpack it first")
    if family == "zip":
        yield from _zip(content, allowance)
    elif family == "tar":
        with content.open() as file, _Counted(file, content.size, allowance) as counted:
            yield from _tar(content, counted, allowance)
    else:
        with content.open() as file, _expand(content, file, allowance) as stream:
            yield from _compressed(content, stream, allowance)


def _zip(content: Content, allowance: Allowance) -> Iterator[Content | Problem]:
    with open_zip(content) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir() and not _hidden(info.filename)]
        for info in infos:
            allowance.take_member()
            place = f"!{info.filename}"
            mode = info.external_attr >> 16
            if (reason := _refused(info.filename, link=stat.S_ISLNK(mode))) is not None:
                yield Problem(place, reason)
                continue
            try:
                raw = read_part(archive, info, allowance)
            except Unreadable as error:
                yield Problem(place, str(error))
                if allowance.total < 0:
                    return
            else:
                yield content.inside(info.filename, raw, alone=content.alone and len(infos) == 1)


def open_zip(content: Content) -> zipfile.ZipFile:
    """Raises Unreadable when it is no ZIP file, or broken."""
    try:
        return zipfile.ZipFile(io.BytesIO(content.raw) if content.path is None else content.path)
    except BROKEN as error:
        raise Unreadable(f"a broken ZIP file ({_said(error)}); copy or save it again") from error


def read_part(archive: zipfile.ZipFile, info: zipfile.ZipInfo | str, allowance: Allowance) -> bytes:
    """The bytes of one file in a ZIP. Raises Unreadable: absent, locked, broken, too large, packed like a bomb."""
    try:
        info = archive.getinfo(info) if isinstance(info, str) else info
        if info.flag_bits & 1:
            raise Unreadable("it is protected by a password; unpack it first")
        _check(info.file_size, info.compress_size)
        with archive.open(info) as file:
            return _drain(file, info.compress_size, allowance)
    except (NotImplementedError, RuntimeError) as error:
        raise Unreadable(f"packed in a way that is not read ({error}); unpack it first") from error
    except BROKEN as error:
        raise Unreadable(f"broken in the archive ({_said(error)})") from error


def _drain(file: IO[bytes], packed: int, allowance: Allowance) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := file.read(CHUNK):
        size += len(piece)
        allowance.take(len(piece))
        _check(size, packed)
        pieces.append(piece)
    return b"".join(pieces)


def _check(size: int, packed: int) -> None:
    if size > MAX_BYTES:
        raise Unreadable(f"larger than {MAX_BYTES // 2**20} MB; unpack it and name the folder")
    if size > RATIO_FREE_BYTES and size > MAX_RATIO * max(packed, 1):
        raise Unreadable(f"it unpacks to more than {MAX_RATIO} times its size, as a zip bomb does; unpack it first")


class _Counted(io.RawIOBase):
    """A stream that refuses to give more than is allowed: the guard for compressed files and what is nested in them."""

    def __init__(self, stream: IO[bytes], packed: int, allowance: Allowance) -> None:
        self._stream, self._packed, self._allowance, self._size = stream, packed, allowance, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(CHUNK if size < 0 else min(size, CHUNK))
        self._size += len(piece)
        self._allowance.take(len(piece))
        if self._size > RATIO_FREE_BYTES and self._size > MAX_RATIO * max(self._packed, 1):
            raise Unreadable(f"it unpacks to more than {MAX_RATIO} times its size, as a bomb does; unpack it first")
        return piece


def _expand(content: Content, file: BinaryIO, allowance: Allowance) -> _Counted:
    magic = file.read(6)
    file.seek(0)
    family = next(name for start, name in COMPRESSED.items() if magic.startswith(start))
    openers: dict[str, Callable[[BinaryIO], Any]] = {
        "gz": lambda packed: gzip.GzipFile(fileobj=packed),
        "bz2": bz2.BZ2File,
        "xz": lzma.LZMAFile,
    }
    return _Counted(openers[family](file), content.size, allowance)


def _compressed(content: Content, stream: _Counted, allowance: Allowance) -> Iterator[Content | Problem]:
    """The one file that was compressed, or the files of the tar that was."""
    try:
        start = stream.read(512)
        if is_tar(start):
            yield from _tar(content, _Rejoined(start, stream), allowance)
            return
        pieces, size = [start], len(start)
        while piece := stream.read():
            size += len(piece)
            if size > MAX_BYTES:
                raise Unreadable(f"larger than {MAX_BYTES // 2**20} MB once unpacked; unpack it first")
            pieces.append(piece)
    except BROKEN as error:
        raise Unreadable(f"a broken compressed file ({_said(error)}); copy or save it again") from error
    name = PurePosixPath(content.name.rpartition("!")[2]).name
    inner = name.rsplit(".", 1)[0] if name.lower().endswith((".gz", ".bz2", ".xz")) else name
    yield content.inside(inner, b"".join(pieces), alone=content.alone)


class _Rejoined(io.RawIOBase):
    """A stream whose start was already read."""

    def __init__(self, start: bytes, rest: _Counted) -> None:
        self._start, self._rest = start, rest

    def read(self, size: int = -1) -> bytes:
        if not self._start:
            return self._rest.read(size)
        piece, self._start = self._start[:size], self._start[size:]
        return piece


def is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _tar(content: Content, file: _Counted | _Rejoined, allowance: Allowance) -> Iterator[Content | Problem]:
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for info in archive:
                if info.isdir() or _hidden(info.name):
                    continue
                allowance.take_member()
                reason = _refused(
                    info.name, link=info.issym() or info.islnk(), device=not info.isfile() or info.issparse()
                )
                if reason is None and info.size > MAX_BYTES:
                    reason = f"larger than {MAX_BYTES // 2**20} MB; unpack it and name the folder"
                if reason is not None:
                    yield Problem(f"!{info.name}", reason)
                    continue
                member = archive.extractfile(info)
                assert member is not None
                yield content.inside(info.name, member.read())
    except BROKEN as error:
        yield Problem("", f"the archive is broken from here on ({_said(error)}); copy or save it again")


def _hidden(name: str) -> bool:
    """True for what systems add on their own: __MACOSX, .DS_Store and other hidden files."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)


def _refused(name: str, *, link: bool, device: bool = False) -> str | None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        return "its name leads out of the archive; it is not read"
    if link:
        return "a link in an archive is not followed"
    return "not an ordinary file; it is not read" if device else None


def _said(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
