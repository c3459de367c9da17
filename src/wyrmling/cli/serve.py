"""Answers: over HTTP or at the prompt; export; models and keys."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wyrmling.cli.verb import Answer, ModelOption, Quantize, QuantizeOption, alone, app, verb
from wyrmling.core.errors import UsageError

models_app = typer.Typer(help="The models of this project: list, promote, roll back.", invoke_without_command=True)


app.add_typer(models_app, name="models")


keys_app = typer.Typer(help="The API keys of this project's server: list, create, revoke.", invoke_without_command=True)


app.add_typer(keys_app, name="keys")


@app.command()
@verb
def serve(
    home: Any,
    model: ModelOption,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: serve.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: serve.port.", min=0, max=65535)] = None,
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
        raise UsageError(
            "give either a text or --file FILE", fix='for example: wyrmling classify --model NAME "some text"'
        )
    if text is not None:
        return [text]
    assert file is not None
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text", fix="save it as UTF-8, one text per line") from error
    except OSError as error:
        raise UsageError(f"can't read {file}: {error.strerror}", fix="name a file with one text per line") from error
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
    """Write a model for other tools. Checks first that it still gives the trained answers."""
    from wyrmling.flow import export as exporting
    from wyrmling.flow import models

    path = models.resolve(models.project_of(home, model), model)
    return Answer(*exporting.export(path, to=to, out=out, quantize=quantize))


@models_app.command("list")
@verb
def list_models(project: Any) -> Answer:
    """Every version with its aliases, scores and verdict."""
    from wyrmling.flow import models

    return Answer(*models.listing(project))


alone(models_app, list_models)


@models_app.command()
@verb
def suggest(
    project: Any,
    permissive: Annotated[bool, typer.Option("--permissive", help="Only licences without limits on use.")] = False,
    language: Annotated[str | None, typer.Option(help="Only models for this language, such as de.")] = None,
) -> Answer:
    """Known open models to start from. By licence, memory, time and money on this machine; makes no network call."""
    from wyrmling.flow import suggest as suggesting

    return Answer(*suggesting.answer(project, permissive=permissive, language=language))


@models_app.command()
@verb
def promote(
    project: Any, name: Annotated[str, typer.Argument(help="The model: NAME:VERSION or NAME:challenger.")]
) -> Answer:
    """Make a version the champion. The old champion becomes the previous one."""
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
    """Judge the challenger that answers a share of the requests. Promotes it, withdraws it, or waits."""
    from wyrmling.flow import canary as trial

    return Answer(*trial.judge(project))


@keys_app.command("list")
@verb
def list_keys(project: Any) -> Answer:
    """Every key by name and first characters; never a secret."""
    from wyrmling.flow import keys

    return Answer(*keys.listing(project))


alone(keys_app, list_keys)


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
