"""What a figure was measured on: without it a number says nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil

from machinen_runtime.machines import resolve_qemu_binary
from machinen_runtime.options import auto_size_memory_mib
from vmm.accel import choose_accel

ROOT = Path(__file__).parent.parent


def machine_facts() -> dict[str, str]:
    """Title → value, at the start of a run."""
    accel = choose_accel()
    release = re.match(r"\d+\.\d+", platform.release())
    return {
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Commit": _first_line(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]),
        "Processor": f"{_cpu_model()}, {os.cpu_count()} cores",
        "Memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
        "Linux": release[0] if release else "unknown",
        "QEMU": _first_line([resolve_qemu_binary(), "--version"]).removeprefix("QEMU emulator "),
        "Accelerator": f"{accel.kind} ({accel.reason})",
        "Guest": f"Debian 13, 1 vCPU, ceiling {auto_size_memory_mib()} MiB",
        "Python": platform.python_version(),
        "Load": f"before the run {os.getloadavg()[0]:.1f}",
    }


def _cpu_model() -> str:
    """The processor's own words, or its architecture where it has none (arm64)."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _first_line(argv: list[str]) -> str:
    """What a program says first; `unknown` where it cannot say (a copy without git's history)."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0] if done.returncode == 0 else "unknown"
