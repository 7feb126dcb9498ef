"""Which error codes our code really raised while a test ran; `provokes` marks are held to it.

`@pytest.mark.provokes(ErrorCode.X)` says that the test makes our code raise X. A test that names a
code and never meets it, or makes the error itself, fails.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pytest

from machinen_runtime.errors import ErrorCode, MachinenError

ROOT = Path(__file__).parent.parent
OURS = tuple(str(ROOT / package) + "/" for package in ("machinen_runtime", "machinen_tui", "vmm"))


@contextmanager
def made_errors() -> Generator[list[MachinenError]]:
    """Every MachinenError made during the block, on whatever thread, in the order they came."""
    made: list[MachinenError] = []
    original = MachinenError.__init__

    def recording(self: MachinenError, *args: object, **options: object) -> None:
        original(self, *args, **options)  # pyright: ignore[reportArgumentType]
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MachinenError, "__init__", recording)
        yield made


def raised_by_us(error: MachinenError) -> bool:
    """Whether the frame that raised it is in one of our packages, not in a test."""
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(OURS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test that is marked with a code our code did not raise while it ran."""
    wanted: set[ErrorCode] = {code for mark in item.iter_markers("provokes") for code in mark.args}
    if not wanted:
        yield
        return
    with made_errors() as made:
        yield
    missing = wanted - {error.code for error in made if raised_by_us(error)}
    if missing:
        pytest.fail(f"this test does not make our code raise {', '.join(sorted(missing))}")
