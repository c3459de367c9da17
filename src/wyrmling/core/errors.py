"""The errors a user can meet. Each one says what happened, where, and what to do.

WyrmlingError            exit 1   something the message tells how to mend
├── BadInput             exit 1   a file, row, page or query of the user's data
├── BadSetting           exit 1   a setting in the project file
├── CorruptArtifact      exit 1   a file wyrmling wrote is not what it wrote
├── NothingToLearn       exit 1   training would run, but learn nothing
├── UsageError           exit 2   wrong command line
├── GateRefused          exit 3   a check said no: acceptance, parity
├── Inconclusive         exit 4   the test rows cannot tell
└── Interrupted          exit 75  stopped by a signal, the work so far is saved
"""

from __future__ import annotations

import errno
import os
from typing import Any


class WyrmlingError(Exception):
    """An error whose message is meant for the user.

    what   one sentence: what happened, with the offending value
    where  the file and row, the page, or the setting
    fix    what to do about it
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        lines = [what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if fix:
            lines.append(f"  fix:   {fix}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are made again from their args, which hold the message only; workers send theirs to the parent.
        return _again, (type(self), self.what, self.where, self.fix)


def _again(kind: type[WyrmlingError], what: str, where: str | None, fix: str | None) -> WyrmlingError:
    return kind(what, where=where, fix=fix)


class BadInput(WyrmlingError):
    """The user's data can't be used as it is."""


class BadSetting(WyrmlingError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class CorruptArtifact(WyrmlingError):
    """A file of an artifact, checkpoint or model folder is missing or changed."""


class NothingToLearn(WyrmlingError):
    """The training rows hold nothing that the objective could learn."""


class UsageError(WyrmlingError):
    """The command line is wrong."""

    exit_code = 2


class GateRefused(WyrmlingError):
    """A check said no: an acceptance criterion failed, or answers differ from the trained model's."""

    exit_code = 3


class Inconclusive(WyrmlingError):
    """The evidence is too thin to accept or refuse."""

    exit_code = 4


class Interrupted(WyrmlingError):
    """Stopped by a signal after saving; the same command goes on from there."""

    exit_code = 75


# What the system may refuse that is no fault of ours, and what to do about it.
_REMEDIES = {
    errno.EACCES: "give this user the right to read and write there, or choose another folder",
    errno.EPERM: "give this user the right to read and write there, or choose another folder",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.ENOSPC: "make room on the disk; what is finished is kept, and the same command goes on from there",
    errno.EDQUOT: "make room on the disk; what is finished is kept, and the same command goes on from there",
    errno.ENOTDIR: "a part of this path is a file, not a folder; correct the path, or move the file away",
    errno.EISDIR: "this is a folder; name a file",
    errno.EEXIST: "move the file away, or choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
}


def of_system(error: OSError) -> WyrmlingError | None:
    """What the operating system refused, as a message with its remedy; None for what may be a fault of wyrmling."""
    if error.errno not in _REMEDIES or error.filename is None:
        return None
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
    return WyrmlingError(f"{path}: {error.strerror}", fix=_REMEDIES[error.errno])
