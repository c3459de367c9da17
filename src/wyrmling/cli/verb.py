"""The command line: one short function per verb, which imports its stage when it is called.

Every verb returns an `Answer`. Results go to stdout, as text or with --json as one JSON document; everything else that
a person may want to read goes to stderr. Errors are one message and an exit code, see `core.errors`.
"""

import functools
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from wyrmling import __version__
from wyrmling.core import ranks
from wyrmling.core.errors import WyrmlingError, of_system

# As a project meets them; `wyrmling --help` lists them so.
VERBS = [
    "init",
    "doctor",
    "schema",
    "plan",
    "objective",
    "data",
    "tokenizer",
    "train",
    "launch",
    "tune",
    "runs",
    "evaluate",
    "ladder",
    "suite",
    "risks",
    "judge",
    "run",
    "serve",
    "chat",
    "classify",
    "tag",
    "export",
    "models",
    "keys",
    "feedback",
    "retrain",
]


class InOrder(typer.core.TyperGroup):
    """Lists the verbs in the order of `VERBS`, not in that of the files they stand in."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=VERBS.index)


app = typer.Typer(
    name="wyrmling",
    cls=InOrder,
    help="From your documents to your own language model behind an API.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True)
class Answer:
    """What a verb gives back: a document for --json, the text for people, and the exit code."""

    document: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    exit_code: int = 0


ProjectOption = Annotated[
    Path | None,
    typer.Option("--project", help="The project folder. Default: the nearest one upward.", show_default=False),
]


SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable.")
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results, warnings and errors.")]


DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


SpendOption = Annotated[
    float | None,
    typer.Option(min=0, metavar="USD", help="Consent to send rows to the API of model.remote and pay this much."),
]


ModelOption = Annotated[
    str,
    typer.Option("--model", help="A model folder, NAME or NAME:3 of this project, ORG/NAME of the Hugging Face hub."),
]


Quantize = Literal["int8", "int8-dynamic", "4bit"]


QuantizeOption = Annotated[
    Quantize | None, typer.Option(help="Round the weights: smaller; int8-dynamic is also the fastest on a CPU.")
]


SHARED = {
    "project": (ProjectOption, None),
    "overrides": (SetOption, None),
    "as_json": (JsonOption, False),
    "quiet": (QuietOption, False),
    "debug": (DebugOption, False),
}


def verb(function: Callable[..., Answer]) -> Callable[..., None]:
    """Give a verb the shared options, print its answer, and turn errors into messages and exit codes.

    A verb whose first parameter is `project` is called with the loaded project; if it is `home`, with where to look
    for one.
    """
    own = list(inspect.signature(function).parameters.values())
    wants = own.pop(0).name if own and own[0].name in ("project", "home") else None

    @functools.wraps(function)
    def command(**options: Any) -> None:
        shared = {name: options.pop(name) for name in SHARED}
        if "command" in options:
            # What `launch` runs has the shared options too, wherever they stand.
            options["command"] += _spelled(shared)
        run = functools.partial(_call, function, wants, shared, options)
        as_json = shared["as_json"] or "--json" in options.get("command", ())
        sys.exit(_finish(run, as_json=as_json, quiet=shared["quiet"], debug=shared["debug"]))

    parameters = own + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in SHARED.items()
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _spelled(shared: dict[str, Any]) -> list[str]:
    """The shared options that were given, as a command line has them."""
    words = [] if shared["project"] is None else ["--project", str(shared["project"])]
    words += [word for override in shared["overrides"] or () for word in ("--set", override)]
    return words + [f"--{name}" for name in ("quiet", "debug") if shared[name]] + ["--json"] * shared["as_json"]


def alone(group: typer.Typer, listing: Callable[..., None]) -> None:
    """Run a verb where no word follows the group's name: `wyrmling models` lists the models."""

    @group.callback()
    def _alone(context: typer.Context, project: ProjectOption = None, as_json: JsonOption = False) -> None:
        if context.invoked_subcommand is None:
            listing(project=project, overrides=None, as_json=as_json, quiet=False, debug=False)


def _call(
    function: Callable[..., Answer], wants: str | None, shared: dict[str, Any], options: dict[str, Any]
) -> Answer:
    if wants is None:
        return function(**options)
    from wyrmling import config

    home = config.Home(shared["project"], tuple(shared["overrides"] or ()))
    return function(home if wants == "home" else home.project(), **options)


def _finish(run: Callable[[], Answer], *, as_json: bool, quiet: bool, debug: bool) -> int:
    """Run a verb and print what it gave or what went wrong; the exit code."""
    from wyrmling.core import log

    log.voice.quiet, log.voice.debug = quiet or not ranks.first(), debug
    ranks.forget()
    if not ranks.first():
        # Of several processes the first speaks.
        log.voice.kept = []
    try:
        answer = run()
    except WyrmlingError as error:
        if debug:
            raise
        if (code := ranks.leave(error)) is not None:
            return code
        if as_json:
            _print(json.dumps({"error": {"message": error.what, "where": error.where, "fix": error.fix}}))
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        if debug:
            raise
        refused = of_system(error) if isinstance(error, OSError) else None
        fault = refused or WyrmlingError(
            f"this is a fault in wyrmling: {type(error).__name__}: {error}",
            fix="run the same command with --debug and report what it prints",
        )
        if (code := ranks.leave(fault)) is not None:
            return code
        print(f"error: {fault}", file=sys.stderr)
        return 1
    if not ranks.first():
        return answer.exit_code
    if as_json:
        _print(json.dumps(answer.document, ensure_ascii=False, default=str))
    elif answer.text:
        _print(answer.text)
    return answer.exit_code


def _print(text: str) -> None:
    print(text, flush=True)


def _version(wanted: bool) -> None:
    if wanted:
        _print(f"wyrmling {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """From your documents to your own language model behind an API."""
