"""`python -m bench.damage`: every byte of a bundle and of the caches flipped, one after another.

The tests of tests/faults/test_damaged_files.py without their choice of places: what is damaged must
be refused or made again. Three million places in the RAM image alone take hours; `-k NAME` after
the command picks some of the tests, as pytest has it.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.faults.flips import EVERY_BYTE

TESTS = "tests/faults/test_damaged_files.py"


def main() -> int:
    """Run them; pytest's exit code."""
    os.environ[EVERY_BYTE] = "1"
    return int(pytest.main(["-q", "--durations=0", "--timeout=0", TESTS, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
