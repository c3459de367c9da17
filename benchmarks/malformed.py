"""Does any request make the server fail or talk? Sends spoiled requests to a server of its own.

    python benchmarks/malformed.py [--requests 10000]

The requests are those of tests/serve/test_malformed.py, which sends a few of them at every run of the suite.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    count = parser.parse_args().requests
    test = "tests/serve/test_malformed.py::test_a_spoiled_request_is_refused_or_answered"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", test],
        cwd=ROOT,
        env={**os.environ, "WYRMLING_MALFORMED": str(count)},
        capture_output=True,
        text=True,
    )
    print(f"{count:,} spoiled requests: {'none made the server fail or talk' if done.returncode == 0 else done.stdout}")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
