"""The charts of a report, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from sidedoor.metrics.statistics import roc_curve
from sidedoor.report.plot import INK, SHAPES, Panel, drawn
from sidedoor.report.series import Line

Scores = npt.NDArray[np.float64]
Epoch = Mapping[str, float | None]
COLOURS = ("#3c7fc0", "#d5672c", "#2f9a70", "#b064a6", "#b08a1e", "#5d93a8")
LINES = ("-", "--", ":", "-.")
_NAMED = 30
"""The most classes that a chart names."""


@dataclass(frozen=True)
class Curve:
    """A detector on one model.

    Args:
        positive, negative: scores, higher is more suspicious.
        points: realised (false, true) positive rates at the thresholds of 1 % and 5 %.
    """

    name: str
    positive: Scores
    negative: Scores
    points: tuple[tuple[float, float], ...] = ()


def roc(curves: Sequence[Curve]) -> Markup:
    """ROC curves, with false positives once on a linear and once on a logarithmic axis."""
    floor = min(0.01, *(1 / len(curve.negative) for curve in curves)) / 2
    panels = [Panel("false positive rate", "" if logarithmic else "true positive rate", (low, 1.0), (0.0, 1.0),
                    logarithmic) for logarithmic, low in ((False, 0.0), (True, floor))]
    chance = np.geomspace(floor, 1, 50)
    for panel, low, label in zip(panels, (0.0, floor), (True, False), strict=True):
        panel.add("line", chance, chance, width=0.4)
        panel.add("place", [0.01, 0.05], 0.0, width=0.4, line=":")
        for n, curve in enumerate(curves):
            colour, line = COLOURS[n % len(COLOURS)], LINES[n // len(COLOURS) % len(LINES)]
            fpr, tpr = _corners(*roc_curve(curve.positive, curve.negative))
            panel.add("line", np.maximum(fpr, low), tpr, colour=colour, line=line, label=curve.name if label else "")
            for false, true in curve.points:
                panel.add("dots", [max(false, low)], [true], colour=colour, size=2.2)
    return drawn(panels, 165)


def histogram(groups: dict[str, Scores], label: str) -> Markup:
    """Scores of several groups, each as shares of its own group."""
    panel = Panel(label, "share of the group")
    finite = {title: scores[np.isfinite(scores)] for title, scores in groups.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), 40)
    for n, (title, scores) in enumerate(finite.items()):
        share = np.histogram(scores, edges)[0] / max(1, len(scores))
        panel.add("steps", edges, np.append(share, 0.0), colour=COLOURS[n], label=f"{title} (n = {len(groups[title])})")
    return drawn([panel], 145)


def indices(per_class: Scores, classes: Sequence[str], threshold: float | None, references: Scores) -> Markup:
    """The suspicion of each class, the paper's threshold if it is on that scale, and the scores of clean models."""
    top = int(np.nanargmax(per_class)) if np.isfinite(per_class).any() else -1
    named = len(classes) == len(per_class) <= _NAMED
    short = [name if len(name) <= 14 else f"{name[:13]}…" for name in classes] if named else ()
    panel = Panel("" if named else "class", "suspicion", names=short, whole=True)
    panel.add("bars", np.arange(len(per_class)), np.nan_to_num(per_class, posinf=0, neginf=0),
              colour=[COLOURS[1] if n == top else COLOURS[0] for n in range(len(per_class))])
    if len(references):
        panel.add("level", 0.0, references, colour=COLOURS[2], width=0.9, label=f"clean models (n = {len(references)})")
    if threshold is not None:
        panel.add("level", 0.0, [threshold], width=0.9, line="--", label=f"the paper's threshold ({threshold:g})")
    return drawn([panel], 150)


def curve(values: Scores) -> Markup:
    """A curve that a method shows, by the number of its points."""
    panel = Panel(whole=True)
    panel.add("line", np.arange(len(values)), values, colour=COLOURS[0])
    return drawn([panel], 145)


def path(steps: Scores, names: Sequence[str], marks: Mapping[str, float], unit: float) -> Markup:
    """What a method does at each strength.

    Args:
        steps: (strength, a number for each name) of each step; the first number is drawn dashed.
        names: of the numbers.
        marks: strengths that were chosen, by whom.
        unit: what 1 is drawn as, 100 for per cent.
    """
    panel = Panel("strength", ylim=(0.0, unit))
    for n, name in enumerate(names):
        panel.add("line", steps[:, 0], unit * steps[:, n + 1], colour=COLOURS[n], line="-" if n else "--", size=1.8,
                  label=name)
    for n, (title, strength) in enumerate(marks.items()):
        panel.add("place", [strength], 0.0, width=0.9, line=LINES[2 + n % 2], label=title)
    return drawn([panel], 150)


def training(history: Mapping[str, Sequence[Epoch]]) -> Markup:
    """Loss and learning rate of each phase by epoch; dashed: the loss on validation data."""
    losses, rates = Panel("epoch", "training loss", whole=True), Panel("epoch", "learning rate", whole=True)
    for n, (phase, epochs) in enumerate(history.items()):
        colour, size = COLOURS[n % len(COLOURS)], 1.2 if len(epochs) < 30 else 0.0
        losses.add("line", *_column(epochs, "loss"), colour=colour, size=size, label=phase)
        for k, part in enumerate(key for key in epochs[0] if key.startswith("loss_")):
            losses.add("line", *_column(epochs, part), colour=colour, line=LINES[2 + k % 2],
                       label=f"{phase}, loss {k + 1}")
        rates.add("line", *_column(epochs, "lr"), colour=colour, size=size)
        if any(epoch.get("valid") is not None for epoch in epochs):
            losses.add("line", *_column(epochs, "valid"), colour=colour, line="--", size=size,
                       label=f"{phase}, validation")
    return drawn([losses, rates], 145)


def strengths(lines: Sequence[Line], parameter: str, names: dict[str, str], unit: float) -> Markup:
    """The clean and the attack number by a parameter: means over seeds, bars from the lowest to the highest seed.

    Args:
        names: headings of the numbers that are drawn, a panel each.
        unit: what 1 is drawn as, 100 for per cent.
    """
    shown = {key: heading for key, heading in names.items() if any(key in line.points for line in lines)}
    panels = []
    for key, heading in shown.items():
        panels.append(Panel(parameter, heading, ylim=(0.0, unit)))
        for n, line in enumerate(line for line in lines if key in line.points):
            middle, *ends = unit * np.array(line.points[key]).T
            colour = COLOURS[n % len(COLOURS)]
            panels[-1].add("ranges", np.repeat(line.values, 2), np.stack(ends, 1).ravel(), colour=colour, width=0.8)
            panels[-1].add("line", line.values, middle, colour=colour, line=LINES[n // 6 % 4], size=1.8,
                           label=line.label if len(lines) > 1 and len(panels) == 1 else "")
    return drawn(panels, 150)


def tradeoff(dots: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str, unit: float) -> Markup:
    """A dot for each (x, y), colour and shape by group; the first group, the undefended, as rings.

    Args:
        across, up: what the axes show.
        unit: what 1 is drawn as, 100 for per cent.
    """
    panel = Panel(across, up, xlim=(0.0, unit))
    for n, (title, points) in enumerate(dots.items()):
        colour, shape = (INK, "o") if n == 0 else (COLOURS[(n - 1) % 6], list(SHAPES)[(n - 1) // 6 % len(SHAPES)])
        panel.add("dots", *unit * np.array(points).T, colour=colour, shape=shape, size=2.5, hollow=n == 0, label=title)
    return drawn([panel], 210)


def _corners(fpr: Scores, tpr: Scores) -> tuple[Scores, Scores]:
    """The curve without the points within its straight runs."""
    if len(fpr) < 3:
        return fpr, tpr
    turn = np.diff(fpr)[:-1] * np.diff(tpr)[1:] - np.diff(fpr)[1:] * np.diff(tpr)[:-1]
    keep = np.concatenate([[True], np.abs(turn) > 1e-12, [True]])
    return fpr[keep], tpr[keep]


def _column(epochs: Sequence[Epoch], key: str) -> tuple[list[float], list[float]]:
    present = [(x, y) for epoch in epochs if (x := epoch["epoch"]) is not None and (y := epoch.get(key)) is not None]
    return [x for x, _ in present], [y for _, y in present]
