"""The model's own answers to prompts, always the likeliest next token, many at once."""

from __future__ import annotations

from collections.abc import Sequence

from wyrmling.core.progress import bar
from wyrmling.evaluate.score import Scorer, shown
from wyrmling.evaluate.tasks import Example
from wyrmling.model.generate import Decoder
from wyrmling.model.sampling import Sampling
from wyrmling.tokenizer import chat

AT_ONCE = 16


def answers(scorer: Scorer, rows: Sequence[Example], *, max_tokens: int) -> list[str]:
    """What the model says to all but the last turn of each conversation; a prompt too long keeps its end."""
    stop = frozenset(scorer.tokenizer.end_ids)
    sampling = Sampling(max_tokens=max_tokens, temperature=0, stop_ids=stop)
    found: list[str] = []
    with bar("answers", len(rows)) as progress:
        for start in range(0, len(rows), AT_ONCE):
            batch = rows[start : start + AT_ONCE]
            found += _some(scorer, [_prompt(scorer, row, max_tokens) for row in batch], sampling)
            progress.advance(len(batch))
    return found


def _prompt(scorer: Scorer, row: Example, max_tokens: int) -> list[int]:
    ids, _ = chat.render(scorer.tokenizer, shown(scorer, row["messages"][:-1]), add_generation_prompt=True)
    room = min(max_tokens, scorer.context // 2)
    return ids[-(scorer.context - room) :]


def _some(scorer: Scorer, prompts: list[list[int]], sampling: Sampling) -> list[str]:
    decoder = Decoder(scorer.model)
    said: dict[int, list[int]] = {decoder.add(prompt, sampling): [] for prompt in prompts}
    while decoder.running:
        for token in decoder.step():
            if token.id not in sampling.stop_ids:
                said[token.handle].append(token.id)
    return [scorer.tokenizer.decode(ids).strip() for ids in said.values()]
