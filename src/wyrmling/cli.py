"""The command line: one short function per verb, which imports its stage when it is called.

Every verb returns an `Answer`. Results go to stdout, as text or with --json as one JSON document; everything else that
a person may want to read goes to stderr. Errors are one message and an exit code, see `core.errors`.
"""

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wyrmling import __version__
from wyrmling.core import ranks
from wyrmling.core.errors import UsageError, WyrmlingError

app = typer.Typer(
    name="wyrmling",
    help="From your documents to your own language model behind an API.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="The models of this project: list, promote, roll back.", invoke_without_command=True)
app.add_typer(models_app, name="models")
data_app = typer.Typer(
    help="Read, clean, de-duplicate, mask and split the sources; and ask what became of a row.",
    invoke_without_command=True,
)
objective_app = typer.Typer(help="The objective as a contract: check it before training.", no_args_is_help=True)
app.add_typer(objective_app, name="objective")
keys_app = typer.Typer(help="The API keys of this project's server: list, create, revoke.", invoke_without_command=True)
app.add_typer(keys_app, name="keys")
runs_app = typer.Typer(help="The trainings of this project: list them, compare two.", invoke_without_command=True)
app.add_typer(runs_app, name="runs")
feedback_app = typer.Typer(
    help="What people say about answers: review it, and erase a person's.", invoke_without_command=True
)
app.add_typer(feedback_app, name="feedback")


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
        fault = WyrmlingError(
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
    """Make a project folder: a shipped example, or a start from your own files."""
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
) -> Answer:
    """Before anything runs: what is derived and why, and what it will cost."""
    from wyrmling.flow import plan as planning
    from wyrmling.flow import records, remote_plan

    if project.settings.model.behind is not None:
        return Answer(*remote_plan.answer(project))
    if calibrate:
        records.calibrate(project)
    made = planning.plan(project)
    return Answer(made.document(), made.text())


@objective_app.command()
@verb
def check(project: Any) -> Answer:
    """Before training: can the conditions be shown with these test rows, does the budget hold, is a baseline enough?"""
    from wyrmling.flow import objective

    found = objective.check(project)
    return Answer(found.document(), found.text(), found.exit_code)


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
    """Let a rule drop no row any more: writes data.clean.restore and runs the stage again."""
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
    """Train the tokenizer on the training text, or take that of the base, and encode every row."""
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
    """Train in several processes, on one node or many: wyrmling launch --processes 8 train --project DIR."""
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
    """Search settings by real trainings, judged on the validation rows; or sweep the learning rate."""
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


@app.command()
@verb
def evaluate(
    project: Any,
    model: Annotated[str | None, typer.Option(help="A model folder or name. Default: the last trained.")] = None,
    test: Annotated[Path | None, typer.Option(help="Score these rows instead of the project's test rows.")] = None,
    against: Annotated[str | None, typer.Option(help="Another model to compare with on the same rows.")] = None,
    quantize: Annotated[
        Quantize | None, typer.Option(help="Round the weights first, and compare with the same model unrounded.")
    ] = None,
    spend: SpendOption = None,
) -> Answer:
    """Score a model on held-out rows beside the cheap baselines, with intervals and a verdict."""
    from wyrmling.flow import stages

    return Answer(*stages.evaluate_answer(stages.evaluate(project, model, test, against, quantize, spend)))


@app.command()
@verb
def ladder(
    project: Any,
    rungs: Annotated[
        str | None, typer.Option(help="Only these, such as majority,tfidf,probe. Default: all that the budget allows.")
    ] = None,
    spend: Annotated[
        float | None,
        typer.Option(min=0, metavar="USD", help="Consent to send test rows to evaluate.remote.url and pay this much."),
    ] = None,
) -> Answer:
    """Every way to answer, from a guess to full training, on the same test rows; and which to use."""
    from wyrmling.flow import ladder as ladders

    asked = None if rungs is None else [name.strip() for name in rungs.split(",") if name.strip()]
    return Answer(*ladders.answer(project, asked, ladders.Remote(spend)))


@app.command()
@verb
def risks(
    project: Any,
    model: Annotated[str | None, typer.Option(help="A model folder or name. Default: the last trained.")] = None,
    only: Annotated[str | None, typer.Option(help="Only these measures, such as verbatim,pii_leak.")] = None,
    plant: Annotated[Path | None, typer.Option(help="Write a file of secrets to plant in the training data.")] = None,
) -> Answer:
    """What a model may do wrong beside its task: leak, insult, copy, forget, treat names unequally, refuse."""
    from wyrmling.flow import risks as examining

    if plant is not None:
        return Answer(*examining.plant(project, plant))
    names = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    return Answer(*examining.run(project, model, names))


@app.command()
@verb
def judge(
    project: Any,
    model: Annotated[str | None, typer.Option(help="A model folder or name. Default: the last trained.")] = None,
    against: Annotated[str | None, typer.Option(help="Another: which of the two answers better?")] = None,
    human: Annotated[
        Path | None, typer.Option(help="Answers that people judged. Default: evaluate.judge.human.")
    ] = None,
    spend: Annotated[
        float | None,
        typer.Option(min=0, metavar="USD", help="Consent to send test rows to evaluate.judge.url and pay this much."),
    ] = None,
) -> Answer:
    """Another model's word on written answers: a score, or the better of two; and whether people agree with it."""
    from wyrmling.flow import judge as judging

    return Answer(*judging.run(project, model, against, human, spend))


@app.command()
@verb
def suite(
    home: Any,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|FILE", help="A suite; without one, those there are.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model folder or name that writes text.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder with the suite's data.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many items of each part.", min=1)] = None,
    shots: Annotated[int | None, typer.Option(help="Worked examples before each item.", min=0)] = None,
    run_code: Annotated[bool, typer.Option("--run-code", help="Programs that the model writes may be run.")] = False,
    out: Annotated[Path | None, typer.Option(help="A JSON file for every answer.")] = None,
) -> Answer:
    """Score a model on a standard suite: BLiMP, GSM8K, HumanEval, TruthfulQA, LAMBADA, BBH, or one of your own."""
    from wyrmling.flow import models
    from wyrmling.flow import suite as suites

    if name is None:
        return Answer(*suites.listing())
    if model is None:
        raise UsageError("which model?", fix=f"write: wyrmling suite {name} --model NAME --data DIR")
    path = models.resolve(models.project_of(home, model), model)
    return Answer(*suites.run(name, path, data, limit=limit, shots=shots, run_code=run_code, out=out))


@app.command()
@verb
def run(project: Any, spend: SpendOption = None) -> Answer:
    """Everything in order, data to gate; skips what has not changed."""
    from wyrmling.flow import run as flow

    done = flow.run(project, limit_usd=spend)
    return Answer(done.document(), done.text(), done.exit_code)


@app.command()
@verb
def retrain(
    project: Any,
    when_needed: Annotated[
        bool, typer.Option("--when-needed", help="Only with enough accepted feedback, time gone by, or drift.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking whether it is needed.")] = False,
    poll: Annotated[float, typer.Option(help="Seconds between two looks of --watch.", min=0.1)] = 60.0,
    every: Annotated[str | None, typer.Option(help="Also after this time: 12h, 7d, 4w.")] = None,
) -> Answer:
    """Accepted feedback becomes the next model: PROMOTE, HOLD or INCONCLUSIVE against the champion."""
    from wyrmling.flow import retrain as again
    from wyrmling.flow import watch as looking

    if every is not None:
        project = looking.with_period(project, every)
    if watch:
        looking.watch(project, poll)
    if when_needed and not (why := looking.reasons(project)):
        return Answer({"needed": False, "reasons": why}, looking.waiting(project))
    done = again.run(project)
    return Answer(done.document(), done.text(), done.exit_code)


@app.command()
@verb
def serve(
    home: Any,
    model: ModelOption,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: serve.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: serve.port.")] = None,
    quantize: QuantizeOption = None,
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Serve a LoRA adapter beside it; repeatable.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="wyrmling, llama.cpp, vllm, openvino, or the URL of an OpenAI-compatible server.")
    ] = None,
) -> Answer:
    """Serve a model behind an OpenAI-compatible API."""
    from wyrmling.flow import engines, models
    from wyrmling.serve import run as server

    if engines.serve(home, model, engine, host=host, port=port, quantize=quantize):
        return Answer()
    project = models.project_of(home, model)
    follow = models.is_champion(project, model)
    server.serve(
        project,
        models.resolve(project, model),
        host=host,
        port=port,
        quantize=quantize,
        adapters=_named(adapter) if adapter else None,
        follow=follow,
    )
    return Answer()


def _named(given: list[str]) -> dict[str, str]:
    """Names and folders of NAME=FOLDER. Raises UsageError for another form."""
    pairs = [text.partition("=") for text in given]
    for text, (name, _, folder) in zip(given, pairs, strict=True):
        if not name or not folder:
            raise UsageError(f"--adapter {text} is not NAME=FOLDER", fix="write: --adapter support=path/to/adapter")
    return {name: str(Path(folder).expanduser().absolute()) for name, _, folder in pairs}


@app.command()
@verb
def chat(
    home: Any,
    model: ModelOption,
    complete: Annotated[str | None, typer.Option(help="Continue this text.")] = None,
    message: Annotated[str | None, typer.Option(help="Answer this message.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.", min=1)] = 128,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling.", min=0)] = None,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 is --greedy.", min=0)] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest tokens.", min=1)] = None,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest that reach this share.", max=1)] = 1.0,
    min_p: Annotated[float, typer.Option(help="Least probability relative to the likeliest.", min=0, max=1)] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: tokens already seen get rarer.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Off the logit of tokens that the answer has.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The same, for each time it has them.")] = 0.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; repeatable.")] = None,
    logprobs: Annotated[
        int | None, typer.Option(help="With --json: each token, and so many alternatives to it.", min=0, max=20)
    ] = None,
    quantize: QuantizeOption = None,
) -> Answer:
    """Ask a model once; prints only the answer."""
    from wyrmling.flow import models
    from wyrmling.model.sampling import Sampling
    from wyrmling.serve import answer

    if (complete is None) == (message is None):
        raise UsageError("give one of --complete TEXT and --message TEXT")
    sampling = Sampling(
        max_tokens=max_tokens, seed=seed, temperature=0.0 if greedy else temperature, top_k=top_k, top_p=top_p,
        min_p=min_p, repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty, top_logprobs=logprobs or 0,
    )  # fmt: skip
    talker = answer.Talker(models.resolve(models.project_of(home, model), model), quantize=quantize)
    ask = talker.message if complete is None else talker.complete
    reply = ask(complete or message or "", sampling, stops=tuple(filter(None, stop or ())))
    return Answer(reply.document(talker.spelling, with_tokens=logprobs is not None), reply.text)


def _texts(text: str | None, file: Path | None) -> list[str]:
    """The texts of a one-shot question: the argument, or one per line of a file (- is stdin)."""
    if (text is None) == (file is None):
        raise UsageError("give either TEXT or --file FILE")
    if text is not None:
        return [text]
    assert file is not None
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {file}: {error}") from error
    return [line for line in content.splitlines() if line.strip()]


TextArgument = Annotated[str | None, typer.Argument(metavar="TEXT", help="The text.", show_default=False)]
FileOption = Annotated[Path | None, typer.Option("--file", help="One text per line; - reads stdin.")]


@app.command()
@verb
def classify(
    home: Any,
    model: ModelOption,
    text: TextArgument = None,
    file: FileOption = None,
    quantize: QuantizeOption = None,
) -> Answer:
    """The label of a text with its probability."""
    from wyrmling.flow import models
    from wyrmling.serve import answer

    path = models.resolve(models.project_of(home, model), model)
    rows = answer.classify(path, _texts(text, file), quantize=quantize)
    return Answer({"data": rows}, "\n".join(f"{r['label']}\t{r['probabilities'][r['label']]:.4f}" for r in rows))


@app.command()
@verb
def tag(
    home: Any,
    model: ModelOption,
    text: TextArgument = None,
    file: FileOption = None,
    quantize: QuantizeOption = None,
) -> Answer:
    """The words of a text with their tags."""
    from wyrmling.flow import models
    from wyrmling.serve import answer

    path = models.resolve(models.project_of(home, model), model)
    rows = answer.tag(path, _texts(text, file), quantize=quantize)
    return Answer(
        {"data": rows},
        "\n".join("\n".join(f"{w}\t{t}" for w, t in zip(r["words"], r["tags"], strict=True)) for r in rows),
    )


@app.command()
@verb
def export(
    home: Any,
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    to: Annotated[str, typer.Option(help="hf, gguf (llama.cpp), onnx, or peft (a lora adapter).")] = "hf",
    quantize: Annotated[
        Quantize | None, typer.Option(help="Round the weights: int8 or 4bit for gguf, int8-dynamic for onnx.")
    ] = None,
) -> Answer:
    """Write a model for other tools, after checking that it still gives the trained answers."""
    from wyrmling.flow import export as exporting
    from wyrmling.flow import models

    path = models.resolve(models.project_of(home, model), model)
    return Answer(*exporting.export(path, to=to, out=out, quantize=quantize))


@models_app.callback()
def _models(context: typer.Context, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_models(project=project, overrides=None, as_json=as_json, quiet=False, debug=False)


@models_app.command("list")
@verb
def list_models(project: Any) -> Answer:
    """Every version with its aliases, scores and verdict."""
    from wyrmling.flow import models

    return Answer(*models.listing(project))


@models_app.command()
@verb
def suggest(
    project: Any,
    permissive: Annotated[bool, typer.Option("--permissive", help="Only licences without limits on use.")] = False,
    language: Annotated[str | None, typer.Option(help="Only models for this language, such as de.")] = None,
) -> Answer:
    """Known open models to start from, by licence, memory, time and money on this machine; makes no network call."""
    from wyrmling.flow import suggest as suggesting

    return Answer(*suggesting.answer(project, permissive=permissive, language=language))


@models_app.command()
@verb
def promote(
    project: Any, name: Annotated[str, typer.Argument(help="The model: NAME:VERSION or NAME:challenger.")]
) -> Answer:
    """Make a version the champion; the old champion becomes the previous one."""
    from wyrmling.flow import models

    return Answer(*models.promote(project, name))


@models_app.command()
@verb
def rollback(
    project: Any, name: Annotated[str | None, typer.Argument(help="The model. Default: the project's.")] = None
) -> Answer:
    """Make the previous champion the champion again."""
    from wyrmling.flow import models

    return Answer(*models.rollback(project, name))


@models_app.command()
@verb
def canary(project: Any) -> Answer:
    """Judge the challenger that answers a share of the requests: promote it, withdraw it, or wait."""
    from wyrmling.flow import canary as trial

    return Answer(*trial.judge(project))


@runs_app.callback()
def _runs(context: typer.Context, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_runs(project=project, overrides=None, as_json=as_json, quiet=False, debug=False)


@runs_app.command("list")
@verb
def list_runs(project: Any) -> Answer:
    """Every training with its loss, validation figure, minutes and energy; also one that goes on now."""
    from wyrmling.flow import runs

    return Answer(*runs.listing(project))


@runs_app.command()
@verb
def compare(
    project: Any,
    first: Annotated[str, typer.Argument(metavar="A", help="A run: its folder, its id, or the step's name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> Answer:
    """How two trainings differ: settings, figures, cost, and their losses on one scale."""
    from wyrmling.flow import runs

    return Answer(*runs.compare(project, first, second))


@keys_app.callback()
def _keys(context: typer.Context, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_keys(project=project, overrides=None, as_json=as_json, quiet=False, debug=False)


@keys_app.command("list")
@verb
def list_keys(project: Any) -> Answer:
    """Every key by name and first characters; never a secret."""
    from wyrmling.flow import keys

    return Answer(*keys.listing(project))


@keys_app.command()
@verb
def create(
    project: Any,
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may do: infer, feedback, files, train admin; repeatable. Default: the first two."),
    ] = None,
    days: Annotated[int | None, typer.Option(help="Days until it expires. Default: never.", min=1)] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="More are refused with 429.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Tokens read and generated; more are refused.")] = None,
    usd_per_month: Annotated[float | None, typer.Option(help="What its answers and jobs may cost in a month.")] = None,
) -> Answer:
    """Make a key; its secret is shown once."""
    from wyrmling.flow import keys

    limits = keys.Limits(requests_per_minute, tokens_per_minute, usd_per_month)
    return Answer(*keys.create(project, name, scopes=scope or ["infer", "feedback"], days=days, limits=limits))


@keys_app.command()
@verb
def revoke(project: Any, key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")]) -> Answer:
    """Close a key for good."""
    from wyrmling.flow import keys

    return Answer(*keys.revoke(project, key_id))


@verb
def feedback_summary(project: Any) -> Answer:
    """Usage and feedback in numbers."""
    from wyrmling.flow import feedback

    return Answer(*feedback.summary(project))


@feedback_app.callback()
def _feedback(context: typer.Context, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        feedback_summary(project=project, overrides=None, as_json=as_json, quiet=False, debug=False)


ReviewStatus = Literal["new", "accepted", "rejected"]
LimitOption = Annotated[int | None, typer.Option(help="Show at most so many.", min=1)]
RatingOption = Annotated[str | None, typer.Option("--rating", help="Only with this rating: up, neutral, down.")]
UserOption = Annotated[str | None, typer.Option("--user", help="Only of this end user, or of the key with this id.")]
IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Feedback ids or answer ids.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="All that is new, or the part that --rating and --user name.")]


@feedback_app.command()
@verb
def inbox(project: Any, limit: LimitOption = 20, rating: RatingOption = None, user: UserOption = None) -> Answer:
    """What waits for a decision, oldest first."""
    from wyrmling.flow import feedback

    return Answer(*feedback.listing(project, "new", limit, rating=rating, user=user))


@feedback_app.command("list")
@verb
def list_feedback(
    project: Any,
    status: Annotated[ReviewStatus | None, typer.Option(help="Only new, accepted or rejected.")] = None,
    limit: LimitOption = None,
    rating: RatingOption = None,
    user: UserOption = None,
) -> Answer:
    """Feedback with the answers it is about."""
    from wyrmling.flow import feedback

    return Answer(*feedback.listing(project, status, limit, rating=rating, user=user))


@feedback_app.command()
@verb
def accept(
    project: Any,
    ids: IdsArgument = None,
    everything: AllOption = False,
    rating: RatingOption = None,
    user: UserOption = None,
) -> Answer:
    """Let the next training learn from feedback."""
    from wyrmling.flow import feedback

    return Answer(*feedback.decide(project, ids or [], "accepted", everything=everything, rating=rating, user=user))


@feedback_app.command()
@verb
def reject(
    project: Any,
    ids: IdsArgument = None,
    everything: AllOption = False,
    rating: RatingOption = None,
    user: UserOption = None,
) -> Answer:
    """Keep feedback out of training."""
    from wyrmling.flow import feedback

    return Answer(*feedback.decide(project, ids or [], "rejected", everything=everything, rating=rating, user=user))


@feedback_app.command()
@verb
def rate(
    project: Any,
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="The id of an answer.")],
    rating: Annotated[str | None, typer.Option(help="up, neutral or down.")] = None,
    correction: Annotated[str | None, typer.Option(help="What it should have been: a text, a label, tags.")] = None,
    comment: Annotated[str | None, typer.Option(help="A remark.")] = None,
    preferred_over: Annotated[str | None, typer.Option(help="The id of a worse answer to the same prompt.")] = None,
    item: Annotated[int, typer.Option(help="Which text of a request that had several, from 0.", min=0)] = 0,
    user: Annotated[str | None, typer.Option(help="Who says it.")] = None,
) -> Answer:
    """Say something about an answer, as the API does."""
    from wyrmling.flow import feedback

    return Answer(
        *feedback.rate(
            project, answer, rating=rating, correction=correction, comment=comment, preferred_over=preferred_over,
            item=item, user=user,
        )
    )  # fmt: skip


@feedback_app.command()
@verb
def collect(project: Any) -> Answer:
    """Write accepted feedback as files to learn from, as `wyrmling retrain` does first."""
    from wyrmling.flow import feedback

    return Answer(*feedback.collected(project))


@feedback_app.command()
@verb
def drift(
    project: Any,
    replay: Annotated[bool, typer.Option("--replay", help="Also score the champion again on its test rows.")] = False,
) -> Answer:
    """Has what people ask, or how well it is answered, changed? Alarms go to feedback.webhook; exit 3 with one."""
    from wyrmling.flow import drift as looking

    return Answer(*looking.look(project, replay=replay))


@feedback_app.command()
@verb
def forget(
    project: Any, user: Annotated[str, typer.Option("--user", help="The end user, or the id of an API key.")]
) -> Answer:
    """Erase what a person asked and said, also from what was made of it."""
    from wyrmling.flow import feedback

    return Answer(*feedback.forget(project, user))


def main() -> None:
    """The `wyrmling` command."""
    # Idle OpenMP threads spin for a moment, then sleep. Spinning for as long as they do by default, they wait for
    # partners that other programs keep from running: training on a busy machine nearly stops (docs/decisions.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    app(prog_name="wyrmling")
