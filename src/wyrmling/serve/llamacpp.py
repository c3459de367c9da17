"""An exported GGUF file in llama.cpp, the engine it is for: which ids it gives a text, and what it answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wyrmling.core.errors import UsageError

# Tokens that llama.cpp keeps room for when a file is only checked.
CONTEXT = 512


class Engine:
    """llama.cpp with one model, in this process, answering as exactly as it can: float32 keys and values.

    sequences  None: one, of a few tokens, to check the file. Else how many are answered at a time, each as long as the
               model's context
    Raises   UsageError when it is not installed, or can't read the file
    """

    def __init__(self, file: Path, *, sequences: int | None = None) -> None:
        try:
            import xllamacpp
        except ImportError as error:
            raise UsageError("checking a GGUF file needs llama.cpp", fix='pip install "wyrmling[gguf]"') from error
        wanted = xllamacpp.CommonParams()
        wanted.model.path = str(file)
        wanted.n_parallel, wanted.cache_ram_mib, wanted.warmup = sequences or 1, 0, False
        # 0: the model's own, which is shared by the sequences.
        wanted.n_ctx, wanted.kv_unified = CONTEXT if sequences is None else 0, True
        wanted.cache_type_k = wanted.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        wanted.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        wanted.verbosity = -1
        wanted.n_gpu_layers = 0
        try:
            self._server = xllamacpp.Server(wanted)
        except RuntimeError as error:
            raise UsageError(f"llama.cpp can't read the file: {error}", where=str(file)) from error

    @property
    def address(self) -> str:
        """Where it listens, on this machine."""
        return str(self._server.listening_address)

    def ids(self, text: str) -> list[int] | None:
        """The ids of a text, without special tokens; None when the vocabulary can't spell it."""
        asked = {"content": text, "add_special": False, "parse_special": False}
        try:
            found: list[int] = self._post("/tokenize", asked)["tokens"]
        except urllib.error.HTTPError:
            return None
        return found

    def answer(self, prompt: Sequence[int], tokens: int, rows: int) -> tuple[Tensor, list[int]]:
        """Log-probabilities of the token after a prompt, (1, V), and the greedy answer of up to `tokens` tokens.

        rows   of the embedding, V
        """
        asked = {"prompt": list(prompt), "temperature": 0, "cache_prompt": False, "return_tokens": True}
        # No probabilities come with half a character, so the token drawn is a letter; they are those before the bias.
        letter = (self.ids("a") or [0])[-1]
        first = self._post("/completion", asked | {"n_predict": 1, "n_probs": rows, "logit_bias": [[letter, 1e6]]})
        logprobs_1V = torch.full((1, rows), -torch.inf)
        for token in first["completion_probabilities"][0]["top_logprobs"]:
            logprobs_1V[0, token["id"]] = token["logprob"]
        greedy: list[int] = self._post("/completion", asked | {"n_predict": tokens})["tokens"]
        return logprobs_1V, greedy

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)
