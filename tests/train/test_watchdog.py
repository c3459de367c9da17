"""A step that hangs is named while it hangs, with what every thread is doing."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wyrmling.train.loop import Step
from wyrmling.train.watchdog import watched


def sleepy(seconds: list[float]) -> Iterator[Step]:
    for number, pause in enumerate(seconds, start=4):
        time.sleep(pause)
        yield Step(number, 1.0, 1, 1, 1.0, 1.0, pause, "")


def test_a_hanging_step_is_named_once_with_the_stacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = list(watched(sleepy([0.0, 0.0, 0.6, 0.0]), tmp_path, first=4, allowance=0.1))
    assert [step.number for step in done] == [4, 5, 6, 7]
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("far longer than those before it") == 1 and "step 6 takes" in said
    assert [path.name for path in tmp_path.iterdir()] == ["hang-6.txt"]
    assert "sleepy" in (tmp_path / "hang-6.txt").read_text()


def test_what_the_caller_does_between_steps_is_not_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in watched(sleepy([0.0, 0.0]), tmp_path, first=4, allowance=0.1):
        time.sleep(0.3)
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err == ""
