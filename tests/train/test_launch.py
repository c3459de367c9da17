"""Where processes run, how a model is spread over them, and the files for schedulers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from wyrmling.config import Launch
from wyrmling.core import ranks
from wyrmling.core.errors import BadSetting, Interrupted, NothingToLearn, UsageError
from wyrmling.train.launch import nodes_of, project_in
from wyrmling.train.order import deal
from wyrmling.train.spread import spread

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("parameters", "gpus", "strategy", "box"),
    [
        (1e9, 8, "ddp", (8, 1, 1)),
        (8e9, 8, "fsdp", (1, 8, 1)),
        (8e9, 512, "hsdp", (64, 8, 1)),
        (70e9, 512, "fsdp", (1, 512, 1)),
    ],
)
def test_what_fits_decides_how_a_model_is_spread(parameters, gpus, strategy, box):
    found = spread(Launch(), world=gpus, node=8, parameters=parameters, memory_gb=80)
    assert (found.strategy, (found.replicas, found.shards, found.tensor)) == (strategy, box)


def test_every_setting_of_the_spread_counts():
    def box(**settings: object) -> tuple[int, int, int]:
        found = spread(Launch.model_validate(settings), world=16, node=8, parameters=1e9, memory_gb=80)
        return found.replicas, found.shards, found.tensor

    assert box(strategy="fsdp") == (1, 16, 1)
    assert box(strategy="hsdp") == (2, 8, 1)
    assert box(strategy="hsdp", shards=4) == (4, 4, 1)
    assert box(strategy="fsdp", tensor=2) == (1, 8, 2)
    assert box(strategy="hsdp", tensor=4) == (2, 2, 4)
    for wrong in ({"tensor": 3}, {"strategy": "hsdp", "shards": 5}):
        with pytest.raises(BadSetting, match="does not divide"):
            box(**wrong)


@pytest.mark.parametrize("lengths", [[5, 3, 9, 9, 1, 4, 7], [40, 1, 1], [6], [], list(range(1, 60))])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_rows_are_dealt_once_and_about_evenly(lengths, ranks):
    bins = deal(lengths, 20, ranks)
    assert sorted(index for one in bins for index in one) == list(range(len(lengths)))
    assert len(bins) % ranks == 0
    sizes = [sum(lengths[index] for index in one) for one in bins]
    assert max(sizes) <= max([20, *lengths])
    assert max(sizes) - min(sizes) <= max(lengths, default=0)


def test_the_command_line_goes_before_the_project_and_schedulers_number_the_nodes(small, monkeypatch):
    project = small.with_settings("launch.processes=3", "launch.nodes=2", "launch.rendezvous='head:29400'")
    with pytest.raises(UsageError, match="which of the 2 nodes"):
        nodes_of(project)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    found = nodes_of(project)
    assert (found.processes, found.count, found.number, found.rendezvous) == (3, 2, 1, "head:29400")
    monkeypatch.setenv("SLURM_NODEID", "0")
    assert nodes_of(project, processes=4).number == 0
    assert nodes_of(project, processes=4).processes == 4
    with pytest.raises(UsageError, match="a place to meet"):
        nodes_of(small.project, nodes=2)
    with pytest.raises(UsageError, match="is not one of"):
        nodes_of(project, node=2)


def test_a_verbs_own_arguments_name_the_project(small, monkeypatch):
    root = small.project.root
    named = ["--step", "tune", f"--project={root}", "--set", "seed=7", "--set", "launch.nodes=2"]
    assert project_in(named).settings.seed == 7
    monkeypatch.chdir(root)
    assert project_in([]).root == root.resolve()


def test_the_first_error_that_a_process_left_is_the_one_that_is_told(tmp_path, monkeypatch):
    error = NothingToLearn("no rows", where="train.tune", fix="add some")
    assert ranks.leave(error) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv(ranks.FOLDER, str(tmp_path))
    for rank, left in ((1, error), (0, Interrupted("stopped"))):
        monkeypatch.setenv("RANK", str(rank))
        assert ranks.leave(left) == (0 if isinstance(left, Interrupted) else 1)
    first, second = (said.error for said in ranks.left_in(tmp_path))
    assert (type(first), str(first)) == (NothingToLearn, str(error))
    assert isinstance(second, Interrupted)


def test_a_process_that_nobody_launched_is_alone(monkeypatch):
    """Other software sets RANK and WORLD_SIZE too."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (ranks.rank(), ranks.world(), ranks.first()) == (0, 1, True)


def test_the_files_for_schedulers_call_the_command_as_it_is():
    bash = shutil.which("bash")
    assert bash is not None
    script = ROOT / "deploy" / "train.sbatch"
    subprocess.run([bash, "-n", script], check=True)
    jobset = (ROOT / "deploy" / "jobset.yaml").read_text()
    from typer.testing import CliRunner

    from wyrmling.cli import app

    help_text = CliRunner().invoke(app, ["launch", "--help"], env={"COLUMNS": "200"}).output
    for text in (script.read_text(), jobset):
        options = set(re.findall(r"(--(?:processes|nodes|node|rendezvous|restarts))\b", text))
        assert {"--processes", "--nodes", "--rendezvous"} <= options
        assert all(option in help_text for option in options)
    (job,) = yaml.safe_load(jobset)["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    assert pods["completionMode"] == "Indexed"
    assert f"--nodes={pods['completions']}" in container["args"]
    assert f"--processes={container['resources']['limits']['nvidia.com/gpu']}" in container["args"]
