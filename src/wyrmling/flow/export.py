"""`wyrmling export`: a model for other tools, after checking that it still gives the trained answers."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wyrmling.config import Quantize
from wyrmling.core.errors import GateRefused, UsageError
from wyrmling.core.log import warn

if TYPE_CHECKING:
    from wyrmling.model.probes import Difference, Stored
    from wyrmling.serve.llamacpp import Engine
    from wyrmling.tokenizer.tokenizer import Tokenizer

# Texts on which two tokenizers may part: numbers, contractions, spaces, lines, accents, other scripts, emoji.
HARD_TEXTS = (
    "In 2024, 12345 of 67 people paid 3.14.",
    "I'll say it's what they've DON'T'd",
    "two  spaces\tand\n\n\nlines \n end",
    "naïve café Ünïcödé",
    "日本語と中文 한국어 привет",
    "🙂 don't_stop(x[0]) != 'y';",
)


def export(model: Path, *, to: str, out: Path, quantize: Quantize | None = None) -> tuple[dict[str, Any], str]:
    """Write a model for other tools and replay its probes there; the document and the text of what was done.

    to        hf: a Hugging Face folder, as transformers loads it. gguf: a folder with model.gguf, for llama.cpp.
              onnx: a folder with model.onnx and the tokenizer, for onnxruntime. peft: the adapter of a lora or qlora
              step, for peft
    quantize  int8 or 4bit (gguf), int8-dynamic (onnx)
    Raises    UsageError for an unknown format or a target that holds something; GateRefused when the written model
              answers differently from the trained one. In both cases nothing is left at `out`
    """
    if to not in FORMATS:
        raise UsageError(f"there is no export format {to!r}", fix=f"the formats are: {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists and is not empty", fix="choose another folder")
    _refuse_few_shot(model)
    stored = _sound(model)
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        difference = FORMATS[to](model, work, quantize, stored)
        if out.is_dir():
            out.rmdir()
        os.replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    document = {"path": str(out), "format": to, "quantize": quantize, "bytes": size, "probes": difference._asdict()}
    return document, f"wrote {out}  {size / 1e6:.1f} MB; {difference}"


def _refuse_few_shot(model: Path) -> None:
    from wyrmling.model import few_shot

    if few_shot.is_few_shot(model):
        raise UsageError(
            f"{model} is a few-shot model: its base with rows to show beside it, which other tools don't read",
            fix='serve it with wyrmling, export its base, or train a step with method = "probe" or "lora"',
        )


def _sound(model: Path) -> Stored:
    """The stored probes, replayed on the folder itself: from a damaged one nothing is made.

    A folder that another program made has none; then what it says now is what the written model is compared with.
    """
    from wyrmling.model import folder, probes
    from wyrmling.serve.parity import warn_unproven
    from wyrmling.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model)
    if folder.about(model) is not None:
        probes.replay(model, tokenizer=tokenizer)
        return probes.read(model)
    loaded = folder.load(model)
    warn_unproven(loaded, tokenizer, str(model))
    return probes.ask(loaded, tokenizer, HARD_TEXTS)


def _hf(model: Path, work: Path, quantize: Quantize | None, stored: Stored) -> Difference:
    """A copy of the folder."""
    from wyrmling.model import folder, probes

    if quantize is not None:
        raise UsageError(
            "a Hugging Face folder keeps its whole weights",
            fix=f"quantise when it is loaded: wyrmling serve --quantize {quantize}; or export --to gguf",
        )
    shutil.copytree(model, work, dirs_exist_ok=True)
    difference = probes.measure(folder.load(work), stored, where=work)
    probes.check(difference, probes.EXACT, where=work)
    return difference


def _gguf(model: Path, work: Path, quantize: Quantize | None, stored: Stored) -> Difference:
    """One file, asked in llama.cpp."""
    from wyrmling.model import probes
    from wyrmling.model.quantize import ALLOWED
    from wyrmling.serve import export_gguf
    from wyrmling.serve.llamacpp import Engine
    from wyrmling.tokenizer.tokenizer import Tokenizer

    file = work / "model.gguf"
    rows = export_gguf.write(model, file, quantize)
    engine, tokenizer = Engine(file), Tokenizer.load(model)
    _compare_ids(engine, tokenizer, [probe.text for probe in stored.probes])
    stored = _as_llama_cpp_tells(stored, set(tokenizer.special_ids.values()), rows)
    given, greedy = zip(*(engine.answer(p.ids, probes.GREEDY_TOKENS, rows) for p in stored.probes), strict=True)
    difference = probes.compare(stored, given, greedy, where=file)
    # llama.cpp looks GELU up in a table of float16 numbers, which moves logits by up to 1e-3.
    whole = probes.Allowed(max_abs=5e-3)
    probes.check(difference, whole if quantize is None else ALLOWED[quantize], where=file)
    return difference


def _as_llama_cpp_tells(stored: Stored, special: set[int], rows: int) -> Stored:
    """It gives the distribution after the last token only, and ends an answer before the first special token.

    rows   of the logits that belong to a token; the file has no others
    """
    from wyrmling.model.probes import Stored

    cut = [
        probe._replace(greedy=list(itertools.takewhile(lambda id: id not in special, probe.greedy)))
        for probe in stored.probes
    ]
    return Stored(cut, [logits[-1:, :rows].log_softmax(-1) for logits in stored.logits])


def _compare_ids(engine: Engine, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Raise GateRefused when llama.cpp gives a probe other ids than the tokenizer; warn for other hard texts."""
    for text in (*texts, *HARD_TEXTS):
        ours, theirs = tokenizer.encode(text), engine.ids(text)
        # A text that opens with a space gets a second one there from a SentencePiece vocabulary, here not.
        if ours == theirs or theirs is None or text.startswith(" "):
            continue
        message = (
            f"llama.cpp gives the text {text[:60]!r} other ids than this tokenizer: {theirs[:12]}, not {ours[:12]}"
        )
        if text in texts:
            raise GateRefused(message, fix="export with --to hf, or train a tokenizer with tokenizer.digits = 3")
        warn(message)


def _onnx(model: Path, work: Path, quantize: Quantize | None, stored: Stored) -> Difference:
    """A graph, asked in onnxruntime, beside the files that say what it is for."""
    from wyrmling.model import folder, probes
    from wyrmling.model.quantize import ALLOWED
    from wyrmling.serve import export_onnx

    loaded, file = folder.load(model), work / "model.onnx"
    export_onnx.write(loaded, file, quantize)
    for name in (*folder.TOKENIZER_FILES, folder.CONFIG, folder.ABOUT):
        if (model / name).is_file():
            shutil.copyfile(model / name, work / name)
    graph = export_onnx.Graph(file)
    given = [graph.answer(probe.ids) for probe in stored.probes]
    # A graph gives no answers of its own; its distributions are the whole comparison.
    greedy = [probe.greedy for probe in stored.probes]
    difference = probes.compare(stored, given, greedy, where=file)
    probes.check(difference, probes.EXACT if quantize is None else ALLOWED[quantize], where=file)
    return difference


def _peft(model: Path, work: Path, quantize: Quantize | None, stored: Stored) -> Difference:
    """The adapter of a lora or qlora step, asked on the base it was trained on."""
    from wyrmling.core import resolve
    from wyrmling.model import adapter_folder, folder, probes
    from wyrmling.model.json_files import read_json

    adapter = model.parent / "adapter"
    if not adapter.is_dir():
        raise UsageError(
            f"{model} has no adapter beside it: only the methods lora and qlora make one",
            fix='train a step with method = "lora", or export the whole model with --to hf',
        )
    if quantize is not None:
        raise UsageError("an adapter is not quantised", fix="leave --quantize out, or export --to gguf")
    shutil.copytree(adapter, work, dirs_exist_ok=True)
    # runs/train/<step>/model of a project; the base may be given by its path from there
    root = model.resolve().parents[3] if len(model.resolve().parents) > 3 else None
    base = resolve.model(str(read_json(adapter / "wyrmling.json")["base"]), root=root, database_url=None)
    head = folder.load(model)
    on_base = adapter_folder.on_base(work, base, "exported", head=head.head_name, n_classes=head.n_out)
    difference = probes.measure(on_base.model, stored, where=work)
    probes.check(difference, probes.EXACT, where=work)
    return difference


FORMATS: dict[str, Callable[[Path, Path, Quantize | None, Stored], Difference]] = {
    "hf": _hf,
    "gguf": _gguf,
    "onnx": _onnx,
    "peft": _peft,
}
