from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from units import __file__ as units_file
from units import die, square, units
from wyrmling.core.errors import BadInput, WyrmlingError
from wyrmling.core.shards import for_each


@pytest.mark.parametrize("workers", [1, 2])
def test_results_and_words_come_in_the_order_of_units(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = for_each(square, units(tmp_path), tmp_path / "done", title="squares", workers=workers)
    assert found == [0, 1, 4, 9, 16]
    said = capsys.readouterr().err.split("\n")[:-1]
    assert said == ["unit 0", "unit 1", "unit 2", "warning: two", "unit 3", "unit 4"]
    processes = {int((tmp_path / f"calls-{number}").read_text()) for number in range(5)}
    assert (os.getpid() in processes) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_keeps_its_class_and_parts_and_finished_units_are_not_done_again(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    work = units(tmp_path, broken=4)
    with pytest.raises(BadInput) as error:
        for_each(square, work, tmp_path / "done", title="squares", workers=workers)
    assert (error.value.what, error.value.where, error.value.fix) == ("the unit is broken", "unit 4", "mend it")
    (tmp_path / "mended").touch()
    assert for_each(square, work, tmp_path / "done", title="squares", workers=workers) == [0, 1, 4, 9, 16]
    calls = [len((tmp_path / f"calls-{number}").read_text().split()) for number in range(5)]
    assert calls[4] == 2
    assert calls[0] == 1
    assert capsys.readouterr().err.count("unit 0\n") == 1


def test_a_worker_that_dies_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WyrmlingError, match="a worker process ended") as error:
        for_each(die, units(tmp_path), tmp_path / "done", title="deaths", workers=2)
    assert "machine.workers=1" in str(error.value.fix)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "import units as t\n"
        "folder = Path(sys.argv[1])\n"
        "from wyrmling.core.shards import for_each\n"
        "for_each(t.sleep, t.units(folder), folder / 'done', title='sleep', workers=2)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(Path(units_file).parent)])
    for _ in range(600):
        if len(list(tmp_path.glob("worker-*"))) == 2:
            break
        time.sleep(0.05)
    workers = [psutil.Process(int(file.name.removeprefix("worker-"))) for file in tmp_path.glob("worker-*")]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
