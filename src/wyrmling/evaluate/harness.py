"""lm-evaluation-harness on a model of ours: its tasks, its prompts and its metrics, and our arithmetic.

    from lm_eval import simple_evaluate
    from wyrmling.evaluate.harness import HarnessModel
    simple_evaluate(HarnessModel("runs/train/tune-1234/model"), tasks=["arc_easy"])

Needs the extra `lm-eval`. The harness fetches the data of its own tasks; tasks on local files run offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wyrmling.core.errors import BadSetting
from wyrmling.evaluate import score
from wyrmling.evaluate.score import Scorer
from wyrmling.evaluate.write import continuations
from wyrmling.model import folder, generate
from wyrmling.tokenizer.tokenizer import Tokenizer

try:
    from lm_eval.api.model import LM
except ImportError as error:
    raise BadSetting(
        "lm-evaluation-harness is not installed", where="lm_eval", fix="pip install 'wyrmling[lm-eval]'"
    ) from error

MAX_TOKENS = 256


class HarnessModel(LM):  # type: ignore[misc]
    """A model folder behind the harness's interface. Raises BadSetting for a model that does not write."""

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        super().__init__()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = folder.load(Path(path), device=device, dtype=torch.float32)
        if model.head_name != "next":
            raise BadSetting(f"the model has the head {model.head_name!r}, and the harness asks models that write")
        self._scorer = Scorer(model, Tokenizer.load(Path(path)), [], [], device)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether it is the greedy one) for each (context, continuation)."""
        return [self._continuation(*request.args) for request in requests]

    def _continuation(self, context: str, continuation: str) -> tuple[float, bool]:
        tokenizer, room = self._scorer.tokenizer, self._scorer.context
        # A space at the end of the context belongs to the word that follows it.
        kept = context.rstrip()
        before = tokenizer.prompt(kept)
        whole = tokenizer.prompt(kept + context[len(kept) :] + continuation)
        # Where the two meet, the tokenizer may join what the context had apart.
        shared = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
        start = max(1, min(shared, len(whole) - 1)) if len(whole) > 1 else len(whole)
        ids = whole[-room:]
        wanted = len(whole) - start
        tokens = generate.score(self._scorer.model, ids, top_logprobs=1)[-wanted:] if wanted else []
        return sum(token.logprob for token in tokens), all(token.top[0][0] == token.id for token in tokens)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """The log-likelihood of each whole text; a text longer than the context in windows, each token once."""
        rows = [{"kind": "document", "text": request.args[0]} for request in requests]
        return (-score.text(self._scorer, rows).text_nll_N).tolist()  # type: ignore[no-any-return]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The greedy continuation of each context, up to the first of its stop texts."""
        return [self._written(*request.args) for request in requests]

    def _written(self, context: str, told: dict[str, Any]) -> str:
        stops = told.get("until") or []
        most = min(told.get("max_gen_toks") or MAX_TOKENS, self._scorer.context - 1)
        room = self._scorer.context - most
        shown = self._scorer.tokenizer.decode(self._scorer.tokenizer.encode(context)[-max(1, room - 1) :])
        (said,) = continuations(
            self._scorer, [shown], max_tokens=most, stops=[stops] if isinstance(stops, str) else stops
        )
        return said
