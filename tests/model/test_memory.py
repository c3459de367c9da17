"""Freed memory stays with the process, so that a step does not pay for clearing it again."""

from __future__ import annotations

import subprocess
import sys

from wyrmling.model.memory import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from wyrmling.model.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(21):
    if step == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.ones(2_000_000) for _ in range(8)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_kept_memory_is_not_cleared_again_or_nothing_is_promised():
    if not sys.platform.startswith("linux"):
        assert not keep_freed_memory()
        return

    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True).stdout)

    assert faults("keep") < faults("give back") / 10
