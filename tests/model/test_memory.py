"""Freed memory stays with the process, so that a step does not pay for clearing it again."""

from __future__ import annotations

import subprocess
import sys

from wyrmling.model.memory import keep_freed_memory

FAULTS = """
import resource
from wyrmling.model.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        parts = [b"x" * 8_000_000 for _ in range(8)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
assert keep_freed_memory()
faults()
print(given_back, faults())
"""


def test_kept_memory_is_not_cleared_again_or_nothing_is_promised():
    if not sys.platform.startswith("linux"):
        assert not keep_freed_memory()
        return

    out = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True).stdout
    given_back, kept = map(int, out.split())
    assert kept < given_back / 10
