"""What the operating system refuses is a message with a remedy; what may be a fault of ours stays one."""

import errno
import os
import pickle

import pytest

from wyrmling.core.errors import BadInput, of_system


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EACCES, "right to read and write"),
        (errno.EROFS, "can be written"),
        (errno.ENOSPC, "make room"),
        (errno.ENOTDIR, "is a file"),
    ],
)
def test_what_is_refused_names_the_path_and_the_remedy(code, remedy):
    said = of_system(OSError(code, os.strerror(code), b"desk/runs"))
    assert said is not None and said.what == f"desk/runs: {os.strerror(code)}"
    assert remedy in said.fix and said.exit_code == 1


def test_what_no_user_can_mend_is_not_excused():
    assert of_system(FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/x")) is None
    assert of_system(OSError(errno.EACCES, "Permission denied")) is None


def test_an_error_of_a_worker_arrives_whole():
    error = pickle.loads(pickle.dumps(BadInput("broken", where="a.csv:3", fix="mend it")))
    assert (error.what, error.where, error.fix) == ("broken", "a.csv:3", "mend it")
    assert str(error) == "broken\n  where: a.csv:3\n  fix:   mend it"
