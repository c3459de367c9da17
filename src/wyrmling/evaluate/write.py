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
            prompts = [_prompt(scorer, row, max_tokens) for row in batch]
            found += [text.strip() for text in _some(scorer, prompts, sampling)]
            progress.advance(len(batch))
    return found


def continuations(scorer: Scorer, prompts: Sequence[str], *, max_tokens: int, stops: Sequence[str]) -> list[str]:
    """How the model goes on from each text, up to the first of `stops`, an end token or the limit."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0, stop_ids=frozenset(scorer.tokenizer.end_ids))
    found: list[str] = []
    with bar("answers", len(prompts)) as progress:
        for start in range(0, len(prompts), AT_ONCE):
            batch = [scorer.tokenizer.prompt(prompt) for prompt in prompts[start : start + AT_ONCE]]
            found += [_until(text, stops) for text in _some(scorer, batch, sampling)]
            progress.advance(len(batch))
    return found


def samples(scorer: Scorer, prompts: Sequence[str], *, max_tokens: int) -> list[str]:
    """How the model goes on from each text, drawn at temperature 1; the n-th answer with the seed n."""
    ends = frozenset(scorer.tokenizer.end_ids)
    decoder = Decoder(scorer.model)
    said: dict[int, list[int]] = {}
    room = scorer.context - max_tokens
    with bar("samples", len(prompts)) as progress:
        for start in range(0, len(prompts), AT_ONCE):
            for seed, prompt in enumerate(prompts[start : start + AT_ONCE], start):
                sampling = Sampling(max_tokens=max_tokens, seed=seed, stop_ids=ends)
                said[decoder.add(scorer.tokenizer.prompt(prompt)[-room:], sampling)] = []
            while decoder.running:
                for token in decoder.step():
                    said[token.handle].append(token.id)
            progress.advance(min(AT_ONCE, len(prompts) - start))
    return [scorer.tokenizer.decode(ids) for ids in said.values()]


def _until(text: str, stops: Sequence[str]) -> str:
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


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
    return [scorer.tokenizer.decode(ids) for ids in said.values()]
