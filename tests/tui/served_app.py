"""The application with sandboxes nobody needs to boot, for tests that serve it to a browser."""

from __future__ import annotations

from machinen_tui.app import MachinenApp
from tests.tui.looks import FrozenWorld, story

if __name__ == "__main__":
    world = FrozenWorld()
    story(world)
    MachinenApp(world).run()
