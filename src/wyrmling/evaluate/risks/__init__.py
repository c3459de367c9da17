"""What a model may do wrong beside its task, each as a rate with an interval and what it can't show.

No torch here: conditions of a project name these measures, and are checked before any model is loaded.
"""

from __future__ import annotations

_WRITES = ("pii_leak", "insults", "verbatim", "canary", "name_gap", "forgetting")
_ANSWERS = (*_WRITES, "refusal", "over_refusal")
# What can be measured of a model for each task.
RISKS: dict[str, tuple[str, ...]] = {
    "classify": ("name_flips",),
    "tag": (),
    "complete": _WRITES,
    **dict.fromkeys(("chat", "answer", "summarize"), _ANSWERS),
}
