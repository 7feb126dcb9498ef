"""What the guest asked of the keyboard: kitty's protocol and xterm's modifyOtherKeys.

Flags of kitty's "Comprehensive keyboard handling": 1 tells escape codes apart, 2 reports event
types, 4 alternate keys, 8 all keys as escape codes, 16 the text with them.
"""

from __future__ import annotations

KITTY_FLAGS = 0b11111
MAX_STACK = 16
DISAMBIGUATE, ALL_KEYS, WITH_TEXT = 1, 8, 16


class Keyboard:
    """The flags of the main and of the alternate screen; each has a stack of its own."""

    def __init__(self) -> None:
        self._stacks: tuple[list[int], list[int]] = ([0], [0])
        self._alternate = False
        self.modify_other_keys = 0

    @property
    def flags(self) -> int:
        """Kitty's flags in force; 0: keys as they always were."""
        return self._stack[-1]

    @property
    def _stack(self) -> list[int]:
        return self._stacks[self._alternate]

    def reset(self) -> None:
        """RIS, DECSTR."""
        self._stacks = ([0], [0])
        self.modify_other_keys = 0

    def use(self, alternate: bool) -> None:
        """The other screen is shown."""
        self._alternate = alternate

    def push(self, flags: int = 0) -> None:
        """`CSI > flags u`; of a full stack the oldest entry goes."""
        self._stack.append(flags & KITTY_FLAGS)
        if len(self._stack) > MAX_STACK:
            del self._stack[0]

    def pop(self, count: int = 1) -> None:
        """`CSI < count u`."""
        for _ in range(min(count or 1, MAX_STACK)):
            self._stack.pop()
            if not self._stack:
                self._stack.append(0)

    def set(self, flags: int = 0, how: int = 1) -> None:
        """`CSI = flags ; how u`: 1 replaces, 2 adds, 3 takes away."""
        flags &= KITTY_FLAGS
        if how in (0, 1):
            self._stack[-1] = flags
        elif how == 2:
            self._stack[-1] |= flags
        elif how == 3:
            self._stack[-1] &= ~flags

    def set_modify(self, resource: int = 0, value: int = 0) -> None:
        """XTMODKEYS `CSI > 4 ; value m`; without a resource all go back to their defaults."""
        if resource in (0, 4):
            self.modify_other_keys = min(value, 2) if resource == 4 else 0
