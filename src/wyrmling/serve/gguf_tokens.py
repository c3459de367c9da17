"""A tokenizer folder as GGUF metadata: byte-level BPE and SentencePiece-like BPE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wyrmling.core.errors import BadInput
from wyrmling.core.log import warn
from wyrmling.tokenizer.patterns import NAMED
from wyrmling.tokenizer.tokenizer import Tokenizer

# GGUF's kinds of tokens.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# The name in llama.cpp for a way to cut text into words, by our name for it and the digits it takes together. dbrx is
# Llama 3's expression without the rule that a whole word in the vocabulary needs no merges.
WAYS: dict[tuple[str, int | None], str] = {
    ("gpt2", None): "gpt-2",
    ("cl100k", 3): "dbrx",
    ("cl100k", 1): "qwen2",
    ("o200k", 3): "gpt-4o",
}


def add(writer: Any, folder: Path, rows: int) -> None:
    """Write the vocabulary, its merges or scores, the special tokens and the chat template.

    rows     of the embedding; ids above the vocabulary become unused tokens
    Raises   BadInput for a tokenizer that is neither byte-level nor SentencePiece-like BPE
    """
    tokenizer = Tokenizer.load(folder)
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = raw["model"]
    if model.get("type") != "BPE":
        raise BadInput(f"a {model.get('type')} tokenizer is not written to GGUF files", where=folder / "tokenizer.json")
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [UNUSED] * rows
    for token, id in model["vocab"].items():
        tokens[id], types[id] = token, NORMAL
    for added in raw.get("added_tokens", []):
        tokens[added["id"]], types[added["id"]] = added["content"], CONTROL if added["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if tokenizer.is_byte_level:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_way(raw))
        writer.add_token_merges(merges)
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_opens_with_a_space(raw))
        # Spaces in a row stay, as tokenizer.json keeps them.
        writer.add_remove_extra_whitespaces(False)
        types = [_spelled(token, kind, tokenizer) for token, kind in zip(tokens, types, strict=True)]
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special(writer, folder, tokenizer)


def _way(raw: dict[str, Any]) -> str:
    """llama.cpp's name for how this tokenizer cuts text into words; the nearest one with a warning, if it has none."""
    steps = raw["pre_tokenizer"].get("pretokenizers") or [raw["pre_tokenizer"]]
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"]
    if [step["type"] for step in steps] == ["Digits", "ByteLevel"]:
        return "smollm"
    if not patterns:
        return "gpt-2"
    for name, digits in WAYS:
        if patterns[-1] == NAMED[name][0] % ("+" if digits is None else "" if digits == 1 else f"{{1,{digits}}}"):
            return WAYS[name, digits]
    warn(
        "llama.cpp has no rule that cuts text as this tokenizer does; it will use Llama 3's, which takes three digits "
        "together. Longer numbers may get other ids there: train with tokenizer.digits = 3 or 1 where that matters"
    )
    return "dbrx"


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """What SentencePiece goes by: the earlier a merge, the higher the score of what it makes."""
    scores = dict.fromkeys(tokens, -1e6)
    for rank, merge in enumerate(merges):
        made = "".join(merge.split(" ", 1))
        scores[made] = max(scores.get(made, -1e6), -float(rank))
    return [scores[token] for token in tokens]


def _opens_with_a_space(raw: dict[str, Any]) -> bool:
    pre = raw.get("pre_tokenizer") or {}
    normal = json.dumps(raw.get("normalizer") or {})
    return pre.get("prepend_scheme") in ("first", "always") or '"Prepend"' in normal


def _spelled(token: str, kind: int, tokenizer: Tokenizer) -> int:
    if kind == NORMAL and token.startswith("<0x") and token.endswith(">"):
        return BYTE
    return UNKNOWN if token == tokenizer.special_tokens.get("unk_token") else kind


def _add_special(writer: Any, folder: Path, tokenizer: Tokenizer) -> None:
    if tokenizer.bos_id is not None:
        writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_add_bos_token(tokenizer.bos_id is not None)
    writer.add_add_eos_token(False)
    # A chat model's answer is over when its turn is.
    ends = tokenizer.im_end_id if tokenizer.chat_template is not None and tokenizer.im_end_id else tokenizer.eos_id
    if ends is not None:
        writer.add_eos_token_id(ends)
    if tokenizer.unk_id is not None:
        writer.add_unk_token_id(tokenizer.unk_id)
    if tokenizer.pad_id is not None:
        writer.add_pad_token_id(tokenizer.pad_id)
    template = folder / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text(encoding="utf-8"))
