"""Where a shell's prompts and the output of its commands are, as the guest marked them (OSC 133).

Places are of logical lines, so they stay right while text scrolls and widths change. A prompt at or
above an older mark says that what stood there is gone (a cleared screen): older marks below it go.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from machinen_tui.terminal_osc import DONE, PROMPT, RUNNING

MAX_MARKS = 2000


class Mark(NamedTuple):
    """Column `column` of logical line `line`."""

    line: int
    column: int


@dataclass(slots=True)
class MarkedCommand:
    """One command: its prompt, where its output begins and ends, its exit status."""

    prompt: Mark
    output: Mark | None = None
    end: Mark | None = None
    status: int | None = None

    @property
    def output_lines(self) -> tuple[int, int] | None:
        """The first and the last line of what it wrote; None while it runs or if it wrote none."""
        if self.output is None or self.end is None:
            return None
        last = self.end.line if self.end.column else self.end.line - 1
        return (self.output.line, last) if self.output.line <= last else None


class PromptMarks:
    """The newest MAX_MARKS commands of one terminal."""

    def __init__(self) -> None:
        self._commands: deque[MarkedCommand] = deque(maxlen=MAX_MARKS)

    def mark(self, state: str, at: Mark, status: int | None = None) -> None:
        """The guest said that a prompt, output or the end of a command is here."""
        if state == PROMPT:
            while self._commands and self._commands[-1].prompt.line >= at.line:
                self._commands.pop()
            self._commands.append(MarkedCommand(at))
        elif self._commands and state == RUNNING:
            self._commands[-1].output = at
        elif self._commands and state == DONE:
            self._commands[-1].end, self._commands[-1].status = at, status

    def clear(self) -> None:
        """Forget all."""
        self._commands.clear()

    def before(self, line: int) -> Mark | None:
        """The nearest prompt above a line."""
        above = (each.prompt for each in reversed(self._commands) if each.prompt.line < line)
        return next(above, None)

    def after(self, line: int) -> Mark | None:
        """The nearest prompt below a line."""
        below = (each.prompt for each in self._commands if each.prompt.line > line)
        return next(below, None)

    def done(self, line: int | None = None) -> MarkedCommand | None:
        """The command a line belongs to, or the one before, that has output; None: the last."""
        return next(
            (each for each in reversed(self._commands)
             if each.output_lines and (line is None or each.prompt.line <= line)),
            None,
        )  # fmt: skip
