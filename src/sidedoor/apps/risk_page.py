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
_LINE, _LEGEND, _LONGEST = 11.0, 330.0, 66
_STEPS = 40
"""Points of the bounds of bands."""
Place = Callable[[float], float]
"""From a number to where it stands."""
_ROW, _NAMES = 15.0, 120.0


def page(found: Matrix, results: Path, output: Path) -> str:
    """The page.

    Args:
        results: the store, whose records are linked to.
        output: where the page will be.
    """
    style = (files("sidedoor.report") / "page.css").read_text(encoding="utf-8")
    shown = [row for row in found.threats if row.shown]
    here = os.path.relpath(results.resolve(), output.resolve().parent)
    return template("sidedoor.apps", "risk.html.jinja").render(
        style=Markup(style), map=heat(shown, found.weights), threats=found.threats,  # the house's own file
        positive=found.watermarks, names=INGREDIENTS, sensitivity=found.sensitivity,
        tornado=tornado(found.sensitivity) if found.sensitivity else "", link=lambda key: f"{here}/results/{key}.json",
        missing=files_of([need for row in found.rows for need in row.missing]), weights=vars(found.weights))


def heat(rows: Sequence[Row], weights: Weights) -> Markup:
    """Attacks at their likelihood and impact, numbered, with the ends of their intervals, over the bands of risk."""
    def across(value: float) -> float:
        return _LEFT + (value - 1) / 4 * _SIZE

    def up(value: float) -> float:
        return _TOP + (5 - value) / 4 * _SIZE

    bounds = (1.0, *(weights.bands[name] for name in ("medium", "high", "critical")))
    bands = [_band(bound, across, up) for bound in bounds]
    ticks = [_text(across(n), _TOP + _SIZE + 12, str(n), "middle") + _text(_LEFT - 6, up(n) + 3, str(n), "end")
             for n in range(1, 6)]
    named = _text(_LEFT + _SIZE / 2, _TOP + _SIZE + 26, "likelihood", "middle") + (
        f'<text transform="translate(12 {_TOP + _SIZE / 2:g}) rotate(-90)" text-anchor="middle" fill="{INK}">impact'
        "</text>")
    places = _apart([(across(row.likelihood.value), up(row.impact.value)) for row in rows])
    dots = [_dot(row, n, across, up, y) for n, (row, y) in enumerate(zip(rows, places, strict=True), 1)]
    legend = [_text(_LEFT + _SIZE + 16, _TOP + 8 + _LINE * n, f"{n + 1}  {_short(row.name)}", "start")
              for n, row in enumerate(rows)]
    wide, tall = _LEFT + _SIZE + _LEGEND, max(_TOP + _SIZE + _BOTTOM, _TOP + _LINE * (len(rows) + 1))
    return Markup(f'<svg width="{wide:g}" height="{tall:g}" viewBox="0 0 {wide:g} {tall:g}" font-size="{_FONT:g}" '
                  f'role="img" aria-label="Attacks by likelihood and impact">'
                  f'{"".join([*bands, *ticks, named, *dots, *legend])}</svg>')


def _band(bound: float, across: Place, up: Place) -> str:
    """Where the risk is at least a bound; each lies over those of lower bounds."""
    chances = [1 + 4 * n / _STEPS for n in range(_STEPS + 1)]
    line = "L".join(f"{across(chance):.1f},{up(min(5.0, max(1.0, bound / chance))):.1f}" for chance in chances)
    return (f'<path class="band" d="M{line}V{up(5):.1f}H{across(1):.1f}z" '
            'style="fill:rgb(var(--heat) / .2)"/>')


def _dot(row: Row, number: int, across: Place, up: Place, y: float) -> str:
    x, at = across(row.likelihood.value), up(row.impact.value)
    bars = (f'<path d="M{across(row.likelihood.low):.1f},{at:.1f}H{across(row.likelihood.high):.1f}'
            f'M{x:.1f},{up(row.impact.low):.1f}V{up(row.impact.high):.1f}" stroke="{INK}" stroke-width=".5" '
            'stroke-opacity=".5"/>')
    return (f'{bars}<circle class="attack" cx="{x:.1f}" cy="{at:.1f}" r="2.5" fill="{INK}"/>'
            + _text(x + 5, y + 2.8, str(number), "start"))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST - 1]}…"


def _apart(dots: Sequence[tuple[float, float]]) -> list[float]:
    """How high the number of each dot stands: lower where it would cover another one."""
    placed: list[tuple[float, float]] = []
    for x, y in dots:
        while any(abs(x - a) < 1.5 * _FONT and abs(y - b) < _FONT - 1e-9 for a, b in placed):
            y += _FONT
        placed.append((x, y))
    return [y for _, y in placed]


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
