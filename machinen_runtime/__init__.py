"""Machinen: small named Linux VMs that are watched, snapshotted, restored and forked as they run.

    import anyio
    from machinen_runtime import boot

    async def main():
        async with await boot(name="web") as vm:
            print((await vm.exec("uname -a")).stdout)
            fork = await vm.fork(name="web-2")

    anyio.run(main)

The public names are in `public_names.py`; nothing is defined here, and each file is imported when a
name of it is first used, so that `import machinen_runtime` costs nothing.
"""

import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _LazyPackage(ModuleType):
    """Keeps `machinen_runtime.boot` the function, though a file of that name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what the import system does on its own: bind a submodule to a public name."""
        if not (isinstance(value, ModuleType) and name in _homes()):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> "Any":
        """Import a public name from its file when it is first used (compare PEP 562)."""
        if name == "__all__":
            from machinen_runtime.public_names import PUBLIC

            return PUBLIC
        home = _homes().get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{home}"), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> "list[str]":
        """The public names, imported or not."""
        return sorted({*super().__dir__(), *self.__all__})


def _homes() -> "dict[str, str]":
    from machinen_runtime.public_names import HOMES

    return HOMES


sys.modules[__name__].__class__ = _LazyPackage
