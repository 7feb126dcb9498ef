"""One build of an image as the application sees it: its log, its stage, how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anyio

from machinen_runtime.errors import MachinenError
from machinen_tui.figures import mib
from machinen_tui.log_lines import LogLines

if TYPE_CHECKING:
    from machinen_tui.gateway import Gateway, Report
    from machinen_tui.wanted import WantedImage

State = Literal["running", "done", "failed", "cancelled"]
STAGES = {"boot": "booting the base", "install": "installing", "archive": "writing the image"}


class ImageBuild:
    """Made by the form, run by operations, drawn by the build screen."""

    def __init__(self, wanted: WantedImage) -> None:
        self.wanted = wanted
        self.lines = LogLines()
        self.state: State = "running"
        self.stage = "preparing"
        self.outcome = ""
        """One sentence, once it has ended."""
        self.revision = 0
        """Grows with every change: whoever draws compares it."""
        self._scope = anyio.CancelScope()
        self._report: Report = lambda text: None

    async def run(self, gateway: Gateway, report: Report) -> None:
        """Build it.

        Raises:
            MachinenError: It failed; the log says so as well.
        """
        self._report = report
        try:
            with self._scope:
                path = await gateway.provision(self.wanted, self._take, self._reach)
                self._end("done", f"{path} is built; n boots it")
        except MachinenError as error:
            self._end("failed", f"{error.code}: {error}")
            raise
        if self._scope.cancelled_caught:
            self._end("cancelled", f"{self.wanted.out.name} was not built: cancelled")

    def cancel(self) -> None:
        """Give it up; the guest ends and nothing is left."""
        self._scope.cancel()

    def _take(self, chunk: bytes) -> None:
        self.lines.feed(chunk)
        self.revision += 1

    def _reach(self, stage: str, written_bytes: int) -> None:
        text = STAGES.get(stage, stage)
        self.stage = f"{text} · {mib(written_bytes)}" if written_bytes else text
        self.revision += 1
        self._report(self.stage)

    def _end(self, state: State, outcome: str) -> None:
        self.state, self.outcome = state, outcome
        self.lines.say(outcome)
        self.revision += 1
