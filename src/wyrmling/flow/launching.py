"""`wyrmling launch`: the stages before training in one process, training in several, the rest in one again."""

from __future__ import annotations

from wyrmling.core import artifact
from wyrmling.core.errors import UsageError
from wyrmling.flow import stages
from wyrmling.train import launch
from wyrmling.train.launch import Nodes

VERBS = ("train", "run")


def train(command: list[str], nodes: Nodes) -> None:
    """Train the project that a verb's arguments name in the processes of this node and its fellows.

    command   train or run with their own arguments
    Raises    what a process ended with
    """
    verb, *options = command
    project = launch.project_in(options)
    with artifact.made_by_others(project.runs):
        if nodes.number == 0:
            stages.tokenizer(project)
        launch.launch(nodes, ["train", *options], silent=verb == "run")


def nodes(
    command: list[str],
    processes: int | None,
    count: int | None,
    rendezvous: str | None,
    node: int | None,
    restarts: int,
) -> Nodes:
    """Where to run. Raises UsageError for a verb that gains nothing by several processes."""
    verb, *options = command
    if verb not in VERBS:
        raise UsageError(f"launch runs {' or '.join(VERBS)}, not {verb!r}", fix=f"call wyrmling {verb} by itself")
    return launch.nodes_of(
        launch.project_in(options),
        processes=processes,
        nodes=count,
        rendezvous=rendezvous,
        node=node,
        restarts=restarts,
    )
