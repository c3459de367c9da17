"""The data and tokenizer stages, and what became of a row."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wyrmling.cli.verb import Answer, DebugOption, JsonOption, ProjectOption, QuietOption, SetOption, app, verb
from wyrmling.core.errors import UsageError

data_app = typer.Typer(
    help="Read, clean, de-duplicate, mask and split the sources. The commands ask what became of a row.",
    invoke_without_command=True,
)


@verb
def make_data(project: Any, dry_run: bool = False) -> Answer:
    """Read, clean, de-duplicate, mask and split the sources."""
    from wyrmling.flow import ledger, stages

    return Answer(*(ledger.preview(project) if dry_run else stages.data_answer(stages.data(project))))


app.add_typer(data_app, name="data")


@data_app.callback()
def _data(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what each rule would drop, with examples; write nothing.")
    ] = False,
    engine: Annotated[
        str | None, typer.Option("--engine", help="What runs the passes: processes (default) or ray.", metavar="NAME")
    ] = None,
    project: ProjectOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    if engine is not None:
        overrides = [*(overrides or ()), f'machine.engine="{engine}"']
    given = {"project": project, "overrides": overrides, "as_json": as_json, "quiet": quiet, "debug": debug}
    if context.invoked_subcommand is None:
        make_data(dry_run=dry_run, **given)
    elif dry_run or any(given.values()):
        raise typer.BadParameter(f"give options after the word {context.invoked_subcommand}")


@data_app.command()
@verb
def why(
    project: Any,
    row: Annotated[str, typer.Argument(metavar="ORIGIN_OR_ROW_ID", help="tickets.csv:12, a file, or a row's id.")],
) -> Answer:
    """What became of a row, and by which rule."""
    from wyrmling.flow import ledger

    return Answer(*ledger.why(project, row))


@data_app.command()
@verb
def diff(
    project: Any,
    before: Annotated[str, typer.Argument(metavar="A", help="A data artifact: its folder or id.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> Answer:
    """How two data artifacts differ, in settings, inputs and rows."""
    from wyrmling.flow import ledger

    return Answer(*ledger.diff(project, before, after))


@data_app.command()
@verb
def restore(
    project: Any, rule: Annotated[str, typer.Argument(help="The rule, as by_rule names it, such as near_duplicate.")]
) -> Answer:
    """Let a rule drop no row any more. Writes data.clean.restore and runs the stage again."""
    from wyrmling.flow import ledger

    return Answer(*ledger.restore(project, rule))


@app.command()
@verb
def tokenizer(
    project: Any,
    to: Annotated[str | None, typer.Option(help="Also write the tokens for other trainers: parquet.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder that --to writes.")] = None,
    show: Annotated[
        int, typer.Option(min=0, metavar="N", help="Print the first N rows of each kind, what is learned marked.")
    ] = 0,
) -> Answer:
    """Train the tokenizer, or take the base's, and encode every row."""
    from wyrmling.flow import stages

    if (to is None) != (out is None):
        raise UsageError("--to and --out belong together", fix="write --to parquet --out DIR")
    if to is not None and out is not None:
        return Answer(*stages.export_tokens(project, to, out))
    made = stages.tokenizer(project)
    if show:
        from wyrmling.tokenizer import show as showing

        return Answer(*showing.answer(made, show, colour=sys.stdout.isatty()))
    return Answer(*stages.tokenizer_answer(made))
