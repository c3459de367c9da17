"""run: what has not changed is found in less than 3 s without torch; a change reruns its stage and those after it."""

import json
import shutil
import subprocess
import sys

import pytest

from shell import ask_here, here
from wyrmling import config
from wyrmling.flow import facts, rungs


@pytest.fixture
def project(small_project, tmp_path):
    """A copy of the small project after its first run."""
    copy = tmp_path / "support-desk"
    shutil.copytree(small_project, copy)
    return copy


def reused(document):
    return {(stage["stage"], stage["name"]): stage["reused"] for stage in document["stages"]}


def test_a_second_run_finds_everything_and_imports_no_torch(project):
    code = (
        "import sys; from pathlib import Path; from wyrmling import config; from wyrmling.flow import run; "
        "done = run.run(config.load(Path(sys.argv[1]))); done.text(); "
        "assert all(stage['reused'] for stage in done.document()['stages']); "
        "assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(project)], check=True)


def test_the_document_has_one_entry_per_stage_the_verdict_and_the_figures(project):
    document = ask_here("run", "--project", project, "--quiet")
    assert list(reused(document)) == [
        ("data", "support-desk"),
        ("tokenizer", "support-desk"),
        ("train", "pretrain"),
        ("train", "tune"),
        ("evaluate", "support-desk"),
        ("gate", "support-desk"),
    ]
    assert document["verdict"]["status"] == "PASS"
    assert document["model"] == "support-desk:1"
    figures = document["summary"]
    assert figures["rows"]["read"] == sum(figures["rows"][name] for name in ("kept", "dropped", "errors"))
    assert figures["score"]["low"] <= figures["score"]["value"] <= figures["score"]["high"]
    assert set(figures["baselines"]) == {"majority", "tfidf"}
    for stage in document["stages"][:-1]:
        assert stage["cost"]["seconds"] > 0 and stage["cost"]["wh"] > 0
    for stage in document["stages"][2:4]:
        assert 0 < stage["forecast"]["minutes"]["low"] < stage["forecast"]["minutes"]["high"]


def test_the_text_is_the_summary_table(project):
    text = here("run", "--project", project, "--quiet").stdout
    for part in ("rows", "trained on", "macro_f1", "tfidf", "minutes", "Wh", "peak memory", "PASS", "report.html"):
        assert part in text


def test_a_changed_condition_reruns_only_the_evaluation_and_may_refuse(project):
    done = here(
        "run",
        "--project",
        project,
        "--quiet",
        "--json",
        "--set",
        'objective.accept=["accuracy >= 0.9999"]',
        check=False,
    )
    document = json.loads(done.stdout)
    assert done.exit_code == 3
    assert [stage for stage, was in reused(document).items() if not was] == [
        ("evaluate", "support-desk"),
        ("gate", "support-desk"),
    ]
    assert document["verdict"]["status"] == "FAIL"
    champion = next(m for m in ask_here("models", "--project", project)["models"] if "champion" in m["aliases"])
    assert champion["version"] == 1


def test_what_training_took_is_remembered_and_corrects_the_next_plan(project):
    from contextlib import closing

    from wyrmling.core import hardware
    from wyrmling.core.store import Store
    from wyrmling.train.forecast import Pricing, correct

    loaded = config.load(project)
    with closing(Store.open(loaded.database_url)) as store:
        records = store.forecasts(hardware.machine().id)
    assert [record.work.split("/")[1] for record in records] == ["pretrain", "tune"]
    for record in records:
        for name in ("minutes", "memory_gb", "kwh"):
            assert record.forecast[name] > 0 and record.actual[name] > 0
    assert correct(Pricing.of(loaded).records, "classify").runs == 1


def test_a_plan_after_a_run_counts_exactly_and_names_a_baseline_that_is_enough(project):
    loaded = config.load(project)
    known = facts.look(loaded)
    assert known.exact
    assert any("tfidf" in line for line in rungs.advice(loaded, known))
    strict = config.load(project, ['objective.accept=["accuracy >= 0.9999"]'])
    assert not list(rungs.advice(strict, known))


def test_an_export_is_the_model_and_is_never_written_over_something(project, tmp_path):
    made = ask_here("export", "--project", project, "--model", "support-desk", "--to", "hf", "--out", tmp_path / "out")
    trained = ask_here("models", "--project", project)["models"][0]["path"]
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (project / trained / name).read_bytes()
    assert made["bytes"] > 0
    again = here("export", "--project", project, "--model", "support-desk", "--out", tmp_path / "out", check=False)
    assert again.exit_code == 2 and "not empty" in again.stderr


def test_an_export_of_changed_weights_is_refused_and_leaves_nothing(project, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = project / ask_here("models", "--project", project)["models"][0]["path"]
    tensors = load_file(folder / "model.safetensors")
    # Not the embedding: a norm follows it, and takes any factor out again.
    name = next(key for key in tensors if "mlp" in key and tensors[key].ndim == 2)
    save_file(tensors | {name: tensors[name] * 1.5}, folder / "model.safetensors", metadata={"format": "pt"})
    done = here("export", "--project", project, "--model", folder, "--out", tmp_path / "out", check=False)
    assert done.exit_code == 3
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["support-desk"]


def test_an_unknown_export_format_names_the_known_ones(project, tmp_path):
    done = here(
        "export", "--project", project, "--model", "support-desk", "--to", "tar", "--out", tmp_path / "x", check=False
    )
    assert done.exit_code == 2 and "hf" in done.stderr
