"""A small plotter of inline SVG: a chart takes a millisecond, and a page of hundreds stays small.

Text is text in the page's font and colour; nothing has an id, and nothing is fetched.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

INK = "currentColor"
WIDTH = 403.2
"""Units of a figure; two stand side by side on a page."""
DASHES = {"-": "", "--": "5 2.5", ":": "1.4 2.2", "-.": "6 2 1.4 2"}
SHAPES = {"o": "m-1,0a1,1,0,1,0,2,0a1,1,0,1,0,-2,0z", "s": "m-.9,-.9h1.8v1.8h-1.8z", "^": "m0,-1.1l1,1.9h-2z",
          "D": "m0,-1.2l1.2,1.2l-1.2,1.2l-1.2,-1.2z", "v": "m0,1.1l1,-1.9h-2z",
          "P": "m-.4,-1.1h.8v.7h.7v.8h-.7v.7h-.8v-.7h-.7v-.8h.7z"}
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 10.0, 6.0, 30.0
_ROW, _FONT, _SMALL = 12.0, 8.0, 7.5
Values = npt.ArrayLike
Numbers = npt.NDArray[np.float64]
Scale = Callable[[Numbers], Numbers]
"""From values to places on the page."""


@dataclass(frozen=True)
class Mark:
    """Something that is drawn.

    Args:
        body: "line" or "dots" of points; "bars" or "steps" up to y; a "level" across the panel at each y, a "place" up
            it at each x; "ranges" from one point to the next, two by two.
        x, y: of points.
        line: a key of `DASHES`.
        size: radius of the dots of a line or of dots; 0 for none.
        shape: a key of `SHAPES`.
        label: in the legend; empty for none.
    """

    body: str
    x: Numbers
    y: Numbers
    colour: str | Sequence[str] = INK
    line: str = "-"
    width: float = 1.4
    size: float = 0.0
    shape: str = "o"
    hollow: bool = False
    label: str = ""


@dataclass
class Panel:
    """Axes with what is drawn between them.

    Args:
        xlim, ylim: what the axes show; None: all of the data and a little more.
        logarithmic: the x axis.
        whole: x has integers only.
        names: what stands at 0, 1, ... of the x axis instead of numbers.
    """

    xlabel: str = ""
    ylabel: str = ""
    xlim: tuple[float, float] | None = None
    ylim: tuple[float, float] | None = None
    logarithmic: bool = False
    whole: bool = False
    names: Sequence[str] = ()
    marks: list[Mark] = field(default_factory=list)

    def add(self, body: str, x: Values, y: Values, **style: Any) -> None:
        """Draw points; those that are not finite are left out."""
        across, up = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        there = np.isfinite(across) & np.isfinite(up)
        self.marks.append(Mark(body, across[there], up[there], **style))


def drawn(panels: Sequence[Panel], height: float) -> Markup:
    """A figure of panels side by side, its legend above them.

    Args:
        height: in units of `WIDTH`, the legend's rows aside.
    """
    entries, rows = legend([mark for panel in panels for mark in panel.marks if mark.label])
    top, width = _TOP + rows * _ROW, WIDTH / len(panels)
    body = "".join(_panel(panel, n * width, top, width, height) for n, panel in enumerate(panels))
    tall = top + height
    return Markup(f'<svg width="{WIDTH:g}pt" height="{tall:g}pt" viewBox="0 0 {WIDTH:g} {tall:g}" '
                  f'fill="none" font-size="{_FONT:g}">{entries}{body}</svg>')


def _panel(panel: Panel, left: float, top: float, width: float, height: float) -> str:
    x0, x1 = left + _LEFT, left + width - _RIGHT
    y0, y1 = top + height - _BOTTOM - _slant(panel), top + 2.0
    (low, high), (bottom, ceiling) = _limits(panel)
    if panel.logarithmic:
        low, high = math.log10(low), math.log10(high)

    def across(values: Numbers) -> Numbers:
        scaled = np.log10(np.maximum(values, 1e-300)) if panel.logarithmic else values
        return x0 + (np.clip(scaled, low, high) - low) / (high - low) * (x1 - x0)

    def up(values: Numbers) -> Numbers:
        return y0 + (np.clip(values, bottom, ceiling) - bottom) / (ceiling - bottom) * (y1 - y0)

    zero = up(np.zeros(1))[0]
    bodies = "".join(_body(mark, across, up, (x0, x1, y0, y1), zero) for mark in panel.marks)
    frame = f'<path d="M{x0:.1f},{y1:.1f}V{y0:.1f}H{x1:.1f}" stroke="{INK}" stroke-width=".6"/>'
    return bodies + frame + _ticks(panel, across, up, (low, high), (bottom, ceiling), (x0, x1, y0, y1))


def _limits(panel: Panel) -> tuple[tuple[float, float], tuple[float, float]]:
    """What the axes show."""
    xs = [mark.x for mark in panel.marks if mark.body != "level"]
    ys = [mark.y for mark in panel.marks if mark.body != "place"]
    filled = any(mark.body in ("bars", "steps") for mark in panel.marks)
    return panel.xlim or _wide(xs, 0.6 if panel.names or _barred(panel) else 0.0), panel.ylim or _wide(
        [*ys, np.zeros(int(filled))])


def _barred(panel: Panel) -> bool:
    return any(mark.body == "bars" for mark in panel.marks)


def _wide(values: Sequence[Numbers], more: float = 0.0) -> tuple[float, float]:
    """From the least to the largest, and a little more on either side."""
    every = np.concatenate([*values, np.zeros(0)])
    if not every.size:
        return 0.0, 1.0
    low, high = float(every.min()), float(every.max())
    margin = more or 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def _body(mark: Mark, across: Scale, up: Scale, frame: tuple[float, float, float, float], zero: float) -> str:
    x0, x1, y0, y1 = frame
    x, y = across(mark.x), up(mark.y)
    pen = f'stroke="{mark.colour}" stroke-width="{mark.width:g}" stroke-dasharray="{DASHES[mark.line]}"'
    if mark.body == "level":
        return "".join(f'<path d="M{x0:.1f},{at:.1f}H{x1:.1f}" {pen}/>' for at in y)
    if mark.body == "place":
        return "".join(f'<path d="M{at:.1f},{y0:.1f}V{y1:.1f}" {pen}/>' for at in x)
    if mark.body == "ranges":
        return "".join(f'<path d="M{at:.1f},{low:.1f}V{high:.1f}" {pen}/>'
                       for at, low, high in zip(x[::2], y[::2], y[1::2], strict=True))
    if mark.body == "bars":
        half = 0.35 * (x[1] - x[0] if len(x) > 1 else (x1 - x0) / 2)
        return "".join(f'<path d="M{at - half:.1f},{zero:.1f}V{top:.1f}h{2 * half:.1f}V{zero:.1f}z" fill="{colour}"/>'
                       for at, top, colour in zip(x, y, mark.colour, strict=True))
    if mark.body == "steps":
        inner = "".join(f"V{top:.1f}H{right:.1f}" for top, right in zip(y[:-1], x[1:], strict=True))
        return f'<path d="M{x[0]:.1f},{zero:.1f}{inner}V{zero:.1f}z" fill="{mark.colour}" fill-opacity=".55"/>'
    line = f'<path d="{_joined(x, y)}" {pen}/>' if mark.body == "line" and len(x) else ""
    return line + (_dots(x, y, mark) if mark.size and len(x) else "")


def _joined(x: Iterable[float], y: Iterable[float]) -> str:
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _dots(x: Iterable[float], y: Iterable[float], mark: Mark) -> str:
    """One path of all dots."""
    numbers = [(letter, [float(part) for part in rest.split(",")]) for letter, rest in _parts(SHAPES[mark.shape])]
    shape = "".join(letter + ",".join(
        f"{value if letter == 'a' and 2 <= n <= 4 else value * mark.size:g}" for n, value in enumerate(values))
        for letter, values in numbers) + "z"
    fill = f'stroke="{mark.colour}"' if mark.hollow else f'fill="{mark.colour}"'
    return f'<path d="{"".join(f"M{a:.1f},{b:.1f}{shape}" for a, b in zip(x, y, strict=True))}" {fill}/>'


def _parts(path: str) -> list[tuple[str, str]]:
    """The commands of a path, each with its numbers."""
    starts = [n for n, letter in enumerate(path) if letter.isalpha()]
    return [(path[a], path[a + 1 : b]) for a, b in zip(starts, [*starts[1:], len(path)], strict=True)
            if path[a] != "z"]


def _ticks(panel: Panel, across: Scale, up: Scale, xs: tuple[float, float], ys: tuple[float, float],
           frame: tuple[float, float, float, float]) -> str:
    """Ticks with their numbers, and the names of the axes."""
    x0, x1, y0, y1 = frame
    at_x = [(float(n), name) for n, name in enumerate(panel.names)] or (
        _decades(*xs) if panel.logarithmic else _even(*xs, panel.whole, 8 if x1 - x0 > 200 else 5))
    found = []
    for value, text in at_x:
        at = across(np.array([value]))[0]
        turned = f' transform="rotate(-45 {at:.1f} {y0 + 10:.1f})" text-anchor="end"' if _slant(panel) else \
            ' text-anchor="middle"'
        found.append(f'<path d="M{at:.1f},{y0:.1f}v3" stroke="{INK}" stroke-width=".6"/>'
                     + _text(at, y0 + 11, text, turned))
    for value, text in _even(*ys, False, 6):
        at = up(np.array([value]))[0]
        found.append(f'<path d="M{x0:.1f},{at:.1f}h-3" stroke="{INK}" stroke-width=".6"/>'
                     + _text(x0 - 5, at + 2.8, text, ' text-anchor="end"'))
    middle = (y0 + y1) / 2
    turned = f' text-anchor="middle" transform="rotate(-90 {x0 - 33:.1f} {middle:.1f})"'
    return "".join([*found, _text((x0 + x1) / 2, y0 + 23 + _slant(panel), panel.xlabel, ' text-anchor="middle"'),
                    _text(x0 - 33, middle, panel.ylabel, turned)])


def _even(low: float, high: float, whole: bool, most: int) -> list[tuple[float, str]]:
    """Round numbers within an interval, about `most`."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step * most >= high - low)
    step = max(1.0, step) if whole else step
    numbers = [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{round(value, 12):g}".replace("-", "−")) for value in numbers]


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    return [(10.0**power, f"{10.0**power:g}") for power in powers]


def _slant(panel: Panel) -> float:
    """How much lower the axis has to end for long names, which stand aslant."""
    crowded = sum(map(_length, panel.names)) > 320
    return 0.7 * max(map(_length, panel.names)) if crowded else 0.0


def legend(marks: Sequence[Mark]) -> tuple[str, int]:
    """Entries side by side, as many in a row as fit; how many rows."""
    found, at, row = [], 4.0, 0
    for mark in marks:
        wide = _length(mark.label) * _SMALL / _FONT + 30
        if at > 4 and at + wide > WIDTH:
            at, row = 4.0, row + 1
        found.append(_entry(mark, at, _TOP + row * _ROW + 4))
        at += wide
    return "".join(found), row + 1 if marks else 0


def _entry(mark: Mark, x: float, y: float) -> str:
    ends = np.array([x, x + 16]), np.array([y, y])
    colour = mark.colour if isinstance(mark.colour, str) else mark.colour[0]
    if mark.body == "steps":
        key = f'<path d="M{x:.1f},{y - 3:.1f}h16v6h-16z" fill="{colour}" fill-opacity=".55"/>'
    elif mark.body == "dots":
        key = _dots([x + 8], [y], mark)
    else:
        key = (f'<path d="{_joined(*ends)}" stroke="{colour}" stroke-width="{mark.width:g}" '
               f'stroke-dasharray="{DASHES[mark.line]}"/>')
    return key + _text(x + 20, y + 2.6, mark.label, f' font-size="{_SMALL:g}"')


def _text(x: float, y: float, text: str, more: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}"{more}>{escape(text)}</text>' if text else ""


def _length(text: str) -> float:
    """About how long a text is."""
    return _FONT * sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.56 for letter in text)
