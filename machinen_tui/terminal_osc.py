"""Operating system commands, and with them the whole terminal: titles, colours, links, prompts.

Sources: xterm's ctlseqs (OSC 0 to 119, 52), the hyperlink proposal (OSC 8), FinalTerm's prompt
marks (OSC 133), kitty's keyboard protocol. What a guest says is kept short and printable.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from machinen_tui.terminal_colors import TerminalColors, parsed, spelled
from machinen_tui.terminal_keyboard import Keyboard
from machinen_tui.terminal_reports import Reports

MAX_TITLE = 256
MAX_TITLES = 16
MAX_ADDRESS = 2048
MAX_CLIPBOARD_BYTES = 256 * 1024
PROMPT, INPUT, RUNNING, DONE = "prompt", "input", "running", "done"
"""What OSC 133 tells of the shell: A, B, C, D."""
PROMPT_STATES = {"A": PROMPT, "B": INPUT, "C": RUNNING, "D": DONE}

SELECTION = re.compile(r"[cpqs0-7]{0,12}")
"""Which of the clipboards OSC 52 is about."""


class Terminal(Reports):
    """A whole terminal: everything a stream of escape sequences can set."""

    def __init__(self, columns: int, lines: int) -> None:
        self.keyboard = Keyboard()
        self.on_clipboard: Callable[[bytes], None] | None = None
        """What OSC 52 writes."""
        self.clipboard: Callable[[], bytes | None] | None = None
        """What OSC 52 reads; None, or without it: no answer."""
        self.on_prompt: Callable[[str], None] | None = None
        """Told of OSC 133, after `prompt_state` and `exit_status` were set."""
        self.colors: Callable[[], TerminalColors] = TerminalColors
        self.prompt_state = ""
        self.exit_status: int | None = None
        """Of the last command, as OSC 133;D tells it."""
        self.working_directory = ""
        self._palette: dict[int, str] = {}
        self._set_colors: dict[int, str] = {}
        self._titles: list[str] = []
        super().__init__(columns, lines)

    def reset(self) -> None:
        super().reset()
        self.keyboard.reset()
        self.prompt_state, self.exit_status, self.working_directory = "", None, ""
        self._palette.clear()
        self._set_colors.clear()
        self._titles.clear()

    def soft_reset(self) -> None:
        super().soft_reset()
        self.keyboard.reset()

    def _switch_screen(self, number: int, on: bool) -> None:
        super()._switch_screen(number, on)
        self.keyboard.use(self.alternate)

    def _leave_alternate(self) -> None:
        super()._leave_alternate()
        self.keyboard.use(False)

    # -- the keyboard -----------------------------------------------------------------------------

    def report_keyboard(self) -> None:
        """`CSI ? u`: kitty's flags."""
        self.reply(f"\x1b[?{self.keyboard.flags}u")

    def report_modify(self, resource: int = 0) -> None:
        """XTQMODKEYS."""
        if resource == 4:
            self.reply(f"\x1b[>4;{self.keyboard.modify_other_keys}m")

    def push_keyboard(self, flags: int = 0) -> None:
        """`CSI > flags u`."""
        self.keyboard.push(flags)

    def pop_keyboard(self, count: int = 1) -> None:
        """`CSI < count u`."""
        self.keyboard.pop(count)

    def set_keyboard(self, flags: int = 0, how: int = 1) -> None:
        """`CSI = flags ; how u`."""
        self.keyboard.set(flags, how)

    def set_modify(self, resource: int = 0, value: int = 0) -> None:
        """XTMODKEYS."""
        self.keyboard.set_modify(resource, value)

    # -- OSC --------------------------------------------------------------------------------------

    def operating_system_command(self, text: str) -> None:
        """`OSC text`; unknown ones change nothing."""
        number, _, value = text.partition(";")
        if number in ("0", "1", "2"):
            self._name(number, _printable(value, MAX_TITLE))
        elif number == "4":
            self._ask_or_set_palette(value.split(";"))
        elif number == "7":
            self.working_directory = _path_of(value)
        elif number == "8":
            self._link(value.partition(";")[2])
        elif number in ("10", "11", "12"):
            self._ask_or_set_colors(int(number), value.split(";"))
        elif number == "52":
            selection, _, encoded = value.partition(";")
            self._clipboard(selection, encoded)
        elif number == "104":
            self._reset_palette(value)
        elif number in ("110", "111", "112"):
            self._set_colors.pop(int(number) - 100, None)
        elif number == "133":
            self._prompt(value.split(";"))

    def _name(self, number: str, name: str) -> None:
        if number != "2":
            self.icon_name = name
        if number != "1":
            self.title = name

    def stack_title(self, *, push: bool) -> None:
        if push:
            self._titles = [*self._titles, self.title][-MAX_TITLES:]
        elif self._titles:
            self.title = self._titles.pop()

    def _link(self, address: str) -> None:
        """OSC 8: what is drawn next leads there; empty ends it."""
        if len(address) <= MAX_ADDRESS and (not address or address.isprintable()):
            self.style = self.styles.table(self.style.style._replace(link=address))

    def _clipboard(self, selection: str, encoded: str) -> None:
        if encoded == "?":
            self._tell_clipboard(selection)
        if self.on_clipboard is None or encoded == "?":
            return
        try:
            data = binascii.a2b_base64(encoded, strict_mode=True)
        except ValueError:
            return
        if len(data) <= MAX_CLIPBOARD_BYTES:
            self.on_clipboard(data)

    def _tell_clipboard(self, selection: str) -> None:
        data = self.clipboard() if self.clipboard is not None else None
        if data is not None and SELECTION.fullmatch(selection):
            encoded = binascii.b2a_base64(data[:MAX_CLIPBOARD_BYTES], newline=False).decode()
            self.reply(f"\x1b]52;{selection};{encoded}\x1b\\")

    def _prompt(self, parts: list[str]) -> None:
        state = PROMPT_STATES.get(parts[0])
        if state is None:
            return
        self.prompt_state = state
        if state == DONE:
            status = parts[1] if len(parts) > 1 else ""
            self.exit_status = int(status) if re.fullmatch(r"[0-9]{1,3}", status) else None
        if self.on_prompt is not None:
            self.on_prompt(state)

    # -- colours ----------------------------------------------------------------------------------

    def _ask_or_set_palette(self, parts: list[str]) -> None:
        """OSC 4: pairs of an index and a colour, or `?`."""
        for index_text, color in zip(parts[::2], parts[1::2], strict=False):
            if not re.fullmatch(r"[0-9]{1,3}", index_text) or int(index_text) > 255:
                continue
            index = int(index_text)
            if color == "?":
                self.reply(f"\x1b]4;{index};{spelled(self._palette_color(index))}\x1b\\")
            elif given := parsed(color):
                self._palette[index] = given

    def _palette_color(self, index: int) -> str:
        return self._palette.get(index) or self.colors().indexed(index)

    def _reset_palette(self, value: str) -> None:
        for part in value.split(";"):
            if part.isdecimal():
                self._palette.pop(int(part[:4]), None)
            elif not part:
                self._palette.clear()

    def _ask_or_set_colors(self, first: int, values: list[str]) -> None:
        """OSC 10 to 12: each further value is of the next one."""
        for number, value in zip(range(first, 13), values, strict=False):
            if value == "?":
                color = self._set_colors.get(number) or self.colors().dynamic(number)
                self.reply(f"\x1b]{number};{spelled(color)}\x1b\\")
            elif given := parsed(value):
                self._set_colors[number] = given


def _printable(text: str, at_most: int) -> str:
    return "".join(c for c in text[:at_most] if c.isprintable())


def _path_of(address: str) -> str:
    """The path of a `file:` address; empty for anything else."""
    if not address.startswith("file://") or len(address) > MAX_ADDRESS:
        return ""
    try:
        path = unquote(urlsplit(address).path, errors="strict")
    except ValueError:
        return ""
    return path if path.isprintable() else ""
