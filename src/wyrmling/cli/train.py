"""Training: one process or many, searches, and the trainings so far."""

from pathlib import Path
from typing import Annotated, Any

import typer

from wyrmling.cli.verb import Answer, SpendOption, alone, app, verb
from wyrmling.core.errors import UsageError

runs_app = typer.Typer(help="The trainings of this project: list, compare, plot.", invoke_without_command=True)


app.add_typer(runs_app, name="runs")


@app.command()
@verb
def train(
    project: Any,
    step: Annotated[str | None, typer.Option(help="Only this [[train]] step.")] = None,
    accept_data_change: Annotated[
        bool, typer.Option("--accept-data-change", help="Begin anew where the rows changed under an interrupted step.")
    ] = False,
    spend: SpendOption = None,
) -> Answer:
    """Train every step in order, or go on where the last run stopped."""
    from wyrmling.flow import stages

    made = stages.train(project, step, accept_data_change=accept_data_change, limit_usd=spend)
    return Answer(*stages.train_answer(made))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@verb
def launch(
    command: Annotated[
        list[str], typer.Argument(metavar="VERB [OPTIONS]", help="train or run, as it is called alone.")
    ],
    processes: Annotated[int | None, typer.Option(help="On each node. Default: launch.processes.", min=1)] = None,
    nodes: Annotated[int | None, typer.Option(help="Default: launch.nodes.", min=1)] = None,
    rendezvous: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Default: launch.rendezvous.")] = None,
    node: Annotated[
        int | None, typer.Option(help="Which node this is, from 0. Default: as Slurm or Kubernetes says.")
    ] = None,
    restarts: Annotated[int, typer.Option(help="Start again after a process died, at most so often.", min=0)] = 0,
) -> Answer:
    """Train in several processes, on one node or many.

    For example: wyrmling launch --processes 8 train --project DIR
    """
    from wyrmling.flow import launching

    place = launching.nodes(command, processes, nodes, rendezvous, node, restarts)
    launching.train(command, place)
    if command[0] != "train" and place.number == 0:
        app(command, prog_name="wyrmling")
    return Answer()


@app.command()
@verb
def tune(
    project: Any,
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="SECTION.KEY=WHERE", help="Search a setting: LOW..HIGH, LOW..HIGH:log, or A,B,C."),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trainings at most. Default: tune.trials.", min=1)] = None,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Only sweep the learning rate of one step, and suggest one.")
    ] = False,
    step: Annotated[str | None, typer.Option(help="The [[train]] step to sweep. Default: the last.")] = None,
) -> Answer:
    """Search settings by real trainings; or sweep the learning rate. Judged on the validation rows."""
    from wyrmling.flow import lr_sweep, search_space, tune_report
    from wyrmling.flow import tune as tuning

    if find_lr:
        if over or trials:
            raise UsageError("--find-lr sweeps one learning rate", fix="leave out --over and --trials")
        return Answer(*lr_sweep.answer(project, step))
    if step is not None:
        raise UsageError("--step belongs to --find-lr", fix="name the step in --over, as in train.tune.lr=...")
    if trials is not None:
        project = project.with_settings([f"tune.trials={trials}"])
    return Answer(*tune_report.answer(tuning.tune(project, search_space.pairs(over or []))))


@runs_app.command("list")
@verb
def list_runs(project: Any) -> Answer:
    """Every training, also one that goes on now. Loss, validation figure, minutes and energy of each."""
    from wyrmling.flow import runs

    return Answer(*runs.listing(project))


alone(runs_app, list_runs)


@runs_app.command()
@verb
def compare(
    project: Any,
    first: Annotated[str, typer.Argument(metavar="A", help="A run: its folder, its id, or the step's name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> Answer:
    """How two trainings differ. Settings, figures, cost, and their losses on one scale."""
    from wyrmling.flow import runs

    return Answer(*runs.compare(project, first, second))


@runs_app.command()
@verb
def plot(
    project: Any,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Folders, ids or step names. Default: all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write; .png or .pdf.")] = Path("loss.png"),
) -> Answer:
    """The losses of trainings as one picture, to send or to print."""
    from wyrmling.flow import runs

    return Answer(*runs.plot(project, names or [], out))
