"""A threat-risk matrix as a page that carries all within itself: likelihood by impact, and every ingredient."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup, escape

from sidedoor.apps.risk import INGREDIENTS, Matrix, Row
from sidedoor.apps.risk_missing import files_of
from sidedoor.core.templates import template
from sidedoor.metrics.risk import Sensitivity, Weights
from sidedoor.report.plot import INK

_SIZE, _LEFT, _BOTTOM, _TOP, _FONT = 380.0, 40.0, 32.0, 8.0, 8.5
_STEPS = 24
"""Cells of the map along each axis."""
_SHADE = {"low": 0.06, "medium": 0.22, "high": 0.45, "critical": 0.7}
_ROW, _NAMES = 15.0, 120.0


def page(found: Matrix, results: Path, output: Path) -> str:
    """The page.

    Args:
        results: the store, whose records are linked to.
        output: where the page will be.
    """
    style = (files("sidedoor.report") / "page.css").read_text(encoding="utf-8")
    threats = [row for row in found.rows if not row.positive]
    shown = [row for row in threats if row.shown]
    here = os.path.relpath(results.resolve(), output.resolve().parent)
    return template("sidedoor.apps", "risk.html.jinja").render(
        style=Markup(style), map=heat(shown, found.weights), threats=threats,  # the house's own file
        positive=[row for row in found.rows if row.positive], names=INGREDIENTS, sensitivity=found.sensitivity,
        tornado=tornado(found.sensitivity) if found.sensitivity else "", link=lambda key: f"{here}/results/{key}.json",
        missing=files_of([need for row in found.rows for need in row.missing]), weights=vars(found.weights))


def heat(rows: Sequence[Row], weights: Weights) -> Markup:
    """Attacks at their likelihood and impact, with the ends of their intervals, over the bands of risk."""
    def across(value: float) -> float:
        return _LEFT + (value - 1) / 4 * _SIZE

    def up(value: float) -> float:
        return _TOP + (5 - value) / 4 * _SIZE

    step = 4 / _STEPS
    ends = [1 + step * n for n in range(_STEPS)]
    cells = [f'<rect x="{across(x):.1f}" y="{up(y + step):.1f}" width="{_SIZE / _STEPS + 0.2:.1f}" '
             f'height="{_SIZE / _STEPS + 0.2:.1f}" style="fill:rgb(var(--heat) / {_shade(x, y, step, weights):g})"/>'
             for x in ends for y in ends]
    ticks = [_text(across(n), _TOP + _SIZE + 12, str(n), "middle") + _text(_LEFT - 6, up(n) + 3, str(n), "end")
             for n in range(1, 6)]
    named = _text(_LEFT + _SIZE / 2, _TOP + _SIZE + 26, "likelihood", "middle") + (
        f'<text transform="translate(12 {_TOP + _SIZE / 2:g}) rotate(-90)" text-anchor="middle" fill="{INK}">impact'
        "</text>")
    places = _apart([up(row.impact.value) for row in rows])
    dots = [_dot(row, across, up, y) for row, y in zip(rows, places, strict=True)]
    wide, tall = _LEFT + _SIZE + 150, _TOP + _SIZE + _BOTTOM
    return Markup(f'<svg width="{wide:g}" height="{tall:g}" viewBox="0 0 {wide:g} {tall:g}" font-size="{_FONT:g}" '
                  f'role="img" aria-label="Attacks by likelihood and impact">{"".join([*cells, *ticks, named, *dots])}'
                  "</svg>")


def _shade(x: float, y: float, step: float, weights: Weights) -> float:
    """Of the middle of a cell."""
    return _SHADE[weights.band((x + step / 2) * (y + step / 2))]


def _dot(row: Row, across: Callable[[float], float], up: Callable[[float], float], y: float) -> str:
    x, at = across(row.likelihood.value), up(row.impact.value)
    bars = (f'<path d="M{across(row.likelihood.low):.1f},{at:.1f}H{across(row.likelihood.high):.1f}'
            f'M{x:.1f},{up(row.impact.low):.1f}V{up(row.impact.high):.1f}" stroke="{INK}" stroke-width=".7"/>')
    return (f'{bars}<circle class="attack" cx="{x:.1f}" cy="{at:.1f}" r="3" fill="{INK}"/>'
            + _text(x + 6, y + 2.8, row.name, "start"))


def _apart(places: Sequence[float]) -> list[float]:
    """Places of names, moved down where they would cover each other."""
    found = list(places)
    last = -1e9
    for n in sorted(range(len(places)), key=lambda n: places[n]):
        last = found[n] = max(places[n], last + _FONT + 1)
    return found


def tornado(found: Sensitivity) -> Markup:
    """How much of the agreement of orders is lost without a weight (left) and with twice as much of it (right)."""
    most = max(0.05, *(1 - tau for pair in found.tornado.values() for tau in pair))
    half, middle = 120.0, _NAMES + 120.0
    body = []
    for n, (name, (without, twice)) in enumerate(sorted(found.tornado.items(), key=lambda item: min(item[1]))):
        y = _ROW * n + 4
        left, right = ((1 - tau) / most * half for tau in (without, twice))
        body.append(_text(_NAMES - 6, y + 9, name, "end")
                    + f'<rect class="without" x="{middle - left:.1f}" y="{y:g}" width="{left:.1f}" '
                    f'height="{_ROW - 4:g}" fill="{INK}" fill-opacity=".55"/>'
                    f'<rect class="twice" x="{middle:g}" y="{y:g}" width="{right:.1f}" height="{_ROW - 4:g}" '
                    f'fill="{INK}" fill-opacity=".25"/>'
                    + _text(middle + half + 6, y + 9, f"{without:.2f} / {twice:.2f}", "start"))
    tall = _ROW * len(found.tornado) + 22
    axis = (f'<path d="M{middle:g},0V{tall - 18:g}" stroke="{INK}" stroke-width=".7"/>'
            + _text(middle - half, tall - 6, f"tau {1 - most:.2f}", "middle") + _text(middle, tall - 6, "1", "middle")
            + _text(middle + half, tall - 6, f"{1 - most:.2f}", "middle"))
    wide = middle + half + 80
    return Markup(f'<svg width="{wide:g}" height="{tall:g}" viewBox="0 0 {wide:g} {tall:g}" font-size="{_FONT:g}" '
                  f'role="img" aria-label="How far weights move the order">{"".join(body)}{axis}</svg>')


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
