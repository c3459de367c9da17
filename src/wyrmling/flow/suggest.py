"""`wyrmling models suggest`: known open models that a project could start from, by what each would cost here.

The facts about models are a table shipped with the package, with its date. No quality is claimed: which of two models
does a job better is for `wyrmling evaluate` to say. Makes no network call.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wyrmling.config import Project
from wyrmling.core import hardware
from wyrmling.core.errors import UsageError
from wyrmling.flow import facts
from wyrmling.flow.facts import bytes_per_token
from wyrmling.train import forecast
from wyrmling.train.forecast import Forecast
from wyrmling.train.sizing import Facts, Shape

TABLE = Path(__file__).with_name("open_models.toml")
# Licences that ask for no more than their text: OSI-approved, without limits on use.
PERMISSIVE = ("apache-2.0", "mit", "bsd-3-clause")
# Tasks that an encoder answers; the others write text.
LABELLING = ("classify", "tag")
CHATTING = ("chat", "answer", "summarize")


@dataclass(frozen=True)
class OpenModel:
    """One row of the table. parameters counts all weights; licence is an SPDX id, or the owner's name for its own."""

    id: str
    family: str
    kind: str
    chat: bool
    parameters: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    gated_ffn: bool
    vocabulary: int
    context: int
    tied: bool
    licence: str
    must_accept_terms: bool
    languages: list[str]
    weight_bytes: int

    @property
    def shape(self) -> Shape:
        return Shape(
            family=self.family,
            vocab_size=self.vocabulary,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            ffn=self.ffn,
            context=self.context,
            tied=self.tied,
            causal=self.kind == "decoder",
            gated=self.gated_ffn,
        )

    @property
    def download_gb(self) -> float:
        return self.parameters * self.weight_bytes / 1e9


@dataclass(frozen=True)
class Suggestion:
    """A model, what training it would take here, and what speaks against it; the first reason is the gravest."""

    model: OpenModel
    forecast: Forecast
    against: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        fields = {"id": self.model.id, "family": self.model.family, "parameters": self.model.parameters}
        fields |= {"licence": self.model.licence, "languages": self.model.languages, "context": self.model.context}
        fields |= {"must_accept_terms": self.model.must_accept_terms, "download_gb": round(self.model.download_gb, 3)}
        return {**fields, **self.forecast.document(), "fits": not self.against, "against": list(self.against)}


def table() -> tuple[str, list[OpenModel]]:
    """The date of the shipped table, and its rows."""
    raw = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return str(raw["date"]), [OpenModel(**row) for row in raw["model"]]


def suggest(project: Project, *, permissive: bool = False, language: str | None = None) -> list[Suggestion]:
    """Every known model that can do the project's task: those that fit first, the largest first; then the others.

    permissive   only licences without limits on use
    language     only models whose page names this language (ISO 639-1), or many
    Raises       UsageError when the table has no such model; BadInput for sources that can't be read
    """
    settings = project.settings
    task = settings.objective.task
    known = facts.look(project)
    chosen = [
        model
        for model in table()[1]
        if _does(model, task)
        and (not permissive or model.licence in PERMISSIVE)
        and (language is None or language in model.languages or "many" in model.languages)
    ]
    if not chosen:
        raise UsageError(
            f"no known model does {task!r} under these conditions",
            fix="leave out --permissive or --language, or name any other model as model.base",
        )
    found = []
    for model in chosen:
        rows = retold(known.facts, model.vocabulary)
        each = forecast.forecast(project, rows, shape=model.shape, validation_tokens=known.validation_tokens)
        whole = forecast.total(list(each.values()))
        found.append(Suggestion(model, whole, tuple(_against(project, model, rows, whole))))
    return sorted(found, key=_rank)


def answer(project: Project, *, permissive: bool = False, language: str | None = None) -> tuple[dict[str, Any], str]:
    """What the verb says: a document, and the same as a table."""
    found = suggest(project, permissive=permissive, language=language)
    date, _ = table()
    best = next((one.model.id for one in found if not one.against), None)
    task = project.settings.objective.task
    document = {"table": date, "task": task, "best": best, "models": [one.document() for one in found]}
    head = f"{'':<60}{'params':>8}{'minutes':>10}{'memory':>9}{'dollars':>9}  licence"
    lines = [f"for the task {task}, by a table of {date}; forecasts are for this machine", head]
    lines += [line for one in found for line in _lines(one)]
    lines.append("the largest that fits comes first; nothing here says which does the job best: wyrmling evaluate does")
    if best is not None:
        lines.append(f'try it: wyrmling plan --set model.base="{best}"')
    return document, "\n".join(lines)


def _does(model: OpenModel, task: str) -> bool:
    if task in LABELLING:
        return model.kind == "encoder"
    # A chat model has a chat template; a plain one learns to chat from much more text than a project has.
    return model.kind == "decoder" and (model.chat if task in CHATTING else not model.chat)


def retold(known: Facts, vocabulary: int) -> Facts:
    """The facts as another vocabulary would have them: a larger one needs fewer tokens for the same text."""
    factor = bytes_per_token(known.vocab_size) / bytes_per_token(vocabulary)
    sources = tuple(
        replace(
            source,
            tokens=max(source.rows, round(source.tokens * factor)),
            longest=max(1, round(source.longest * factor)),
            p99=max(1, round(source.p99 * factor)),
        )
        for source in known.sources
    )
    return replace(known, sources=sources, vocab_size=vocabulary)


def _against(project: Project, model: OpenModel, rows: Facts, whole: Forecast) -> Iterator[str]:
    budget = project.settings.objective.budget
    free = hardware.available_memory_gb() if rows.device == "cpu" else hardware.machine().gpus[0].memory_gb
    memory = min(free, budget.memory_gb or free)
    if whole.memory_gb.value > memory:
        yield f"needs {whole.memory_gb.value:.1f} GB of memory, {memory:.1f} are there"
    limits = (
        ("hours", budget.hours, whole.minutes.value / 60),
        ("dollars", budget.usd, whole.usd.value),
        ("kWh", budget.kwh, whole.kwh.value),
    )
    for unit, limit, value in limits:
        if limit is not None and value > limit:
            yield f"takes {value:.2g} {unit}, the budget is {limit:g}"
    # Running text is read in parts; a row with an answer or a label has to be read whole.
    whole_rows = [step for step in project.steps if step.objective not in ("causal", "masked")]
    longest = max((source.p99 for step in whole_rows for source in rows.of(step)), default=0)
    if longest > model.context:
        yield f"reads {model.context:,} tokens at once, and rows have {longest:,}"


def _rank(one: Suggestion) -> tuple[bool, int, float, str]:
    """Those that fit first, the largest first; of the others the cheapest first."""
    size = -one.model.parameters if not one.against else 0
    return bool(one.against), size, one.forecast.minutes.value, one.model.id


def _lines(one: Suggestion) -> Iterator[str]:
    model, cost = one.model, one.forecast
    terms = model.licence + (", terms to accept" if model.must_accept_terms else "")
    millions = f"{model.parameters / 1e6:,.0f}M"
    yield (
        f"{model.id:<60}{millions:>8}{_short(cost.minutes.value):>10}{cost.memory_gb.value:>6.1f} GB"
        f"{cost.usd.value:>9.2f}  {terms}"
    )
    if one.against:
        yield f"    {'; '.join(one.against)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
