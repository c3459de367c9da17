"""The files under deploy/ fit the server: commands it takes, routes it has, time enough to finish answers."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import yaml

from shell import ROOT
from wyrmling.serve.app import ROUTES
from wyrmling.serve.guard import PUBLIC
from wyrmling.serve.pool import DRAIN_SECONDS

DEPLOY = ROOT / "deploy"
KUBERNETES = [
    (path.name, document)
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
CONTAINERS = [
    (document["metadata"]["name"], document["spec"]["template"]["spec"], container)
    for _, document in KUBERNETES
    if document["kind"] == "Deployment"
    for container in document["spec"]["template"]["spec"]["containers"]
]


def options_of(verb: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, "-m", "wyrmling", verb, "--help"], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"--[a-z-]+", shown.stdout))


def ours() -> dict[str, list[str]]:
    """Every command line of ours in the files, by file."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["serve"]["command"]
    found = {"compose.yaml": compose, "wyrmling.service": shlex.split(unit()["Service"]["ExecStart"])[1:]}
    for name, _, container in CONTAINERS:
        if container["image"] == "wyrmling":
            found[f"kubernetes {name}"] = container["args"]
    return found


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string((DEPLOY / "wyrmling.service").read_text())
    return parser


def test_every_command_is_one_that_the_command_line_takes() -> None:
    known = options_of("serve")
    for where, command in ours().items():
        assert command[0] == "serve", where
        assert {word for word in command if word.startswith("--")} <= known, where


def test_probes_ask_routes_that_need_no_key() -> None:
    paths = re.findall(r"127\.0\.0\.1:8000(/\w+)", (DEPLOY / "Dockerfile").read_text())
    for name, _, container in CONTAINERS:
        if container["image"] == "wyrmling":
            paths += [
                container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
            ]
            assert len(paths) >= 3, name
    assert set(paths) <= PUBLIC & {path for _, path, _ in ROUTES}


def test_answers_have_time_to_finish_before_the_process_is_killed() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["serve"]
    graces = [int(compose["stop_grace_period"].removesuffix("s")), int(unit()["Service"]["TimeoutStopSec"])]
    graces += [
        pod["terminationGracePeriodSeconds"] for _, pod, container in CONTAINERS if container["image"] == "wyrmling"
    ]
    assert min(graces) > DRAIN_SECONDS + 5


@pytest.mark.parametrize(("name", "pod", "container"), CONTAINERS, ids=[name for name, _, _ in CONTAINERS])
def test_pods_run_without_rights_they_do_not_need(name: str, pod: dict[str, Any], container: dict[str, Any]) -> None:
    if container["image"] == "wyrmling":
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
    assert mounted <= {volume["name"] for volume in pod["volumes"]}


def test_services_find_their_pods() -> None:
    labels = [
        document["spec"]["template"]["metadata"]["labels"]
        for _, document in KUBERNETES
        if document["kind"] == "Deployment"
    ]
    for _, document in KUBERNETES:
        if document["kind"] == "Service":
            assert document["spec"]["selector"] in labels


def test_the_image_copies_files_that_exist_and_runs_as_nobody_special() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert lines.index("USER 10001") < next(n for n, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
    assert json.loads(next(line for line in lines if line.startswith("ENTRYPOINT")).removeprefix("ENTRYPOINT ")) == [
        "wyrmling"
    ]
