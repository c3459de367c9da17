"""`[evaluate]`: scores, baselines, remote models, judge and risks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wyrmling.config.section import Section


class ChatApi(Section):
    """A model behind an OpenAI-compatible API."""

    url: str | None = Field(default=None, pattern=r"^https?://")
    """Where the API begins, such as "http://127.0.0.1:8000/v1". None: there is none."""
    model: str | None = None
    """The name of the model there."""
    key: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; without it requests carry none."""
    usd_per_million_input: float | None = Field(default=None, ge=0)
    """Price of a million tokens read, in US dollars; 0 for a server of your own."""
    usd_per_million_output: float | None = Field(default=None, ge=0)
    """Price of a million tokens written."""
    at_once: int = Field(default=4, ge=1)
    """Requests at the same time."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """An answer that takes longer is asked for again, three times in all; then there is none."""


class Remote(ChatApi):
    """A model behind an OpenAI-compatible API, as a rung of the ladder; nothing is sent without --spend."""

    examples: int = Field(default=8, ge=0)
    """Training rows in each prompt, those with the same words."""


class Judge(ChatApi):
    """The model that `wyrmling judge` asks. Beyond this machine nothing is sent without --spend."""

    model: str | None = None
    """The name of the model at `url`; without one a model folder or registered name, which is asked here."""
    rubric: str | None = None
    """What good answers are, and what each score from 1 to 5 means. None: a general one."""
    human: str | None = None
    """A JSON Lines file of answers that people judged, to see whether the judge agrees with them; see docs/judge.md."""
    json_form: bool = True
    """Hold the judge's word to JSON by `response_format`; false for a server that does not know it."""
    tokens: int = Field(default=256, ge=16)
    """Tokens of the judge's word at most."""


class Risks(Section):
    """What `wyrmling risks`, and conditions that name its measures, ask with."""

    prompts: int = Field(default=200, ge=1)
    """Rows that each measure asks with at most."""
    canaries: str | None = None
    """The file of planted secrets that is one of the sources; see `wyrmling risks --plant`."""
    general: str | None = None
    """A text file whose paragraphs show what the model has forgotten."""
    base: str | None = None
    """The model to compare with for that. None: `model.base`."""
    words: str | None = None
    """A file of words to look for in what the model writes, one per line. None: a shipped list of insults."""


class Evaluate(Section):
    baselines: bool = True
    """Also fit and score the cheap baselines on the same rows."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples behind each interval."""
    answers: int = Field(default=100, ge=0)
    """Test rows whose answers are written out and compared with the expected ones (answer, summarize); 0: none."""
    answer_tokens: int = Field(default=64, ge=1)
    """Tokens of such an answer at most."""
    overlap: Literal["refuse", "report"] = "refuse"
    """What to do when rows of `--test FILE` are training rows too: refuse the file, or score with and without them."""
    remote: Remote = Remote()
    judge: Judge = Judge()
    risks: Risks = Risks()
