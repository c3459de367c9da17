"""Scores, the ladder, risks and suites."""

from pathlib import Path
from typing import Annotated, Any

import typer

from wyrmling.cli.verb import Answer, Quantize, SpendOption, app, verb
from wyrmling.core.errors import UsageError


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
    """Score a model and the cheap baselines on held-out rows. Gives intervals and a verdict."""
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
    """Compare every way to answer, from a guess to full training. On the same test rows; says which to use."""
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
    """What a model may do wrong beside its task. Leaks, insults, copies, forgets, treats names unequally, refuses?"""
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
    """Another model's word on written answers. A score, or the better of two; and whether people agree with it."""
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
    """Score a model on a standard suite, or one of your own. BLiMP, GSM8K, HumanEval, TruthfulQA, LAMBADA, BBH."""
    from wyrmling.flow import models
    from wyrmling.flow import suite as suites

    if name is None:
        return Answer(*suites.listing())
    if model is None:
        raise UsageError("which model?", fix=f"write: wyrmling suite {name} --model NAME --data DIR")
    path = models.resolve(models.project_of(home, model), model)
    return Answer(*suites.run(name, path, data, limit=limit, shots=shots, run_code=run_code, out=out))
