"""One stage after the other: what the verbs data, tokenizer, train and evaluate do and say.

Each function first makes what its stage needs; finished stages are found, not made again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wyrmling.config import Project, Quantize
from wyrmling.core import ranks
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import UsageError
from wyrmling.flow.summary import number

Said = tuple[dict[str, Any], str]
"""What a verb answers: the document for --json and the text for people."""


def data(project: Project) -> Artifact:
    """The data artifact of the project as it stands."""
    from wyrmling.data import run

    return run.run(project)


def tokenizer(project: Project) -> Artifact:
    """The tokenizer artifact: the tokenizer and the token store."""
    from wyrmling.tokenizer import run

    return run.run(project, data(project))


def train(
    project: Project, only: str | None = None, *, accept_data_change: bool = False, limit_usd: float | None = None
) -> list[Artifact]:
    """The artifacts of the training steps up to the last one, or up to the one named `only`.

    accept_data_change   begin anew where an interrupted step was learning from other rows
    limit_usd            what training behind an API may cost. None: nothing is sent
    Raises   UsageError when there is no step of that name, or training behind an API was not allowed
    """
    from wyrmling.flow import records
    from wyrmling.train import run

    names = [step.name for step in project.steps]
    if only is not None and only not in names:
        raise UsageError(f"there is no train step {only!r}", fix=f"the steps of this project are: {', '.join(names)}")
    rows = data(project)
    if project.settings.model.behind is not None:
        from wyrmling.train import remote

        return [remote.run(project, rows, limit_usd=limit_usd)]
    made = run.run_all(project, rows, tokenizer(project), only=only, accept_data_change=accept_data_change)
    if ranks.first():
        records.remember(project, made)
    return made


def evaluate(
    project: Project,
    model: str | None = None,
    test: Path | None = None,
    against: str | None = None,
    quantize: Quantize | None = None,
    limit_usd: float | None = None,
) -> Artifact:
    """The evaluation of a model (the last trained one by default) on the test rows, or on those of a file.

    against    another model, compared with on the same rows
    quantize   round the weights first; the same model unrounded is compared with too
    limit_usd  what asking a model behind an API may cost, and training it first where that was not done
    """
    from wyrmling.evaluate import run
    from wyrmling.flow import models

    if model is not None:
        path = models.resolve(project, model, remote=True)
    else:
        made = train(project, limit_usd=limit_usd)[-1]
        path, limit_usd = made.path / "model", left(limit_usd, made)
    other = None if against is None else models.resolve(project, against, remote=True)
    return run.run(project, data(project), path, test_file=test, against=other, quantize=quantize, limit_usd=limit_usd)


def left(limit_usd: float | None, trained: Artifact) -> float | None:
    """What may still be spent after a step that was perhaps trained just now behind an API."""
    return None if limit_usd is None else max(0.0, limit_usd - paid([trained]))


def paid(made: Iterable[Artifact]) -> float:
    """US dollars that these artifacts cost others' machines, where they were made by this call."""
    return sum(float(one.figures.get("paid_usd", 0.0)) for one in made if not one.reused)


def data_answer(made: Artifact) -> Said:
    """Rows read, kept, dropped and broken, and by which rule."""
    figures = made.figures
    document = {name: figures[name] for name in ("read", "kept", "dropped", "errors", "by_rule")}
    document |= {"artifact": str(made.path), "reused": made.reused}
    lines = [
        f"{_found(made)}  read {figures['read']:,}  kept {figures['kept']:,}  "
        f"dropped {figures['dropped']:,}  errors {figures['errors']:,}"
    ]
    lines += [f"  {rule:<24} {count:>8,}" for rule, count in sorted(figures["by_rule"].items(), key=lambda r: -r[1])]
    if (review := figures["labels_to_review"]) and (made.path / "label_review.csv").is_file():
        lines.append(f"  {sum(review.values()):,} labels to review in label_review.csv")
    return document, "\n".join([*lines, f"  {made.path}"])


def tokenizer_answer(made: Artifact) -> Said:
    """The size of the vocabulary and of the token store, and bytes per token beside GPT-2."""
    from wyrmling.tokenizer import efficiency

    document = {**made.figures, "artifact": str(made.path), "reused": made.reused}
    figures = "  ".join(f"{name} {value:,}" for name, value in made.figures.items() if isinstance(value, int))
    table = "\n".join(efficiency.lines(made.figures["bytes_per_token"]))
    return document, f"{_found(made)}  {figures}\n{table}\n  {made.path}"


def export_tokens(project: Project, to: str, out: Path) -> Said:
    """Write the token store in a format for other trainers."""
    from wyrmling.tokenizer.export import export

    document = export(tokenizer(project).path, to=to, out=out)
    return document, f"wrote {document['rows']:,} rows, {document['tokens']:,} tokens to {document['path']}"


def train_answer(made: list[Artifact]) -> Said:
    """Steps, tokens, loss and cost of the last step; the others under `steps_before`."""
    documents = [train_document(artifact) for artifact in made]
    lines = [
        f"{_found(artifact)}  {artifact.manifest['name']}: {document['steps']:,} steps, {document['tokens']:,} tokens, "
        f"loss {number(document['loss'])}, {document['seconds']:.0f} s, {document['wh']:.2f} Wh"
        f"{_per_1000(document)}\n  {document['model']}"
        for artifact, document in zip(made, documents, strict=True)
    ]
    return {**documents[-1], "steps_before": documents[:-1]}, "\n".join(lines)


def evaluate_answer(made: Artifact) -> tuple[dict[str, Any], str, int]:
    """Scores, baselines and verdict, and the exit code that the verdict asks for."""
    from wyrmling.evaluate import summary, verdict

    code = verdict.EXIT_CODES[made.figures["verdict"]["status"]]
    return summary.document(made), f"{_found(made)}  {summary.summary(made)}", code


def train_document(made: Artifact) -> dict[str, Any]:
    """One training step in the form that scripts rely on."""
    return {
        "name": made.manifest["name"],
        "steps": made.figures["steps"],
        "tokens": made.figures["tokens"],
        "loss": made.figures["loss"],
        "seconds": made.cost["seconds"],
        "cpu_seconds": made.cost.get("cpu_seconds"),
        "wh": made.cost["wh"],
        "meter": made.cost["meter"],
        "peak_memory_gb": made.cost["peak_memory_gb"],
        "model": str(made.path / "model"),
        "forecast": made.manifest["forecast"],
        "reused": made.reused,
    }


def _per_1000(document: dict[str, Any]) -> str:
    tokens = document["tokens"]
    return f" ({1e6 * document['wh'] / tokens:.3f} mWh per 1,000 tokens, {document['meter']})" if tokens else ""


def _found(made: Artifact) -> str:
    return "reused" if made.reused else "made  "
