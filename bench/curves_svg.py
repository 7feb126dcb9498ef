"""Curves as a picture: one small chart each, side by side, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.growth import Curve

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 440, 300, 56, 34, 74, 24
COLOURS = ("#2f7ed8", "#c0392b", "#27a05a", "#b8860b")
GREY = "#888888"
PER_ROW = 2


def curves_svg(curves: Sequence[Curve]) -> str:
    """One SVG document; both axes of each chart begin at 0."""
    rows = -(-len(curves) // PER_ROW)
    width, height = PER_ROW * (WIDTH + GAP), rows * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{GREY}">'
    ]
    for index, curve in enumerate(curves):
        x, y = index % PER_ROW * (WIDTH + GAP), index // PER_ROW * (HEIGHT + GAP)
        parts += [f'<g transform="translate({x},{y})">', *_chart(curve), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _chart(curve: Curve) -> list[str]:
    points = [point for line in curve.lines.values() for point in line]
    right = max((x for x, _ in points), default=1) or 1
    top = _round_up(max((y for _, y in points), default=1))
    inner_width, inner_height = WIDTH - LEFT - 12, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> str:
        return f"{LEFT + inner_width * x / right:.1f},{TOP + inner_height * (1 - y / top):.1f}"

    parts = [_text(LEFT, 16, f"{curve.title} ({curve.unit})", weight="bold")]
    for step in range(5):
        value = top * step / 4
        y = TOP + inner_height * (1 - step / 4)
        parts.append(f'<path d="M{LEFT},{y:.1f}h{inner_width}" stroke="{GREY}" opacity="0.3"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:g}", anchor="end"))
    for x in sorted({x for x, _ in points}):
        at = LEFT + inner_width * x / right
        parts.append(_text(at, TOP + inner_height + 16, f"{x:g}", anchor="middle"))
    parts.append(_text(LEFT + inner_width, TOP + inner_height + 32, curve.x_title, anchor="end"))
    for index, (name, line) in enumerate(curve.lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(place(*point) for point in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{at}" cy="{up}" r="3" fill="{colour}"/>'
            for at, up in (place(*point).split(",") for point in line)
        ]
        at, down = LEFT + index % 2 * 190, HEIGHT - 22 + index // 2 * 16
        parts.append(f'<circle cx="{at}" cy="{down - 4}" r="4" fill="{colour}"/>')
        parts.append(_text(at + 10, down, name))
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f"<text {where}>{escape(text)}</text>"


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 8 times a power of ten."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)
