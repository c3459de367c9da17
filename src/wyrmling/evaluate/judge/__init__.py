"""A model that judges written answers: a score from 1 to 5, or the better of two; and whether people agree with it.

No torch here: what a judge measures is named, and refused as a condition, before any model is loaded.
"""

from __future__ import annotations

# What the tasks with written answers can be judged by. A judge errs in ways of its own, so no gate hangs on it.
METRICS = ("judge_score", "judge_win_rate")
TASKS = ("chat", "answer", "summarize")
