"""Figures 4 to 9 of arXiv:2407.10445 from the store of this study, as SVG files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.i2i.grouping import losses, trigger, weighting
from experiments.pages import Study, Value, canvas, drop, grouped
from sidedoor.bench.record import Record

ROWS = {"images_input": "input", "images_stamped": "with trigger", "images_output": "output, clean",
        "images_triggered": "output, triggered"}


def draw(study: Study, folder: Path) -> set[str]:
    """Every figure whose specification has been run, as NAME.svg; the names."""
    folder.mkdir(parents=True, exist_ok=True)
    both = study.whole("table2")
    uap = [r for r in both if trigger(r) == "uap"]
    static = [r for r in study.whole("figure5") if _sums_to_one(r)]
    figures: dict[str, tuple[Callable[[Path], None], Sequence[Any]]] = {}
    shown = list({trigger(r): r for r in both if r.spec["seed"] == 0 and weighting(r) == "pcgrad"}.values())
    figures["triggers"] = (lambda file: gallery(study, shown, file), shown)
    figures["convergence"] = (lambda file: convergence(study, uap, file), uap)
    figures["figure5"] = (lambda file: weights(static, file), static if len(grouped(static, weighting)) > 1 else [])
    swept = [r for r in study.whole("defenses") if r.spec["defense"]]
    steps = [r for r in swept if r.spec["defense"]["name"] in ("bit_depth", "jpeg")]
    figures["defenses"] = (lambda file: strengths(steps, file), steps)
    strip = [r for r in swept if r.spec["defense"]["name"] == "strip_i2i" and r.spec["seed"] == 0]
    figures["strip"] = (lambda file: distances(study, strip, file), strip)
    for name, (drawn, records) in figures.items():
        if records:
            drawn(folder / f"{name}.svg")
    return {name for name, (_, records) in figures.items() if records}


def _sums_to_one(record: Record) -> bool:
    return bool(abs(sum(record.spec["attack"]["weighting"]["weights"]) - 1) < 1e-9)


def gallery(study: Study, records: Sequence[Record], file: Path) -> None:
    """Figure 4: one test image under every trigger, and what the network makes of it."""
    with canvas(file, len(ROWS), len(records), (0.85 * len(records), 0.95 * len(ROWS))) as axes:
        for column, record in enumerate(records):
            arrays = study.store.arrays(record.key)
            for row, (name, title) in enumerate(ROWS.items()):
                place = axes[row][column]
                place.imshow(np.clip(arrays[name][0], 0, 1).transpose(1, 2, 0), interpolation="nearest")
                place.set(xticks=[], yticks=[], ylabel=title if column == 0 else "")
                for spine in place.spines.values():
                    spine.set_visible(False)
            axes[0][column].set_title(trigger(record), fontsize=6)


def convergence(study: Study, records: Sequence[Record], file: Path) -> None:
    """Figure 6: mean loss of the backdoor task by epoch, a line for each seed."""
    with canvas(file, 1, 1, (4.2, 2.6)) as axes:
        for n, (name, group) in enumerate(grouped(records, weighting).items()):
            for k, record in enumerate(group):
                curve = losses(study, record)
                axes[0][0].plot(range(1, len(curve) + 1), curve, color=f"C{n}", lw=1, label=None if k else name)
        axes[0][0].set(yscale="log", xlabel="epoch", ylabel="loss of the backdoor task (MSE)")
        axes[0][0].legend()


def weights(records: Sequence[Record], file: Path) -> None:
    """Figure 5: Effect, and what it costs on clean inputs, by the weight of the backdoor task."""
    groups = sorted(grouped(records, weighting).values(), key=_backdoor_weight)
    with canvas(file, 1, 2, (5.6, 2.4)) as axes:
        for place, title, value in ((axes[0][0], "Effect", _effect), (axes[0][1], "drop of Normal", drop)):
            for group in groups:
                place.plot([_backdoor_weight(group)] * len(group), [value(r) for r in group], "o", ms=3, color="C0")
            place.plot([_backdoor_weight(g) for g in groups], [_mean(g, value) for g in groups], color="C0", lw=1)
            place.set(xlabel="weight of the backdoor task", ylabel=title)


def _effect(record: Record) -> float | None:
    return record.attack


def _normal(record: Record) -> float | None:
    return record.clean


def _mean(records: Iterable[Record], value: Value) -> float:
    return statistics.fmean(v for record in records if (v := value(record)) is not None)


def _backdoor_weight(group: Sequence[Record]) -> float:
    return float(group[0].spec["attack"]["weighting"]["weights"][1])


def strengths(records: Sequence[Record], file: Path) -> None:
    """Figures 7 and 8: Normal (dashed) and Effect by bits and by JPEG quality."""
    with canvas(file, 1, 2, (5.6, 2.4)) as axes:
        for place, name, parameter in ((axes[0][0], "bit_depth", "bits"), (axes[0][1], "jpeg", "quality")):
            mine = [r for r in records if r.spec["defense"]["name"] == name]
            for n, (of, group) in enumerate(grouped(mine, trigger).items()):
                points = sorted((strength, [r for r in group if r.spec["defense"][parameter] == strength])
                                for strength in {r.spec["defense"][parameter] for r in group})
                for what, value, style in (("Effect", _effect, "o-"), ("Normal", _normal, "s--")):
                    place.plot([strength for strength, _ in points], [_mean(same, value) for _, same in points],
                               style, ms=3, lw=1, color=f"C{n}", label=f"{what}, {of}")
            place.set(xlabel=f"{name}: {parameter}", ylabel="SSIM", ylim=(0, 1))
        axes[0][0].legend()


def distances(study: Study, records: Sequence[Record], file: Path) -> None:
    """Figure 9: STRIP's scores of clean and of triggered inputs."""
    with canvas(file, 1, len(records), (2.4 * len(records), 2.2)) as axes:
        for place, record in zip(axes[0], records, strict=True):
            arrays = study.store.arrays(record.key)
            kinds = {"clean": arrays["innocent"], "triggered": arrays["suspicious"]}
            bins = np.histogram_bin_edges(np.concatenate([v[np.isfinite(v)] for v in kinds.values()]), 24)
            for name, scores in kinds.items():
                place.hist(scores[np.isfinite(scores)], bins, alpha=0.6, label=name)
            weight = record.spec["defense"]["overlay_weight"]
            place.set(xlabel="score", title=f"{trigger(record)}, overlay {weight:g}")
        axes[0][0].legend()
