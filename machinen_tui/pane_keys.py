"""The keys about panes: each calls one verb."""

from __future__ import annotations

from machinen_tui.action_types import PANES, Action, verb_action

ARROWS = ("left", "right", "up", "down")


def _verb(name: str, keys: str, verb: str, help: str, *arguments: str | int) -> Action:
    return verb_action(name, keys, verb, PANES, help, *arguments)


PANE_ACTIONS: tuple[Action, ...] = (
    _verb("split-right", "% |", "split_right", "another pane, or a fork, right of it"),
    _verb("split-below", '" _', "split_below", "the same below it"),
    _verb("arrange", "o", "arrange_next", "arrange: grid, columns, rows, main, stacked"),
    _verb("even", "=", "even_out", "all of the same size"),
    _verb("float", "O", "float_selected", "let it float, and back"),
    _verb("text", "v", "copy_mode", "copy mode: vi keys, v V ctrl+v select, y copies"),
    _verb("search-pane", "ctrl+f", "search_pane", "search the pane"),
    _verb("search-all", "ctrl+g", "search_all", "search all panes"),
    _verb("previous-prompt", "(", "step_prompt", "scroll to the shell's prompt before", -1),
    _verb("next-prompt", ")", "step_prompt", "to the one after", 1),
    _verb("clipboard", "y", "clipboard", "decide on what a guest wants to copy"),
    _verb("attention", "a", "next_attention", "the one that rang, waits, ended, fell silent"),
    _verb("read-only", "R", "read_only", "read-only: nothing can be typed into it"),
    _verb("lock", "ctrl+l", "lock", "lock: every key is the guest's, Ctrl-] thrice leaves"),
    _verb("send-key", "'", "send_key", "the next key goes to it as it is"),
    _verb("layouts", "Y", "choose_layout", "layouts by name"),
    *(
        _verb(f"swap-{arrow}", f"ctrl+{arrow}", "swap",
              "swap with its neighbour; move a floating one", arrow)
        for arrow in ARROWS
    ),
    *(
        _verb(f"resize-{arrow}", f"shift+{arrow}", "resize",
              "move its border (or drag it); of a floating one: size", arrow)
        for arrow in ARROWS
    ),
    _verb("new-tab", "t", "new_tab", "a tab of its own"),
    _verb("close-tab", "T", "close_tab", "close the tab"),
    *(
        _verb(f"tab-{number}", str(number), "go_to_tab", "go to tab", number - 1)
        for number in range(1, 10)
    ),
    _verb("next-tab", "] ctrl+pagedown", "step_tab", "the next tab", 1),
    _verb("previous-tab", "[ ctrl+pageup", "step_tab", "the tab before", -1),
)  # fmt: skip
