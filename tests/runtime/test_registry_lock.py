"""Names change hands under the registry's lock, and the lock is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from machinen_runtime import registry, registry_names


def lock_is_held() -> bool:
    """Whether somebody holds the registry's lock just now."""
    try:
        with registry_names.names_lock(registry.registry_root(), wait=False):
            return False
    except BlockingIOError:
        return True


def test_every_change_of_a_name_is_made_under_the_lock(
    machinen_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it two who claim one name at once may both look before either writes."""
    held: list[bool] = []

    def watched(act: Callable[[Path, str, int], None]) -> Callable[[Path, str, int], None]:
        def under_the_lock(names: Path, name: str, pid: int) -> None:
            held.append(lock_is_held())
            act(names, name, pid)

        return under_the_lock

    monkeypatch.setattr(registry, "write_pin", watched(registry_names.write_pin))
    monkeypatch.setattr(registry, "remove_pin", watched(registry_names.remove_pin))
    pid = os.getpid()
    registry.claim_name("web", pid)
    registry.transfer_name("web", pid, pid)
    registry.release_name("web", pid)
    assert held == [True] * 4
    assert not lock_is_held()
