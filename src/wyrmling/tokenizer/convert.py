"""Tokenizers of model folders without a tokenizer.json: SentencePiece, tiktoken, vocab.json with merges.txt, vocab.txt.

Which file a folder has says how it is spelled; `tokenizer_class` says what some models do differently. A class that is
not known here may do anything, so it is refused with the command that converts it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from wyrmling.config import Tokenizer as Settings
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.tokenizer import bpe, sentencepiece
from wyrmling.tokenizer.patterns import word_pattern
from wyrmling.tokenizer.sentencepiece import Converted

SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
WORDPIECE_FILE, BPE_FILES = "vocab.txt", ("vocab.json", "merges.txt")

# Classes whose ids are those of the file, by kind of file; without "Fast". None: the folder names no class.
_PLAIN = {
    "sentencepiece": {None, "Llama", "Gemma", "CodeLlama", "PreTrained", "Tokenizers", "LlamaCpp", "Albert"},
    "bpe": {None, "GPT2", "Roberta", "Bart", "GPTNeoX", "CodeGen", "Qwen2", "OPT"},
    "wordpiece": {None, "Bert", "DistilBert", "Electra", "MobileBert"},
    "tiktoken": {None, "PreTrained", "Tokenizers", "Llama", "Qwen", "TikToken"},
}
# A tiktoken file does not hold the expression that cuts words; its number of ranks tells whose it is.
# Sources: tiktoken openai_public.py; tokenizer files of Llama 3 and Qwen.
_RANKS = {50_256: "gpt2", 100_256: "cl100k", 128_000: "llama3", 151_643: "qwen2", 199_998: "o200k"}


def files(folder: Path) -> list[Path]:
    """The files that a vocabulary would be converted from; empty when the folder has none."""
    for name in SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            return [folder / name]
    if ranks := sorted(folder.glob("*.tiktoken")):
        return ranks[:1]
    if all((folder / name).is_file() for name in BPE_FILES):
        return [folder / name for name in BPE_FILES]
    return [folder / WORDPIECE_FILE] if (folder / WORDPIECE_FILE).is_file() else []


def convert(folder: Path, config: Mapping[str, Any]) -> Converted | None:
    """The vocabulary of a folder without tokenizer.json; None when it has no file that could be converted.

    config   its tokenizer_config.json
    Raises   BadInput for a class that is not known; CorruptArtifact for a file that can't be read
    """
    found = files(folder)
    if not found:
        return None
    kind, read = _reader(found[0])
    _check_class(config.get("tokenizer_class"), kind, found[0])
    try:
        converted = read(found[0], config)
    except (OSError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise CorruptArtifact(
            f"{found[0].name} can't be read as a vocabulary: {error}",
            where=found[0],
            fix="get the file again from its origin",
        ) from error
    _add_declared(converted.hf, _declared(folder, config), found[0])
    return converted


def _reader(file: Path) -> tuple[str, Callable[[Path, Mapping[str, Any]], Converted]]:
    if file.name in SENTENCEPIECE_FILES:
        # Llama 3 calls its tiktoken file tokenizer.model; a protocol-buffers message begins with a field number.
        return ("sentencepiece", _sentencepiece) if file.read_bytes()[:1] == b"\n" else ("tiktoken", _tiktoken)
    if file.suffix == ".tiktoken":
        return "tiktoken", _tiktoken
    return ("wordpiece", _wordpiece) if file.name == WORDPIECE_FILE else ("bpe", _byte_pairs)


def _check_class(named: str | None, kind: str, file: Path) -> None:
    plain = named.removesuffix("Fast").removesuffix("Tokenizer") if named else None
    if plain not in _PLAIN[kind]:
        raise BadInput(
            f"the tokenizer class {named} may number the tokens of {file.name} in its own way",
            where=file,
            fix='where transformers and its extras are installed, write a tokenizer.json with: python -c "from '
            f"transformers import AutoTokenizer as T; T.from_pretrained('{file.parent}').save_pretrained("
            f"'{file.parent}')\"",
        )


def _sentencepiece(file: Path, config: Mapping[str, Any]) -> Converted:
    # transformers reads a missing `legacy` as true.
    return sentencepiece.convert(file.read_bytes(), spaces_first_only=config.get("legacy") is False, where=file)


def _tiktoken(file: Path, config: Mapping[str, Any]) -> Converted:
    ranks = {}
    for line in file.read_bytes().splitlines():
        if line.strip():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    if len(ranks) not in _RANKS:
        raise BadInput(
            f"{file.name} has {len(ranks):,} ranks, which tells no known way of cutting text into words",
            where=file,
            fix="use a folder of this model that has a tokenizer.json",
        )
    pattern = word_pattern(Settings(pattern=_RANKS[len(ranks)]), len(ranks))
    return Converted(from_ranks(ranks, pattern), {})


def from_ranks(ranks: Mapping[bytes, int], pattern: str) -> tokenizers.Tokenizer:
    """The byte-level BPE whose ids are those of tiktoken with these ranks and this expression for words."""
    spell = bpe.to_byte_level
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _last_merge(ranks, token, rank)
            merges.append((spell(left), spell(right)))
    # tiktoken looks a whole word up before it joins bytes.
    vocab = {spell(token): rank for token, rank in ranks.items()}
    hf = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    hf.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    hf.decoder = decoders.ByteLevel()
    return hf


def _last_merge(ranks: Mapping[bytes, int], token: bytes, rank: int) -> tuple[bytes, bytes]:
    """The two tokens that `token` is joined from, found by joining its bytes with the ranks below its own."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], rank) for i in range(len(parts) - 1)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] >= rank:
            raise ValueError(f"the ranks never join {token!r}")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def _byte_pairs(file: Path, config: Mapping[str, Any]) -> Converted:
    vocab, merges = (str(file.parent / name) for name in BPE_FILES)
    hf = tokenizers.Tokenizer(models.BPE.from_file(vocab, merges))
    spaced = bool(config.get("add_prefix_space", False))
    if str(config.get("tokenizer_class")).startswith("Qwen2"):
        hf.normalizer = normalizers.NFC()
        cut: list[Any] = [pre_tokenizers.Split(Regex(word_pattern(Settings(pattern="qwen2"), 0)), "isolated")]
        cut.append(pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False))
        hf.pre_tokenizer = pre_tokenizers.Sequence(cut)
    else:
        hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    hf.decoder = decoders.ByteLevel()
    usual = ("<|endoftext|>", "<s>", "<pad>", "</s>", "<unk>", "<mask>")
    known = [token for token in usual if hf.token_to_id(token) is not None]
    hf.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in known])
    named = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"} if known == ["<|endoftext|>"] else {}
    return Converted(hf, named)


def _wordpiece(file: Path, config: Mapping[str, Any]) -> Converted:
    words = file.read_text(encoding="utf-8").splitlines()
    hf = tokenizers.Tokenizer(models.WordPiece({word: id_ for id_, word in enumerate(words)}, unk_token="[UNK]"))
    hf.normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    hf.decoder = decoders.WordPiece()
    named = {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    named = {role: token for role, token in (named | {"mask_token": "[MASK]"}).items() if token in words}
    hf.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in named.values()])
    return Converted(hf, named)


def _declared(folder: Path, config: Mapping[str, Any]) -> Iterable[tuple[int, AddedToken]]:
    """Tokens that the folder adds to its vocabulary, by id."""
    found: dict[int, AddedToken] = {}
    extra = folder / "added_tokens.json"
    if extra.is_file():
        named = json.loads(extra.read_text(encoding="utf-8"))
        found |= {int(id_): AddedToken(token, normalized=False) for token, id_ in named.items()}
    for id_, token in (config.get("added_tokens_decoder") or {}).items():
        flags = {
            key: bool(token.get(key, False)) for key in ("lstrip", "rstrip", "single_word", "normalized", "special")
        }
        found[int(id_)] = AddedToken(token["content"], **flags)
    return sorted(found.items())


def _add_declared(hf: tokenizers.Tokenizer, declared: Iterable[tuple[int, AddedToken]], file: Path) -> None:
    for id_, token in declared:
        (hf.add_special_tokens if token.special else hf.add_tokens)([token])
        if hf.token_to_id(token.content) != id_:
            raise BadInput(
                f"{token.content!r} would get the id {hf.token_to_id(token.content)} instead of {id_}: "
                f"{file.name} and tokenizer_config.json are of different models",
                where=file,
                fix="get both files again from the same origin",
            )
