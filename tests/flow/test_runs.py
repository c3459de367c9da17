"""The list of trainings and their comparison: figures are those of the artifacts, curves go where the loss goes."""

import json
import shutil
from contextlib import closing

import pypdfium2
import pytest
from PIL import Image

from shell import ask_here, here
from wyrmling import config
from wyrmling.core import artifact, steps
from wyrmling.core.errors import UsageError
from wyrmling.evaluate import picture
from wyrmling.flow import facts, runs, summary


@pytest.fixture(scope="module")
def project(small_project):
    return config.load(small_project)


def test_every_training_is_listed_with_the_figures_of_its_artifact(project):
    document, text = runs.listing(project)
    assert [run["name"].rpartition("-")[0] for run in document["runs"]] == ["pretrain", "tune"]
    for run in document["runs"]:
        made = artifact.open_artifact(project.runs / "train" / run["name"])
        assert run["loss"] == made.figures["loss"] and run["wh"] == made.cost["wh"]
        assert run["wh_per_1000_tokens"] * made.figures["tokens"] / 1000 == pytest.approx(made.cost["wh"])
        assert run["name"] in text and f"{made.figures['loss']:.4f}" in text
    assert any(bar in text for bar in runs.BARS)


def test_the_verb_lists_by_default_and_is_json(small_project):
    assert (
        ask_here("runs", "--project", small_project)["runs"]
        == ask_here("runs", "list", "--project", small_project)["runs"]
    )


def test_a_training_that_goes_on_or_was_cut_off_is_listed_too(project, tmp_path):
    copy = config.Project(root=tmp_path, settings=project.settings)
    (run,) = [one for one in runs.find(project) if one.objective == "classify"]
    work = tmp_path / "runs" / "train" / ".tune-abc.work"
    work.mkdir(parents=True)
    lines = (project.runs / "train" / run.name / steps.STEPS_FILE).read_text().splitlines(keepends=True)
    (work / steps.STEPS_FILE).write_text("".join(lines[:5]) + '{"step": 9, "lo')
    (found,) = runs.find(copy)
    assert (found.name, found.state) == ("tune-abc", "unfinished")
    assert found.loss == json.loads(lines[4])["loss"] if "loss" in json.loads(lines[4]) else found.loss > 0
    assert "unfinished" in runs.listing(copy)[1]


def test_two_trainings_are_compared_by_what_differs(project):
    document, text = runs.compare(project, "pretrain", "tune")
    assert document["settings"]["step.objective"] == ["masked", "classify"]
    assert "step.schedule" not in document["settings"]
    assert "objective" in text and "forecast" in text and text.count("\n") > 10
    same, _ = runs.compare(project, "tune", document["runs"][1]["name"])
    assert same["settings"] == {}


def test_losses_become_a_picture_that_other_software_reads(small_project, project, tmp_path):
    drawn = {}
    for name, runs_ in (("one.png", ["tune"]), ("all.png", []), ("all.pdf", [])):
        said = ask_here("runs", "plot", *runs_, "--out", tmp_path / name, "--project", small_project)
        drawn[name] = said["runs"]
    assert [len(one) for one in drawn.values()] == [1, 2, 2]
    pixels = {}
    for name in ("one.png", "all.png"):
        with Image.open(tmp_path / name) as image:
            image.load()
            pixels[name] = {colour for _, colour in image.getcolors(maxcolors=10**6)}
    colours = [colour in found for found in pixels.values() for colour in picture.COLOURS[:2]]
    assert colours == [True, False, True, True]
    with closing(pypdfium2.PdfDocument(tmp_path / "all.pdf")) as document:
        text = document[0].get_textpage().get_text_range()
    assert all(run in text for run in drawn["all.pdf"]) and "optimizer step" in text
    with pytest.raises(UsageError, match="can't be a picture"):
        runs.plot(project, [], tmp_path / "loss.gif")


def test_a_name_that_means_no_run_or_several_is_refused(project, tmp_path):
    with pytest.raises(UsageError, match="no run 'nothing'"):
        runs.compare(project, "nothing", "tune")
    shutil.copytree(project.runs / "train", tmp_path / "runs" / "train")
    (first,) = (tmp_path / "runs" / "train").glob("tune-*")
    first.rename(first.with_name("tune-0123456789ab"))
    shutil.copytree(project.runs / "train" / runs.find(project)[-1].name, first)
    with pytest.raises(UsageError, match="2 runs are called 'tune'"):
        runs.compare(config.Project(tmp_path, project.settings), "tune", "pretrain")


def test_a_curve_in_text_goes_up_where_the_values_do():
    rising = [(step, float(step)) for step in range(1, 81)]
    line = runs.sparkline(rising, 8)
    assert line == runs.BARS
    assert runs.sparkline(rising, 8, ends=(0.0, 8000.0)) == runs.BARS[0] * 8
    assert runs.sparkline([], 8) == "" and len(runs.sparkline(rising[:3], 8)) == 3


def test_a_curve_is_averaged_in_stretches_and_keeps_its_mean(tmp_path):
    points = [(step, (step * 7919) % 101 / 10) for step in range(1, 1001)]
    few = steps.averaged(points, 50)
    assert len(few) == 50 and few[-1][0] == 1000
    assert sum(value for _, value in few) / 50 == pytest.approx(sum(value for _, value in points) / 1000)
    assert steps.averaged(points[:10], 50) == points[:10]


def test_the_report_shows_how_the_last_step_learned(project):
    evaluation = facts.newest(project, "evaluate")
    page = (evaluation.path / "report.html").read_text()
    (tune,) = [run for run in runs.find(project) if run.objective == "classify"]
    _, looks = steps.read(project.runs / "train" / tune.name / steps.STEPS_FILE)
    drawn = page.partition("How it learned")[2].partition("</section>")[0]
    lines = [part.partition('"')[0].split() for part in drawn.split('points="')[1:]]
    losses = len(steps.averaged([(n, 0.0) for n in range(tune.steps)]))
    assert sorted(len(line) for line in lines) == sorted([len(looks), losses]) and losses <= steps.POINTS


def test_the_summary_says_the_energy_of_each_stage_and_of_a_thousand_tokens(project, small_project):
    artifacts = [facts.newest(project, stage) for stage in ("data", "tokenizer", "evaluate")]
    made = [artifact.open_artifact(project.runs / "train" / run.name) for run in runs.find(project)]
    figures = summary.document(artifacts[0], artifacts[1], made, artifacts[2])
    assert list(figures["wh_by_stage"]) == ["data", "tokenizer", "train pretrain", "train tune", "evaluate"]
    assert sum(figures["wh_by_stage"].values()) == pytest.approx(figures["wh"])
    tokens = sum(one.figures["tokens"] for one in made)
    assert figures["wh_per_1000_tokens"] * tokens / 1000 == pytest.approx(sum(one.cost["wh"] for one in made))
    table = summary.table(artifacts[0], artifacts[1], made, artifacts[2])
    assert "train tune" in table and "mWh per 1,000 tokens" in table
    assert "estimated" in table or "rapl" in table
    assert "mWh per 1,000 tokens" in here("train", "--project", small_project, "--quiet").stdout
