"""The keys about panes: each binding calls one verb."""

from __future__ import annotations

from textual.binding import Binding, BindingType


def _verb(keys: str, name: str, *arguments: str | int) -> Binding:
    call = f"verb({', '.join(map(repr, (name, *arguments)))})"
    return Binding(keys, call, priority=True)


PANE_BINDINGS: list[BindingType] = [
    _verb("percent_sign,vertical_line", "split_right"),
    _verb("quotation_mark,underscore", "split_below"),
    _verb("o", "arrange_next"),
    _verb("equals_sign", "even_out"),
    _verb("O", "float_selected"),
    *(_verb(f"ctrl+{arrow}", "swap", arrow) for arrow in ("left", "right", "up", "down")),
    *(_verb(f"shift+{arrow}", "resize", arrow) for arrow in ("left", "right", "up", "down")),
    _verb("t", "new_tab"),
    _verb("T", "close_tab"),
    *(_verb(str(number), "go_to_tab", number - 1) for number in range(1, 10)),
    _verb("right_square_bracket,ctrl+pagedown", "step_tab", 1),
    _verb("left_square_bracket,ctrl+pageup", "step_tab", -1),
    _verb("Y", "choose_layout"),
]
