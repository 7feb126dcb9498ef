"""Which sandbox wants to be looked at, and why: it is stuck, ended, rang, waits for input, fell
silent.

Said of a pane until it is in front: selected or typed into. Pure; time is handed in, in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from machinen_tui.roster import SandboxView

WAITS_AFTER_S = 1.5
"""A prompt that nothing follows for so long is waiting."""
DEFAULT_SILENCE_S = 10
PROMPT = re.compile(
    "[]\\w)~/:][$#>\u276f\u00bb] ?$"  # a shell or an interpreter
    "|[a-zA-Z)~/\\]]% ?$"  # zsh; `40 %` is progress
    "|^[$#%>\u276f\u00bb] ?$|^>>> ?$"
    "|[?:] ?$"  # a question, a password
    r"|[\[(][yY](?:es)?/[nN]o?[\])] ?:?$"
    "|(?i:press (?:any key|enter|return).*)$"
)
BADGES = {"stuck": "!", "ended": "x", "bell": "♪", "waits": "?", "silent": "z", "output": "+"}
"""Why → what stands for it in the list; the most urgent first."""
WORDS = {
    "stuck": "waits for room on the host's disk",
    "ended": "ended",
    "bell": "rang",
    "waits": "waits for input",
    "silent": "fell silent",
    "output": "has new output",
}


@dataclass(slots=True)
class News:
    """What happened in a pane that was not in front."""

    stuck: bool = False
    """It stands still until the host's disk has room, and nobody has looked at it since."""
    ended: bool = False
    waits: bool = False
    silent: bool = False
    silence_s: float = 0.0
    """Say when nothing was written for so long; 0: never."""
    spoke_at: float | None = None
    """When it last wrote something that nobody has looked at since."""
    judged: bool = False
    """Whether it waits was decided; it is again when it writes something."""
    end_told: bool = False
    seen_line: str = ""
    """What stood before the cursor while it was in front."""


def spoke(view: SandboxView, now: float, *, rang: bool, shown: bool) -> None:
    """A pane that is not in front wrote something."""
    news = view.news
    news.spoke_at, news.judged, news.waits, news.silent = now, False, False, False
    view.bell = view.bell or rang
    view.unseen_output = not shown


def entered(view: SandboxView, state: str) -> None:
    """It is in another state."""
    view.state = state
    view.news.stuck = state == "disk-full"


def looked_at(view: SandboxView) -> None:
    """Its pane is in front."""
    news = view.news
    news.stuck = news.ended = news.waits = news.silent = view.bell = view.unseen_output = False
    news.spoke_at, news.end_told = None, view.gone


def check(view: SandboxView, now: float, line: Callable[[], str]) -> None:
    """Look again, once a second; `line` tells what stands before the terminal's cursor."""
    news = view.news
    if view.gone:
        news.ended = news.ended or not news.end_told
        news.end_told = True
        news.stuck = news.waits = news.silent = False
        return
    if news.spoke_at is None:
        return
    quiet_s = now - news.spoke_at
    if quiet_s >= WAITS_AFTER_S and not news.judged:
        news.judged, news.waits = True, is_prompt(line())
    news.silent = 0 < news.silence_s <= quiet_s


def is_prompt(line: str) -> bool:
    """Whether somebody is expected to type after `line`."""
    return PROMPT.search(line[-200:]) is not None


def why(view: SandboxView) -> str:
    """The most urgent reason to look at it, a key of `BADGES`; empty: none."""
    news = view.news
    reasons = {
        "stuck": news.stuck,
        "ended": news.ended,
        "bell": view.bell and not view.gone,
        "waits": news.waits,
        "silent": news.silent,
        "output": view.unseen_output and not view.gone,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def next_wanting(order: Sequence[SandboxView], current: str | None) -> SandboxView | None:
    """The most urgent one; of several the next after `current` in the order of the list."""
    keys = [view.key for view in order]
    start = keys.index(current) + 1 if current in keys else 0
    turned = [*order[start:], *order[:start]]
    wanting = [view for view in turned if why(view)]
    ranks = list(BADGES)
    return min(wanting, key=lambda view: ranks.index(why(view)), default=None)
