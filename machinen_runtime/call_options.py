"""The options of the smaller calls as records, for callers who make them in one place.

Each call takes these fields as keywords of its own, so that editors know them; a record unpacks
into them: `await VsockFiles.push(path, here, there, **options)`. Names and defaults mirror the API
declaration; `tests/test_api_table.py` holds records and calls together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from machinen_runtime.log_events import OnLog
from machinen_runtime.option_types import OptionRecord, StrPath

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, ByteSendStream

    from machinen_runtime.sandboxes import Sandboxes


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOptions(OptionRecord):
    """Options of `attach()`: exactly one of `pid` and `name`."""

    pid: int | None = None
    """The monitor's pid, as `machinen ls` shows it."""
    name: str | None = None
    """The name given to `boot()`."""
    on_log: OnLog | None = None
    """Called with what commands run through this handle write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VsockExecPtyOptions(OptionRecord):
    """Options of `VsockExec.start_pty()` and `VmHandle.exec_pty()`."""

    cols: int
    """Width of the terminal in cells, 1 to 65535."""
    rows: int
    """Height of the terminal in cells, 1 to 65535."""
    stdin: ByteReceiveStream
    """What is typed. Put your own terminal into raw mode first, or it keeps Ctrl-C for itself."""
    stdout: ByteSendStream
    """Where the terminal's output goes."""
    connect_timeout_ms: float = 5_000
    """How long to try to reach the agent."""
    env: Mapping[str, str] | None = None
    """Added to the command's environment. Ours."""
    cwd: str | None = None
    """The command's directory in the guest, absolute. Ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VsockFilesOptions(OptionRecord):
    """Options of `VsockFiles.push()` and `.pull()`."""

    timeout_ms: float = 5_000
    """How long to try to reach the file service; the copy itself may take longer."""
    retry_ms: float = 200
    """The pause between two tries."""
    excludes: Sequence[str] = ()
    """Patterns of `tar --exclude`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VsockSecretsOptions(OptionRecord):
    """Options of `VsockSecrets.send()`."""

    timeout_ms: float = 10_000
    """How long to try to reach the secrets service."""
    retry_ms: float = 250
    """The pause between two tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VsockWinsizeOptions(OptionRecord):
    """Options of `VsockWinsize.connect()`."""

    timeout_ms: float = 10_000
    """How long to try to reach the window-size service."""
    retry_ms: float = 250
    """The pause between two tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions(OptionRecord):
    """Options of `Supervisor`."""

    sandboxes: Sandboxes
    """What it switches between."""
    input_stream: ByteReceiveStream | None = None
    """What is typed. None: this process's standard input."""
    output_stream: ByteSendStream | None = None
    """Where everything is shown. None: this process's standard output."""
    command_prefix: str = "/"
    """What commands start with."""
    raw_tty_on_attach: bool | None = None
    """Put the terminal into raw mode while a sandbox is shown. None: if the input is one."""
    forward_resize: bool | None = None
    """Tell the sandbox when the terminal's size changes. None: if the output is a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PtyBootOptions(OptionRecord):
    """Options of `boot_pty()`."""

    binary: StrPath
    """The program: a path, or a name to look up in PATH."""
    args: Sequence[str] = ()
    """Its arguments, without its name."""
    env: Mapping[str, str] | None = None
    """Added to this process's environment."""
    cwd: StrPath | None = None
    """Its directory. None: this process's."""
    cols: int = 80
    """Width of its terminal in cells."""
    rows: int = 24
    """Height of its terminal in cells."""
    name: str = "xterm-256color"
    """The value of TERM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureRootfsImageOptions(OptionRecord):
    """Options of `ensure_rootfs_image()`."""

    cache_dir: Path | None = None
    """Where images are kept. None: `rootfs_img_cache_dir()`."""
    force: bool = False
    """Build it again even if it is cached."""
    size_multiplier: float = 2.5
    """Size of the image as a multiple of the unpacked tree."""
    min_size_bytes: int = 2 << 30
    """The least size."""
    size_bytes: int | None = None
    """The exact size instead."""
    on_phase: Callable[[str, float], None] | None = None
    """Told each step's name and milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureMountDiskImageOptions(OptionRecord):
    """Options of `ensure_mount_disk_image()`."""

    cache_dir: Path | None = None
    """Where images are kept. None: `mountdisk_img_cache_dir()`."""
    force: bool = False
    """Build it again even if it is cached."""
    on_phase: Callable[[str, float], None] | None = None
    """Told each step's name and milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureMountDiskUpperOptions(OptionRecord):
    """Options of `ensure_mount_disk_upper()`."""

    size_bytes: int = 4 << 30
    """Size of the upper; it is sparse. A multiple of 4096 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunGcOptions(OptionRecord):
    """Options of `run_gc()`."""

    dry_run: bool = False
    """Say what would be removed, and remove nothing."""
    pid: int | None = None
    """Look at this VM alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckForkBackpressureOptions(OptionRecord):
    """Options of `check_fork_backpressure()`."""

    threshold: float
    """The part of the host's memory that must be free, at most 1; zero or less: no check."""
    read_free: Callable[[], Awaitable[int]] | None = None
    """Tells the free bytes. None: `read_host_free_bytes`."""
    total_bytes: int | None = None
    """All memory of the host. None: `read_host_total_bytes()`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinenErrorOptions(OptionRecord):
    """Options of `MachinenError`."""

    retryable: bool = False
    """True if the same call may succeed later."""
    cause: BaseException | None = None
    """What it comes from; `raise … from error` does the same."""
