"""What one check of `machinen doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CheckStatus = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at. Failed: no sandbox can run. Warning: it costs speed or a feature."""

    name: str
    status: CheckStatus
    found: str
    """What is there, or what is wrong with it."""
    needed_for: str
    fix: str | None = None
    """What to do about it; None where all is well."""
    path: str | None = None
    version: str | None = None
