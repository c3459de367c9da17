"""The gate through a real project database: who becomes champion, who stays; deciding twice changes nothing."""

from contextlib import closing
from pathlib import Path

import pytest

from wyrmling import config
from wyrmling.core.artifact import Artifact
from wyrmling.core.store import Store
from wyrmling.flow import gate


@pytest.fixture
def project(tmp_path):
    raw = {"name": "desk", "objective": {"task": "classify"}, "data": {"sources": {"s": {"path": "x.csv"}}}}
    return config.Project(tmp_path, config.parse(raw, where="test"))


def trained(project, name, weights=None):
    folder = project.root / "runs" / name / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((weights or name).encode())
    return folder


def evaluation(status, conditions=1):
    lines = [
        {"criterion": "macro_f1 >= 0.8", "status": status, "reason": "0.79 (0.77 to 0.81)", "value": 0.79}
        for _ in range(conditions)
    ]
    figures = {
        "verdict": {"status": status, "lines": lines},
        "metrics": {"macro_f1": {"value": 0.79, "low": 0.77, "high": 0.81, "n": 100}, "ece": {"value": None}},
    }
    return Artifact(Path("e"), {"id": "0", "figures": figures})


def aliases(project):
    """alias -> version, of the project's model."""
    with closing(Store.open(project.database_url)) as store:
        return {alias: model.version for model in store.list_models() for alias in model.aliases}


def test_a_model_that_passes_becomes_the_champion_and_the_old_one_the_previous(project):
    first = gate.decide(project, trained(project, "one"), evaluation("PASS"))
    second = gate.decide(project, trained(project, "two"), evaluation("PASS"))
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert aliases(project) == {"champion": 2, "previous": 1}
    assert second.record.metrics == {"macro_f1": 0.79}
    assert "desk:2 is the champion" in second.why


def test_without_conditions_a_model_is_accepted(project):
    decision = gate.decide(project, trained(project, "one"), evaluation("INCONCLUSIVE", conditions=0))
    assert (decision.status, decision.exit_code) == ("PASS", 0)
    assert aliases(project) == {"champion": 1}


@pytest.mark.parametrize(("status", "exit_code"), [("FAIL", 3), ("INCONCLUSIVE", 4)])
def test_a_model_that_does_not_pass_leaves_the_champion_where_it_is(project, status, exit_code):
    gate.decide(project, trained(project, "one"), evaluation("PASS"))
    decision = gate.decide(project, trained(project, "two"), evaluation(status))
    assert decision.exit_code == exit_code
    assert aliases(project) == {"champion": 1, "challenger": 2}
    assert "desk:1 stays the champion" in decision.why
    assert "macro_f1 >= 0.8" in decision.lines[0]


@pytest.mark.parametrize("status", ["FAIL", "INCONCLUSIVE"])
def test_the_first_model_is_no_champion_when_it_does_not_pass(project, status):
    decision = gate.decide(project, trained(project, "one"), evaluation(status))
    assert aliases(project) == {"challenger": 1}
    assert "no champion yet" in decision.why


@pytest.mark.parametrize("status", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_deciding_again_registers_and_moves_nothing(project, status):
    first = gate.decide(project, trained(project, "one"), evaluation(status))
    before = aliases(project)
    again = gate.decide(project, trained(project, "one"), evaluation(status))
    assert (first.reused, again.reused) == (False, True)
    assert again.exit_code == first.exit_code
    assert again.record.version == 1
    assert aliases(project) == before


def test_a_second_unchanged_run_leaves_a_rollback_alone(project):
    gate.decide(project, trained(project, "one"), evaluation("PASS"))
    gate.decide(project, trained(project, "two"), evaluation("PASS"))
    with closing(Store.open(project.database_url)) as store:
        store.rollback("desk")
    again = gate.decide(project, trained(project, "two"), evaluation("PASS"))
    assert aliases(project) == {"champion": 1, "previous": 2}
    assert again.reused
    assert "wyrmling models promote desk:2" in again.why


def test_the_same_weights_in_another_folder_are_the_same_version(project):
    gate.decide(project, trained(project, "one", "same"), evaluation("PASS"))
    moved = gate.decide(project, trained(project, "moved", "same"), evaluation("PASS"))
    assert moved.record.version == 1
    assert moved.record.path == project.root / "runs" / "moved" / "model"


def test_relaxed_conditions_promote_a_challenger_that_is_known(project):
    gate.decide(project, trained(project, "one"), evaluation("PASS"))
    gate.decide(project, trained(project, "two"), evaluation("FAIL"))
    relaxed = gate.decide(project, trained(project, "two"), evaluation("PASS"))
    assert not relaxed.reused
    assert aliases(project) == {"champion": 2, "previous": 1}


def test_a_champion_that_fails_stricter_conditions_stays_until_a_person_decides(project):
    gate.decide(project, trained(project, "one"), evaluation("PASS"))
    stricter = gate.decide(project, trained(project, "one"), evaluation("FAIL"))
    assert stricter.exit_code == 3
    assert aliases(project) == {"champion": 1}
    assert "stays the champion" in stricter.why


def test_the_document_says_what_scripts_need(project):
    document = gate.decide(project, trained(project, "one"), evaluation("FAIL")).document()
    assert document["stage"] == "gate"
    assert document["status"] == "FAIL"
    assert document["model"] == "desk:1"
    assert document["aliases"] == ["challenger"]
    assert document["reused"] is False
    assert document["exit_code"] == 3
