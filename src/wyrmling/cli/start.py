"""Begin: a project, the machine, the settings, the plan and the objective."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from wyrmling.cli.verb import Answer, app, verb

objective_app = typer.Typer(help="The objective as a contract: check it before training.", no_args_is_help=True)


app.add_typer(objective_app, name="objective")


@app.command()
@verb
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    example: Annotated[
        str | None, typer.Option(help="Copy a shipped example: support-desk, storyteller, newsdesk.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Data files, or a YAML of LLaMA-Factory, Axolotl or TRL; settings are proposed."),
    ] = None,
) -> Answer:
    """Make a project folder, from an example or your own files."""
    from wyrmling.flow import init as start

    made = start.init(folder, example=example, source=source)
    return Answer(made.document(), made.text())


@app.command()
@verb
def doctor(home: Any) -> Answer:
    """What this machine can do, what will be slow, what is missing."""
    from wyrmling.flow import doctor as check

    return Answer(*check.report(home))


@app.command()
@verb
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the settings as a page instead.")] = False,
) -> Answer:
    """Print the JSON schema of wyrmling.toml, for editors."""
    from wyrmling import config
    from wyrmling.flow import schema as settings

    document = config.schema()
    return Answer(document, settings.page().rstrip() if markdown else json.dumps(document, indent=2))


@app.command()
@verb
def plan(
    project: Any,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Take a few real steps of each train step first: a sharper forecast.")
    ] = False,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Count the memory of training with tensors that have sizes but no values."),
    ] = False,
) -> Answer:
    """What will be derived and why, and what it will cost. Trains nothing."""
    from wyrmling.flow import plan as planning
    from wyrmling.flow import records, remote_plan

    if project.settings.model.behind is not None:
        return Answer(*remote_plan.answer(project))
    if calibrate:
        records.calibrate(project)
    # What does not fit here is not calibrated, but can be simulated.
    made = planning.plan(project, simulate=simulate or calibrate)
    return Answer(made.document(), made.text())


@objective_app.command()
@verb
def check(project: Any) -> Answer:
    """Look whether the conditions can be met. Asks test rows, budget and cheap baselines, before training."""
    from wyrmling.flow import objective

    found = objective.check(project)
    return Answer(found.document(), found.text(), found.exit_code)
