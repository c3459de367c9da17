"""SentencePiece `.model` files as `tokenizers` vocabularies, read without the sentencepiece package.

The file is one protocol-buffers message, `ModelProto` of sentencepiece_model.proto (google/sentencepiece, Apache-2.0);
only the fields that shape the ids are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from wyrmling.core.errors import BadInput, CorruptArtifact

# Piece types and model types of the proto.
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
UNIGRAM, BPE = 1, 2
SPACE = "▁"


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int


@dataclass
class _Model:
    pieces: list[_Piece] = field(default_factory=list)
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    charsmap: bytes = b""
    opens_with_space: bool = True
    single_spaces: bool = True


class Converted(NamedTuple):
    """A vocabulary, and the special tokens that its file gives a role."""

    hf: tokenizers.Tokenizer
    special_tokens: dict[str, str]


def convert(data: bytes, *, spaces_first_only: bool, where: object) -> Converted:
    """The vocabulary of a `.model` file; the ids of texts are those of sentencepiece.

    spaces_first_only   the space before a text is put at its very start only, not after each special token
                        (`"legacy": false` in tokenizer_config.json)
    Raises   CorruptArtifact when the file is not such a model; BadInput for a kind of model that has no counterpart
    """
    model = _read(data, where)
    if model.algorithm not in (UNIGRAM, BPE):
        raise BadInput(
            "a SentencePiece model of whole words or characters is not supported",
            where=where,
            fix="use a model with a unigram or BPE vocabulary",
        )
    hf = tokenizers.Tokenizer(_unigram(model) if model.algorithm == UNIGRAM else _bpe(model))
    _spell_spaces(hf, model, spaces_first_only)
    for piece in model.pieces:
        if piece.kind in (UNKNOWN, CONTROL):
            hf.add_special_tokens([AddedToken(piece.text, normalized=False, special=True)])
        elif piece.kind == USER_DEFINED:
            hf.add_tokens([AddedToken(piece.text, normalized=False, special=False)])
    ids = {"unk": model.unk_id, "bos": model.bos_id, "eos": model.eos_id, "pad": model.pad_id}
    named = {f"{role}_token": model.pieces[id_].text for role, id_ in ids.items() if 0 <= id_ < len(model.pieces)}
    return Converted(hf, named)


def _unigram(model: _Model) -> models.Unigram:
    # Control pieces have the score 0, the best there is; text that spells one out would become it.
    scores = [(p.text, -1e6 if p.kind in (UNKNOWN, CONTROL) else p.score) for p in model.pieces]
    return models.Unigram(scores, unk_id=model.unk_id, byte_fallback=model.byte_fallback)


def _bpe(model: _Model) -> models.BPE:
    """Every pair of pieces that make a third joins at the rank of the third, as sentencepiece does by score."""
    ids = {piece.text: id_ for id_, piece in enumerate(model.pieces)}
    plain = {piece.text for piece in model.pieces if piece.kind not in (UNKNOWN, CONTROL, BYTE)}
    merges: list[tuple[float, int, int, int, str, str]] = []
    for id_, piece in enumerate(model.pieces):
        if piece.text not in plain:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in plain and right in plain:
                merges.append((-piece.score, id_, ids[left], ids[right], left, right))
    merges.sort()
    return models.BPE(
        ids,
        [(left, right) for *_, left, right in merges],
        unk_token=model.pieces[model.unk_id].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _spell_spaces(hf: tokenizers.Tokenizer, model: _Model, first_only: bool) -> None:
    before: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.single_spaces:
        before += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.opens_with_space and first_only:
        hf.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    else:
        before += [normalizers.Prepend(SPACE)] if model.opens_with_space else []
        before.append(normalizers.Replace(" ", SPACE))
    if before:
        hf.normalizer = normalizers.Sequence(before)
    after: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.opens_with_space:
        after.append(decoders.Strip(" ", 1, 0))
    hf.decoder = decoders.Sequence(after)


def _read(data: bytes, where: object) -> _Model:
    model = _Model()
    try:
        for number, value in _fields(data):
            if number == 1:
                model.pieces.append(_read_piece(value))
            elif number == 2:
                _read_trainer(model, value)
            elif number == 3:
                _read_normalizer(model, value)
    except (LookupError, struct.error, ValueError, TypeError, AttributeError) as error:
        raise CorruptArtifact(
            f"this is not a SentencePiece model: {error}", where=where, fix="get the file again from its origin"
        ) from error
    if not model.pieces or not 0 <= model.unk_id < len(model.pieces):
        raise CorruptArtifact(
            "this SentencePiece model has no pieces", where=where, fix="get the file again from its origin"
        )
    return model


def _read_piece(data: bytes) -> _Piece:
    found = dict(_fields(data))
    (score,) = struct.unpack("<f", found.get(2, b"\0\0\0\0"))
    return _Piece(found[1].decode("utf-8"), score, found.get(3, 1))


def _read_trainer(model: _Model, data: bytes) -> None:
    names = {3: "algorithm", 35: "byte_fallback", 40: "unk_id", 41: "bos_id", 42: "eos_id", 43: "pad_id"}
    for number, value in _fields(data):
        if number in names:
            # Negative int32 values are written as 64-bit two's complement.
            signed = value - 2**64 if value >= 2**63 else value
            setattr(model, names[number], bool(signed) if number == 35 else signed)


def _read_normalizer(model: _Model, data: bytes) -> None:
    found = dict(_fields(data))
    model.charsmap = found.get(2, b"")
    model.opens_with_space = bool(found.get(3, True))
    model.single_spaces = bool(found.get(4, True))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a message: integers, or bytes. Raises ValueError or IndexError when cut off."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("it is cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
