"""Who judges: a model behind an API, or one in a folder here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wyrmling.config import Judge, Machine
from wyrmling.core.errors import BadInput
from wyrmling.evaluate import chat_api
from wyrmling.evaluate.chat_api import Messages, Reply

WHERE = "evaluate.judge"


@dataclass(frozen=True)
class Bench:
    """Where the judge sits.

    folder      of a model that is asked here. None: the one behind `settings.url`
    limit_usd   what may be spent on one elsewhere
    """

    settings: Judge
    folder: Path | None = None
    limit_usd: float = 0.0

    def ask(self, prompts: Sequence[Messages], form: dict[str, Any], machine: Machine) -> list[Reply]:
        """A reply to each prompt, in order. Raises BadInput when there is none at all, or the money is spent."""
        if self.folder is not None:
            return _here(self.folder, prompts, self.settings.tokens, machine)
        chosen = form if self.settings.json_form else None
        most, limit = self.settings.tokens, self.limit_usd
        return chat_api.ask_all(self.settings, WHERE, prompts, max_tokens=most, limit_usd=limit, form=chosen)

    def usd(self, replies: Sequence[Reply]) -> float:
        return 0.0 if self.folder is not None else chat_api.spent_usd(self.settings, WHERE, replies)


def _here(folder: Path, prompts: Sequence[Messages], most: int, machine: Machine) -> list[Reply]:
    """The replies of a model in a folder. A prompt that it can't read whole gets none: the rubric stands first."""
    from wyrmling.evaluate import score, tasks, write
    from wyrmling.tokenizer import chat

    scorer = score.load(folder, device=machine.device, threads=machine.threads)
    tasks.check_head("chat", scorer.model.head_name, folder)
    long = [len(chat.render(scorer.tokenizer, one, add_generation_prompt=True)[0]) for one in prompts]
    fits = [i for i, tokens in enumerate(long) if tokens + most <= scorer.context]
    if not fits:
        raise BadInput(
            f"the judge reads {scorer.context:,} tokens; the shortest prompt has {min(long):,}, and it may say {most}",
            where=f"{WHERE}.model",
            fix=f"use a model with a longer context, or shorten {WHERE}.rubric and {WHERE}.tokens",
        )
    started = time.perf_counter()
    rows = [{"messages": [*prompts[i], {"role": "assistant", "content": ""}]} for i in fits]
    texts = dict(zip(fits, write.answers(scorer, rows, max_tokens=most), strict=True))
    each = (time.perf_counter() - started) / len(fits)
    return [
        Reply(texts[i], long[i], 0, each) if i in texts else Reply(None, 0, 0, 0.0, "longer than the judge reads")
        for i in range(len(prompts))
    ]
