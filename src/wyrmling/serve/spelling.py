"""Single tokens as people and clients read them: their bytes, their text, and where they begin in an answer."""

from __future__ import annotations

import codecs

from wyrmling.tokenizer.tokenizer import Tokenizer


class Spelling:
    """How the tokens of one vocabulary are spelled."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {token: name.encode() for name, token in tokenizer.special_ids.items()}

    def text_bytes(self, token: int) -> bytes:
        """What a token adds to a text; nothing for a special token."""
        return self._tokenizer.token_bytes(token)

    def spelled(self, token: int) -> bytes:
        """The bytes of a token; a special token, which has no text, by its name."""
        return self._special.get(token) or self.text_bytes(token)

    def shown(self, token: int) -> str:
        """A token as text; what is not whole UTF-8 as U+FFFD, as chat clients expect beside its bytes."""
        return self.spelled(token).decode("utf-8", "replace")

    def readable(self, token: int) -> str:
        r"""A token as text that no other token has; half a character as `bytes:\xe2\x82`, as OpenAI writes it."""
        raw = self.spelled(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class Offsets:
    """Where each token begins in a text, in characters. A character cut by tokens belongs to the one that ends it."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0

    def next(self, token: int) -> int:
        """The offset of the next token, which is `token`."""
        at = self._at
        self._at += len(self._decoder.decode(self._spelling.text_bytes(token)))
        return at
