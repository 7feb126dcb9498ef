"""What a fake world keeps of the calls that reach no sandbox: secrets, copies, logs, memory of the
last answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio

from machinen_runtime.errors import MachinenError
from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.console_tail import ConsoleTail, open_console
from machinen_tui.gateway import OnOutput, OnStage, Report, Sandbox
from machinen_tui.wanted import WantedCopy, WantedImage


class FakeDoors:
    """The half of `Gateway` that only writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        """What dialogs asked for, in order."""
        self.secrets: dict[str, str] = {}
        self.kept: dict[str, Any] = {}
        self.bad_bundles: dict[Path, MachinenError] = {}
        self.checked: list[tuple[Path, bool]] = []
        self.session: dict[str, Any] = {}
        self.probes = 0
        self.recorded_in = Path("/nonexistent")
        self.recordings: list[Path] = []
        self.probe_says: Callable[[int], bytes] = lambda number: b""
        self.listened: list[int] = []
        self.build_goes_on = anyio.Event()
        self.build_fails: MachinenError | None = None

    def console(self, entry: RegistryEntry) -> ConsoleTail:
        return open_console(entry)

    async def listen(self, sandbox: Sandbox) -> None:
        self.listened.append(sandbox.pid)

    async def send_secrets(self, source: Sandbox, secrets: Mapping[str, str]) -> int:
        self.secrets = dict(secrets)
        return len(secrets)

    async def probe(self, source: Sandbox) -> bytes:
        self.probes += 1
        return self.probe_says(self.probes)

    async def copy(self, source: Sandbox, wanted: WantedCopy, report: Report) -> str:
        self.asked.append(wanted)
        report("3M")
        return wanted.guest if wanted.into_guest else wanted.host

    async def provision(self, wanted: WantedImage, output: OnOutput, stage: OnStage) -> Path:
        """Says what it does, one line each time `build_goes_on` is set."""
        self.asked.append(wanted)
        stage("boot", 0)
        output(b"Linux came up\n")
        await self.build_goes_on.wait()
        stage("install", 0)
        output(b"installed what was asked for\n")
        if self.build_fails is not None:
            raise self.build_fails
        stage("archive", 3 << 20)
        return wanted.out

    def bundle_size(self, bundle: Path) -> int:
        return 96 * 1024 * 1024

    def check_bundle(self, bundle: Path, *, read_all: bool = False) -> None:
        self.checked.append((bundle, read_all))
        if bundle in self.bad_bundles:
            raise self.bad_bundles[bundle]

    def new_recording(self, stem: str) -> Path:
        self.recordings.append(self.recorded_in / f"{stem}-{len(self.recordings)}.cast")
        return self.recordings[-1]

    def newest_recording(self) -> Path | None:
        return self.recordings[-1] if self.recordings else None

    def recall(self) -> Mapping[str, Any]:
        return self.kept

    def recall_session(self) -> Mapping[str, Any]:
        return self.session

    def remember_session(self, values: Mapping[str, Any]) -> None:
        self.session = dict(values)

    def remember(self, values: Mapping[str, Any]) -> None:
        self.kept = dict(values)
