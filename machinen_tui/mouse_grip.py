"""An application whose mouse is never held by a widget that let go, or that is not there any more.

Textual sends every event of the mouse to the widget that captured it. It looks neither whether that
is still on screen, nor whether the button that was the reason is still down: a release may be lost
(it came outside of the terminal), or the widget may be hidden, removed or below a dialog by then.
"""

from __future__ import annotations

from typing import cast

from textual import events
from textual.app import App
from textual.errors import NoWidget
from textual.widget import Widget


def holds_mouse(widget: Widget) -> bool:
    """Whether what happens to the mouse goes to `widget`, wherever that is."""
    app = cast("App[object]", widget.app)  # pyright: ignore[reportUnknownMemberType]
    return app.mouse_captured is widget


class MouseGrip(App[None]):
    """Ends such a capture before the event that shows it; the widget hears `MouseRelease`."""

    _pressed: frozenset[int] = frozenset()
    """The buttons that are down, as far as the terminal told."""

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.MouseEvent) and not event.is_forwarded:
            self._follow_buttons(event)
        await super().on_event(event)

    def _follow_buttons(self, event: events.MouseEvent) -> None:
        lost = not self._captor_is_shown()
        match event:
            case events.MouseDown():
                lost = lost or event.button in self._pressed
                self._pressed |= {event.button}
            case events.MouseUp():
                self._pressed -= {event.button}
            case events.MouseMove(button=0):
                lost, self._pressed = True, frozenset()
            case _:
                pass
        if lost:
            self.capture_mouse(None)

    def _captor_is_shown(self) -> bool:
        if self.mouse_captured is None:
            return True
        try:
            self.screen.find_widget(self.mouse_captured)
        except NoWidget:
            return False
        return True
