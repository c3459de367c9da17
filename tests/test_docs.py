"""Every code block of README.md and docs/ is true.

bash    each `wyrmling` and `curl` line runs against the small project of the suite, those of the first page as a shell
        runs them; `wyrmling serve` starts a server that lives until the page ends. `./scripts/...`, `pip`, `cd`, `git`,
        `export` and `. ` lines are not run
toml    must be accepted as a project file, or as a part of one
python  runs as a program, with the server of the page where there is one
json    must parse
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shell import ROOT, SMALL, free_port, here, wait_until_ready
from wyrmling import config

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_RUN = ("./scripts/", "pip ", "cd ", "git ", "export ", ". ", "#", "python benchmarks/", ".venv/bin/pip", "docker ")


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind in languages]


def commands(text: str) -> list[str]:
    """The lines of a bash block, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_on_the_page_are_accepted(page):
    small = tomllib.loads(SMALL)
    for _, text in blocks(page, "toml"):
        part = tomllib.loads(text)
        whole = part if {"objective", "data"} <= part.keys() else merged(small, part)
        for step in whole.get("train", []):
            # A part may speak of sources that only the page's project has.
            if step.get("sources") and not set(step["sources"]) <= set(whole["data"]["sources"]):
                step.pop("sources")
        config.parse(whole, where=name_of(page))


def merged(base: dict, part: dict) -> dict:
    joined = json.loads(json.dumps(base))
    for key, value in part.items():
        both = isinstance(value, dict) and isinstance(joined.get(key), dict)
        joined[key] = merged(joined[key], value) if both else value
    return joined


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_json_on_the_page_parses(page):
    for _, text in blocks(page, "json"):
        json.loads(text)


RUNNABLE = [page for page in PAGES if page.parent.parent.name != "examples" and blocks(page, "bash", "python")]


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_the_page_runs(page, small_project, tmp_path):
    project = tmp_path / "support-desk"
    shutil.copytree(small_project, project)
    port = str(free_port())
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with contextlib.ExitStack() as servers:
        for kind, text in blocks(page, "bash", "python"):
            text = text.replace("8000", port)
            if kind == "python":
                with contextlib.chdir(project):
                    exec(compile(text, name_of(page), "exec"), {"__name__": "__main__"})
                continue
            for line in commands(text):
                if line.startswith("wyrmling serve"):
                    servers.enter_context(background(line, port, project, environment))
                elif line.startswith(("wyrmling ", "curl ", "python -c")):
                    # New folders are made beside the project, so that the page's paths are free.
                    folder = tmp_path / "elsewhere" if line.startswith("wyrmling init") else project
                    folder.mkdir(exist_ok=True)
                    words = None if page.name == "README.md" else one_verb(line)
                    said = in_a_shell(line, folder, environment) if words is None else here(*words, cwd=folder).stdout
                    assert '"error"' not in said, f"{line}\n{said}"
                else:
                    assert line.startswith(NOT_RUN), f"{name_of(page)}: what runs this line? {line}"


def one_verb(line: str) -> list[str] | None:
    """The arguments of a line that only calls a verb in one process; None for other lines, which need a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    program, *arguments = lexer
    plain = program == "wyrmling" and arguments[0] != "launch" and "$" not in line
    return arguments if plain and not any(set(word) <= set("();<>|&") for word in arguments) else None


def in_a_shell(line: str, folder: Path, environment: dict[str, str]) -> str:
    """What a line prints. It must succeed."""
    command = ["bash", "-c", line]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def background(line: str, port: str, project: Path, environment: dict[str, str]):
    """A server of the page, ready to answer."""
    command = shlex.split(line.removesuffix("&").strip())
    if "--port" not in command:
        command += ["--port", port]
    process = subprocess.Popen(
        [*command, "--quiet"],
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}")
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stderr.close()


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_every_stage_has_its_page():
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert {
        "data",
        "tokenizer",
        "model",
        "train",
        "evaluate",
        "serve",
        "feedback",
        "plan",
        "settings",
        "decisions",
    } <= pages
