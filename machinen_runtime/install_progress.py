"""What a person sees of an install: a bar per step on a terminal, a line per step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class StepReport:
    """Shows steps one after the other; a context manager, because it owns the terminal's lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<20}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                console=console,
            )

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def already_done(self, title: str) -> None:
        """Show a step that an earlier run completed."""
        if self._progress is not None:
            self._progress.add_task(title, total=1, completed=1)
        else:
            self._console.print(f"{title}: done before")

    @contextmanager
    def step(self, title: str) -> Generator[Callable[[float], None]]:
        """Show a step for the length of the block; the yielded function takes the share done."""
        started = time.monotonic()
        if self._progress is None:
            self._console.print(f"{title} …")
            yield lambda share: None
            self._console.print(f"{title}: done in {time.monotonic() - started:.0f} s")
            return
        progress = self._progress
        task = progress.add_task(title, total=1.0)
        yield lambda share: progress.update(task, completed=min(share, 1.0))
        progress.update(task, completed=1.0)
        progress.stop_task(task)
