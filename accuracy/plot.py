"""Small line plots as SVG, without a plotting library: rows of panels over one axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from simulator.calibration.replay import Floats

WIDTH, PANEL, LEFT, TOP, GAP = 960, 150, 60, 46, 34
COLOURS = {"measured": "#222222", "simulated": "#d0501a"}


@dataclass(frozen=True, slots=True)
class Line:
    """One series; a ``band`` (low, high) is drawn behind it."""

    name: str
    x: Floats
    y: Floats
    band: tuple[Floats, Floats] | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """Series with one scale, the title with its unit."""

    title: str
    lines: tuple[Line, ...]


def svg(title: str, panels: Sequence[Panel], marks: Sequence[tuple[float, str]]) -> str:
    """The panels one below the other; ``marks`` are vertical lines with a word each. x starts at 0."""
    end = max(float(line.x[-1]) for panel in panels for line in panel.lines)
    height = TOP + len(panels) * (PANEL + GAP) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="16" font-size="14">{escape(title)}</text>',
    ]
    for place, (name, colour) in enumerate(COLOURS.items()):
        parts.append(f'<text x="{LEFT + 100 * place}" y="32" fill="{colour}">{name}</text>')
    for index, panel in enumerate(panels):
        parts += _panel(panel, TOP + index * (PANEL + GAP) + 14, end, marks)
    parts.append(f'<text x="{WIDTH - 10}" y="{height - 6}" text-anchor="end">{end:.0f} s</text></svg>\n')
    return "\n".join(parts)


def _panel(panel: Panel, top: float, end: float, marks: Sequence[tuple[float, str]]) -> list[str]:
    highest = max(float(np.nanmax(line.y if line.band is None else line.band[1])) for line in panel.lines)
    highest = highest * 1.05 or 1.0

    def x(value: float) -> float:
        return LEFT + value / end * (WIDTH - LEFT - 10)

    def y(value: float) -> float:
        return top + PANEL * (1 - value / highest)

    def path(xs: Floats, ys: Floats) -> str:
        return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys, strict=True) if np.isfinite(b))

    parts = [f'<text x="{LEFT}" y="{top - 4}">{escape(panel.title)}</text>']
    for value in (0.0, highest / 1.05):
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    parts.append(f'<path d="M{LEFT},{top}V{top + PANEL}H{WIDTH - 10}" fill="none" stroke="#999999"/>')
    for at, word in marks:
        parts.append(f'<path d="M{x(at):.1f},{top}V{top + PANEL}" stroke="#cccccc" stroke-dasharray="3"/>')
        parts.append(f'<text x="{x(at) + 3:.1f}" y="{top + 11}" fill="#888888">{escape(word)}</text>')
    for line in panel.lines:
        colour = COLOURS[line.name]
        if line.band is not None:
            outline = path(line.x, line.band[0]) + " " + path(line.x[::-1], line.band[1][::-1])
            parts.append(f'<polygon points="{outline}" fill="{colour}" fill-opacity="0.18"/>')
        parts.append(f'<polyline points="{path(line.x, line.y)}" fill="none" stroke="{colour}"/>')
    return parts
