"""The tokenizer stage: rows of a data artifact -> a tokenizer folder and a token store.

The rows are gone through three times, a few hundred at a time: to count and sample them, to learn the vocabulary, and
to encode them shard by shard. What an interrupted run had finished is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wyrmling.config import Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.errors import BadSetting
from wyrmling.core.log import say
from wyrmling.core.progress import bar
from wyrmling.tokenizer import bpe, bulk, efficiency, folder
from wyrmling.tokenizer.bulk import Encoder
from wyrmling.tokenizer.examples import MAX_CHECK_CHARS, Corpus, Examples, Survey
from wyrmling.tokenizer.extend import MAX_CORPUS_BYTES, extend
from wyrmling.tokenizer.patterns import word_pattern
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import SPLITS, STORE, row_pieces
from wyrmling.tokenizer.writer import StoreWriter

VERSION = 5

# Uncompressed bytes of examples.parquet that a shard is made of: what is encoded again after a crash.
SHARD_BYTES = 256_000_000

# How the vocabulary came about; written when it is complete.
VOCABULARY_FILE = "vocabulary.json"

# Objectives of a decoder. Its prompt is not closed; an encoder's text is.
_OPEN_ENDED = {"causal", "sft", "preference"}


def run(project: Project, data: Artifact) -> Artifact:
    """The tokenizer artifact of a data artifact: trained on its training rows, or copied from `model.base`.

    Raises   NothingToLearn when the training rows hold no text; BadSetting for an unusable `model.base` or setting.
    """
    base = folder.locate_base(project)
    _check(project, base)
    key = Key(
        "tokenizer",
        project.settings.name,
        inputs={"data": data.id} | ({"base": folder.base_digest(base)} if base else {}),
        settings=_shaping(project, base),
        version=VERSION,
    )
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    examples = Examples(data.path / "examples.parquet")
    with artifact.create(project.runs, key, project.meter(), resume=True) as draft:
        survey = examples.survey(seed=project.settings.seed)
        vocabulary = _vocabulary(project, base, examples, survey, draft.path)
        tokenizer = Tokenizer.load(draft.path)
        if tokenizer.eos_id is None:
            raise BadSetting(
                f"the tokenizer of model.base = {project.settings.model.base!r} names no end-of-text token",
                where=base,
                fix='add "eos_token" to its tokenizer_config.json',
            )
        encoder = _encoder(draft.path, tokenizer, survey)
        shards = _encode(data, examples, survey, draft.path, tokenizer, encoder)
        languages = efficiency.languages_of(data.path / "ledger.parquet", [row["row_id"] for row in survey.sample])
        draft.figures = {
            "vocab_size": tokenizer.vocab_size,
            **vocabulary,
            "encoder": encoder.library,
            **_counts(shards),
            "bytes_per_token": efficiency.compare(encoder, survey.sample, languages),
        }
    say(f"tokenizer: {tokenizer.vocab_size:,} tokens ({vocabulary['reason']})")
    return draft.done


def _shaping(project: Project, base: Path | None) -> dict[str, Any]:
    """The settings that the result depends on. A copied tokenizer has its size, its pattern and its ends already."""
    settings = project.settings.tokenizer.model_dump(mode="json")
    if base is not None:
        return {name: settings[name] for name in ("extend", "special_tokens")}
    shaping = {**settings, "ends": not any(step.objective in _OPEN_ENDED for step in project.steps)}
    # Named only where there is one, so that the tokenizers of other projects stay what they are.
    return shaping | ({"infill": True} if any(step.fim_rate for step in project.steps) else {})


def _check(project: Project, base: Path | None) -> None:
    settings = project.settings.tokenizer
    if base is None and settings.extend:
        raise BadSetting(
            f"tokenizer.extend = {settings.extend} adds to the tokenizer of a base model, but the model is made from "
            "scratch",
            where="tokenizer.extend",
            fix="choose tokenizer.vocab_size instead, or name a model in model.base",
        )
    unused = [name for name in ("pattern", "digits") if getattr(settings, name) is not None]
    if settings.whitespace != "joined":
        unused.append("whitespace")
    if base is not None and unused:
        raise BadSetting(
            f"tokenizer.{unused[0]} shapes a new tokenizer, but model.base brings its own",
            where=f"tokenizer.{unused[0]}",
            fix="leave it out, or train from scratch",
        )
    taken = (*bpe.SPECIALS, *bpe.INFILL, "")
    for token in settings.special_tokens:
        if token.strip() in taken or settings.special_tokens.count(token) > 1:
            problem = "is empty, named twice or there already"
        elif bpe.may_be_mistaken(token):
            problem = "can't be told from how a vocabulary spells bytes; add an ASCII sign, such as <...>"
        else:
            continue
        raise BadSetting(
            f"tokenizer.special_tokens has {token!r}, which {problem}",
            where="tokenizer.special_tokens",
            fix="remove or rename it",
        )


def _vocabulary(project: Project, base: Path | None, examples: Examples, survey: Survey, path: Path) -> dict[str, Any]:
    """Make the tokenizer in `path`, unless an interrupted run did; how it came about."""
    record = path / VOCABULARY_FILE
    if record.is_file():
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return found
    made = _train(project, examples, survey, path) if base is None else _copy(project, base, examples, survey, path)
    made["train_bytes"] = survey.train_bytes
    artifact.write_durably(record, json.dumps(made, indent=1, ensure_ascii=False).encode())
    return made


def _train(project: Project, examples: Examples, survey: Survey, path: Path) -> dict[str, Any]:
    settings = project.settings.tokenizer
    derived = bpe.default_vocab_size(survey.train_bytes)
    asked = settings.vocab_size or derived.value
    shaping = _shaping(project, None)
    ends, infill = bool(shaping["ends"]), "infill" in shaping
    room = asked - len(settings.special_tokens) - (len(bpe.INFILL) if infill else 0)
    if room < 256 + len(bpe.SPECIALS):
        raise BadSetting(
            f"{len(settings.special_tokens)} special tokens leave no room in a vocabulary of {asked}",
            where="tokenizer.vocab_size",
            fix="raise it",
        )
    trained = bpe.train(Corpus(examples, survey.train_bytes), room, word_pattern(settings, asked))
    folder.write(path, trained, ends=ends, extra=settings.special_tokens, infill=infill)
    reason = derived.reason if settings.vocab_size is None else f"tokenizer.vocab_size = {asked}"
    return {"trainer": trained.trainer, "asked_vocab_size": asked, "reason": reason, "pattern": trained.pattern}


def _copy(project: Project, base: Path, examples: Examples, survey: Survey, path: Path) -> dict[str, Any]:
    settings = project.settings.tokenizer
    folder.copy(base, path)
    reason = f"copied from {project.settings.model.base}"
    if settings.extend or settings.special_tokens:
        corpus = Corpus(examples, survey.train_bytes, MAX_CORPUS_BYTES)
        new = extend(path, corpus, settings.extend, settings.special_tokens)
        reason += f", {len(new):,} tokens added"
        if len(new) < settings.extend:
            reason += f" of {settings.extend:,}: no more pairs of tokens occur twice"
    return {"trainer": "base", "asked_vocab_size": 0, "reason": reason}


def _encoder(path: Path, tokenizer: Tokenizer, survey: Survey) -> Encoder:
    pieces = [
        (piece.text[:MAX_CHECK_CHARS], row["row_id"])
        for row in survey.check
        for piece in row_pieces(tokenizer, row)
        if piece.token is None
    ]
    return bulk.encoder(path, tokenizer, [text for text, _ in pieces], [row_id for _, row_id in pieces])


def _encode(
    data: Artifact, examples: Examples, survey: Survey, path: Path, tokenizer: Tokenizer, encoder: Encoder
) -> list[dict[str, Any]]:
    """Write the token store of all rows, from the first shard that is not there; what is said of each shard."""
    names = json.loads((data.path / "labels.json").read_text(encoding="utf-8"))
    writer = StoreWriter(path / STORE, tokenizer, encoder, **names)
    with bar("encode rows", total=survey.rows) as progress:
        progress.advance(sum(counts["rows"] for shard in writer.shards for counts in shard["splits"].values()))
        for groups in examples.shards(SHARD_BYTES)[len(writer.shards) :]:
            writer.add(examples.rows(groups), progress)
    return writer.shards


def _counts(shards: list[dict[str, Any]]) -> dict[str, Any]:
    def total(split: str, name: str) -> int:
        return sum(shard["splits"][split][name] for shard in shards if split in shard["splits"])

    tokens = {split: total(split, "tokens") for split in SPLITS}
    return {
        "rows": {split: total(split, "rows") for split in SPLITS},
        "tokens": sum(tokens.values()),
        "tokens_by_split": tokens,
        "shards": len(shards),
    }
