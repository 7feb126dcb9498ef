"""A bounded share of `python -m bench.terminal_fuzz`, with seeds of hypothesis."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.terminal_fuzz import fuzz


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1 << 32))
def test_sequences_never_raise_never_print_payload_and_leave_the_screen_whole(seed: int) -> None:
    assert sum(1 for _ in fuzz(random.Random(seed), 800)) > 400


def test_sequences_do_not_grow_memory() -> None:
    sizes: list[int] = []
    tracemalloc.start()
    try:
        for fed, _ in enumerate(fuzz(random.Random(5), 6000)):
            if fed % 1000 == 999:
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[-1] - sizes[1] < 6_000_000, sizes
