"""Text to token ids and back, for one tokenizer folder.

Special tokens are never recognised in text: a document that quotes `<|endoftext|>` is not cut in two by it. They enter
a row only by id. Knows nothing of projects and training.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import tokenizers

from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.tokenizer import bpe, chat, convert, sandbox, spacing

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"

# The roles of special tokens and where else a folder may name them. An encoder calls its ends cls and sep.
_ROLES = {
    "bos_token": ("bos_token", "cls_token"),
    "eos_token": ("eos_token", "sep_token"),
    "mask_token": ("mask_token",),
    "pad_token": ("pad_token",),
    "unk_token": ("unk_token",),
}


_SINGLE_BYTE = re.compile("<0x[0-9A-F]{2}>")
# How Python's surrogateescape writes bytes that are not UTF-8.
_ESCAPED = re.compile("([\udc80-\udcff]+)")


class Tokenizer:
    """The tokenizer of a folder in Hugging Face layout. Made by `Tokenizer.load`.

    special_tokens  role -> its token, such as {"eos_token": "<|endoftext|>"}, without the roles that nobody has
    special_ids     every special token of the vocabulary -> its id
    chat_template   the compiled template, None when the folder has none
    sha256          of tokenizer.json
    adds_bos        what the folder's settings say of opening rows. None: what the vocabulary itself does
    """

    def __init__(
        self,
        hf: tokenizers.Tokenizer,
        special_tokens: dict[str, str],
        template: jinja2.Template | None,
        sha256: str,
        *,
        adds_bos: bool | None = None,
    ) -> None:
        # Some published tokenizers cut texts at 128 tokens or pad them; rows here have the length they have.
        hf.no_truncation()
        hf.no_padding()
        hf.encode_special_tokens = True
        self._hf = hf
        self.special_tokens = special_tokens
        self.chat_template = template
        self.sha256 = sha256
        self._adds_bos = adds_bos
        added = hf.get_added_tokens_decoder()
        self.special_ids = {token.content: id_ for id_, token in sorted(added.items()) if token.special}
        self._swallows = {token.content: (token.lstrip, token.rstrip) for token in added.values() if token.special}
        self._added = {id_: token.content.encode() for id_, token in added.items() if not token.special}
        self.is_byte_level = "ByteLevel" in str(hf.decoder)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer in `folder`: its tokenizer.json, or what one of the older kinds of files says.

        Raises   BadInput when it has no such file; CorruptArtifact when a file can't be read as what it is.
        """
        config = _read_json(folder / CONFIG_FILE)
        text, named = vocabulary(folder)
        try:
            hf = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises plain Exception for a file it can't parse
            raise CorruptArtifact(
                f"{TOKENIZER_FILE} is not a tokenizer: {error}",
                where=folder / TOKENIZER_FILE,
                fix="restore the file, or make it again",
            ) from error
        special = named | _special_tokens(folder, config, hf)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        return cls(hf, special, _template(folder, config), sha256, adds_bos=config.get("add_bos_token"))

    # ---- special ids ----

    def _id_of(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self._hf.token_to_id(token)

    @cached_property
    def bos_id(self) -> int | None:
        """Opens every row. None: this tokenizer opens rows with nothing, as GPT-2's, although it may name a token."""
        named = self._id_of("bos_token")
        adds = self._adds_bos
        if adds is None and self._hf.post_processor is not None:
            adds = self._hf.encode("a").ids[:1] == [named]
        elif adds is None:
            # Nothing says so; SentencePiece models open their rows.
            adds = not self.is_byte_level
        return named if adds else None

    @cached_property
    def eos_id(self) -> int | None:
        """Ends a document."""
        return self._id_of("eos_token")

    @cached_property
    def mask_id(self) -> int | None:
        """Stands for a hidden token. None: the masked objective can't be used."""
        return self._id_of("mask_token")

    @cached_property
    def pad_id(self) -> int | None:
        """Fills up batches in other software; nothing here is padded."""
        return self._id_of("pad_token")

    @cached_property
    def unk_id(self) -> int | None:
        """Stands for text that the vocabulary can't spell. None for byte-level vocabularies."""
        return self._id_of("unk_token")

    @cached_property
    def im_end_id(self) -> int | None:
        """Ends a turn of a ChatML conversation."""
        return self._hf.token_to_id(bpe.IM_END)

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The ids after which an answer is over: the end of text, and what the chat template ends a turn with."""
        return tuple(sorted({id_ for id_ in (self.eos_id, self.im_end_id, chat.turn_end(self)) if id_ is not None}))

    @cached_property
    def chat_switches(self) -> dict[str, bool]:
        """What the chat template is told beside the messages."""
        return chat.switches(self) or {}

    @cached_property
    def shows_answers_as_asked(self) -> bool:
        """False when the chat template shows an answer in another form than it asks the model for."""
        return chat.switches(self) is not None

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Splits a text at special tokens, and keeps them."""
        return chat.special_pattern(self.special_ids)

    def swallows(self, special: str) -> tuple[bool, bool]:
        """Whether a special token takes in the white space before it, and behind it."""
        return self._swallows[special]

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._hf.get_vocab(with_added_tokens=True).values()) + 1

    def json(self) -> str:
        """The vocabulary as the text of a tokenizer.json, for other libraries."""
        return str(self._hf.to_str())

    # ---- text to ids ----

    def encode(self, text: str, *, opening: bool = True) -> list[int]:
        """The ids of `text`, without special tokens. A lone surrogate becomes U+FFFD.

        opening   False: the text goes on from another, so no space is put before it, as some vocabularies do
        """
        hf = self._hf if opening or self.opens == "never" else self._without_opening
        ids: list[int] = hf.encode(bpe.without_surrogates(text), add_special_tokens=False).ids
        return ids

    @cached_property
    def opens(self) -> spacing.Opens:
        """Where this vocabulary puts a space before a text that has none."""
        return spacing.opens(self._hf)

    @cached_property
    def _without_opening(self) -> tokenizers.Tokenizer:
        return spacing.without_opening(self._hf)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        clean = [bpe.without_surrogates(text) for text in texts]
        return [encoding.ids for encoding in self._hf.encode_batch_fast(clean, add_special_tokens=False)]

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes: of text as `encode` has them, and for a byte that is not UTF-8 its own token.

        Raises   BadInput when the vocabulary is not byte-level.
        """
        if not self.is_byte_level:
            raise BadInput("this vocabulary has no tokens for bytes", fix="decode them to text first")
        ids: list[int] = []
        for stretch in _ESCAPED.split(data.decode("utf-8", "surrogateescape")):
            if _ESCAPED.fullmatch(stretch):
                ids += [self._single_bytes[byte] for byte in stretch.encode("utf-8", "surrogateescape")]
            else:
                ids += self.encode(stretch)
        return ids

    @cached_property
    def _single_bytes(self) -> dict[int, int]:
        return {token[0]: id_ for id_, token in enumerate(self._bytes) if len(token) == 1}

    def word_text(self, word: str) -> str:
        """What is encoded for one word of a tagged row: with a space before it, where the vocabulary spells spaces."""
        return " " + word if self.is_byte_level else word

    def encode_words(self, words: Iterable[str]) -> tuple[list[int], list[int]]:
        """The ids of words, without special tokens, and the position of each word's first piece."""
        ids: list[int] = []
        firsts: list[int] = []
        for word in words:
            firsts.append(len(ids))
            ids += self.encode(self.word_text(word)) or [self.unspelled(word)]
        return ids, firsts

    def unspelled(self, word: str) -> int:
        """The id for a word whose every character the vocabulary drops, so that each word has a first piece.

        Raises   BadInput when the vocabulary has no unknown token either.
        """
        if self.unk_id is None:
            raise BadInput(
                f"the tokenizer has no token for the word {word!r}", fix="remove the word, or train from scratch"
            )
        return self.unk_id

    def document(self, text: str) -> list[int]:
        """The ids of a whole text: opened, encoded, ended."""
        return self.prompt(text) + ([] if self.eos_id is None else [self.eos_id])

    def prompt(self, text: str) -> list[int]:
        """The ids of a text for the model to go on from: opened, encoded, not ended."""
        ids = ([] if self.bos_id is None else [self.bos_id]) + self.encode(text)
        # A model needs something to go on from; where nothing opens rows, the token named for it is the nearest thing.
        named = self._id_of("bos_token")
        return ids or ([] if named is None else [named])

    # ---- ids to text ----

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens have none, and bytes that are not UTF-8 become U+FFFD."""
        if self.is_byte_level:
            return self.decode_bytes(ids).decode("utf-8", "replace")
        return str(self._hf.decode(list(ids), skip_special_tokens=True))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`, in a byte-level vocabulary exactly those that were encoded; special tokens have none."""
        return b"".join(self.token_bytes(id_) for id_ in ids)

    def token_bytes(self, id_: int) -> bytes:
        """The bytes that a token stands for; none for a special token or an id outside the vocabulary."""
        return self._bytes[id_] if 0 <= id_ < len(self._bytes) else b""

    @cached_property
    def _bytes(self) -> list[bytes]:
        table = [b""] * self.vocab_size
        special = set(self.special_ids.values())
        for token, id_ in self._hf.get_vocab(with_added_tokens=True).items():
            if id_ not in special:
                table[id_] = self._added.get(id_) or self._spelled(token)
        return table

    def _spelled(self, token: str) -> bytes:
        if self.is_byte_level:
            try:
                return bpe.from_byte_level(token)
            except KeyError:  # an entry in plain letters, as some vocabularies have for unused places
                return token.encode()
        if _SINGLE_BYTE.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        # SentencePiece writes a space as a low line, WordPiece marks a word's later pieces.
        return token.removeprefix("##").replace("▁", " ").encode()

    @cached_property
    def joints(self) -> list[tuple[bool, bool]]:
        """For each id whether it begins, and whether it ends, in the middle of a word if its neighbour does too.

        A word is a run of letters and digits; WordPiece marks its later pieces. Special tokens are no part of any.
        """
        word_piece = any(token.startswith("##") for token in self._hf.get_vocab(with_added_tokens=False))
        found = [(False, False) if not word else (_in_word(word[0]), _in_word(word[-1])) for word in self._bytes]
        if word_piece and not self.is_byte_level:
            pieces = (str(self._hf.id_to_token(id_)) for id_ in range(len(found)))
            found = [(piece.startswith("##"), bool(word)) for piece, word in zip(pieces, self._bytes, strict=True)]
        return found

    def leaves_open(self, id_: int) -> bool:
        """Whether text up to this id may still change, in a SentencePiece vocabulary: after a single byte of a
        character that it can't spell, and after a token without text."""
        token = self._hf.id_to_token(id_)
        return token is None or token in self.special_ids or _SINGLE_BYTE.fullmatch(token) is not None

    def stream(self) -> TextStream:
        """A decoder for ids that arrive one at a time."""
        return TextStream(self)


class TextStream:
    """Text of ids that arrive one at a time. A character whose bytes are not all there yet is held back.

    The pieces and `finish()` together are exactly `decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        # Only used where tokens are not bytes: there the text of a token depends on its neighbours.
        self._ids: list[int] = []
        self._said = 0

    def push(self, id_: int) -> str:
        """The text that became certain with this id; may be empty."""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(self._tokenizer.token_bytes(id_))
        self._ids.append(id_)
        # A run of single bytes is text only as a whole: one wrong byte at its end spoils it all.
        return "" if self._tokenizer.leaves_open(id_) else self._new()

    def finish(self) -> str:
        """The text still held back; an unfinished character becomes U+FFFD."""
        return self._utf8.decode(b"", final=True) if self._tokenizer.is_byte_level else self._new()

    def _new(self) -> str:
        whole = self._tokenizer.decode(self._ids)
        new, self._said = whole[self._said :], len(whole)
        return new


def _in_word(byte: int) -> bool:
    """Whether a byte is part of a letter or digit; beyond ASCII every one is taken for one."""
    return byte >= 0x80 or chr(byte).isalnum()


def vocabulary(folder: Path) -> tuple[str, dict[str, str]]:
    """What a folder's tokenizer.json says, or would say; and the special tokens by role that only older files know.

    Raises   BadInput when it has neither tokenizer.json nor a file that can be converted
    """
    path = folder / TOKENIZER_FILE
    if path.is_file():
        return path.read_bytes().decode("utf-8", "replace"), {}
    converted = convert.convert(folder, _read_json(folder / CONFIG_FILE))
    if converted is None:
        raise BadInput(
            f"{folder} has no {TOKENIZER_FILE}",
            where=path,
            fix="name a model folder in Hugging Face format; tokenizer.model, *.tiktoken, vocab.json with merges.txt "
            "and vocab.txt are read too",
        )
    return converted.hf.to_str(pretty=True), converted.special_tokens


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptArtifact(f"{path.name} is not JSON: {error}", where=path, fix="restore the file") from error
    return value if isinstance(value, dict) else {}


def _special_tokens(folder: Path, config: dict[str, Any], hf: tokenizers.Tokenizer) -> dict[str, str]:
    """role -> token: from tokenizer_config.json, else special_tokens_map.json, else the ids in config.json."""
    named = {**_read_json(folder / "special_tokens_map.json"), **{key: value for key, value in config.items() if value}}
    ids = _read_json(folder / "config.json")
    found = {}
    for role, keys in _ROLES.items():
        for key in keys:
            value = named.get(key)
            token = value.get("content") if isinstance(value, dict) else value
            if token is None and config.get(key, "") is not None:
                id_ = ids.get(key.replace("_token", "_token_id"))
                token = hf.id_to_token(id_[0] if isinstance(id_, list) else id_) if id_ is not None else None
            if token is not None and hf.token_to_id(token) is not None:
                found[role] = token
                break
    return found


def _template(folder: Path, config: dict[str, Any]) -> jinja2.Template | None:
    path = folder / TEMPLATE_FILE
    source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(source, list):
        # Folders with several templates name the ordinary one "default".
        source = next((item["template"] for item in source if item.get("name") == "default"), None)
    if source is None:
        return None
    try:
        return sandbox.Sandbox().from_string(source)
    except jinja2.TemplateError as error:
        raise CorruptArtifact(
            f"the chat template is not valid Jinja: {error}", where=path, fix="restore the file"
        ) from error
