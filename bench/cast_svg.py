"""Some moments of a terminal as one SVG that shows them in turn, each with a caption. It fetches
nothing and needs no script: CSS animations alone."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from machinen_tui.palettes import ANSI_COLORS
from machinen_tui.terminal_cells import Style
from machinen_tui.terminal_model import TerminalModel

FONT_PX, CELL_WIDTH, CELL_HEIGHT = 14, 8.43, 16.3
"""A cell is as DejaVu Sans Mono has it; other fonts are stretched to it (`textLength`)."""
MARGIN, CAPTION_HEIGHT = 12, 34
FOREGROUND, BACKGROUND, CAPTION = "#c8ccd8", "#11131a", "#7aa2f7"
SHOWN_S = 3.5

Run = tuple[str, Style]


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment: rows of text in one style each, and what is to be said about it."""

    rows: tuple[tuple[Run, ...], ...]
    columns: int
    caption: str


def frame_of(model: TerminalModel, caption: str) -> Frame:
    """What `model` shows now."""
    rows = tuple(tuple(model.runs(y)) for y in range(model.lines))
    return Frame(rows, model.columns, caption)


def animated_svg(frames: Sequence[Frame]) -> str:
    """All frames in turn, without end; a viewer without animations shows the first."""
    width = max(frame.columns for frame in frames) * CELL_WIDTH + 2 * MARGIN
    height = max(len(frame.rows) for frame in frames) * CELL_HEIGHT + MARGIN + CAPTION_HEIGHT
    share = 100 / len(frames)
    style = (
        f"text{{font:{FONT_PX}px 'DejaVu Sans Mono',Menlo,Consolas,monospace;white-space:pre}}"
        f".f{{animation:turn {SHOWN_S * len(frames):g}s step-end infinite;opacity:0}}"
        f".f:first-of-type{{opacity:1}}"
        f"@keyframes turn{{0%{{opacity:1}}{share:.3f}%{{opacity:0}}100%{{opacity:0}}}}"
    )
    pictures = [
        f'<g class="f" style="animation-delay:{at * SHOWN_S:g}s">{_picture(frame)}</g>'
        for at, frame in enumerate(frames)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"><style>{style}</style>'
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>\n' + "\n".join(pictures)
    ) + "\n</svg>\n"


def _picture(frame: Frame) -> str:
    # Each covers the one before: delays begin at once, but not in every viewer.
    parts = [f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>']
    for y, row in enumerate(frame.rows):
        x = 0
        for text, style in row:
            parts += _run(text, style, x, y)
            x += len(text)
    below = MARGIN + len(frame.rows) * CELL_HEIGHT + 20
    parts.append(
        f'<text x="{MARGIN}" y="{below:.1f}" fill="{CAPTION}" font-weight="bold">'
        f"{html.escape(frame.caption)}</text>"
    )
    return "".join(parts)


def _run(text: str, style: Style, x: int, y: int) -> list[str]:
    front, back = _color(style.fg, FOREGROUND), _color(style.bg, BACKGROUND)
    if style.reverse:
        front, back = back, front
    left, top = MARGIN + x * CELL_WIDTH, MARGIN + y * CELL_HEIGHT
    parts: list[str] = []
    if back != BACKGROUND:
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{len(text) * CELL_WIDTH:.1f}" '
            f'height="{CELL_HEIGHT}" fill="{back}"/>'
        )
    shown = text.strip()
    if shown:
        left += (len(text) - len(text.lstrip())) * CELL_WIDTH
        weight = ' font-weight="bold"' if style.bold else ""
        parts.append(
            f'<text x="{left:.1f}" y="{top + 12.6:.1f}" fill="{front}"{weight} '
            f'textLength="{len(shown) * CELL_WIDTH:.1f}" lengthAdjust="spacingAndGlyphs">'
            f"{html.escape(shown)}</text>"
        )
    return parts


def _color(name: str, default: str) -> str:
    if name == "default":
        return default
    return ANSI_COLORS.get(name) or f"#{name}"
