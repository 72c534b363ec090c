"""Figures 3 and 4 of Taneja et al. (ICASSP 2022) from the store of this study, and a map of where BLO wins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.pages import Study, canvas, grouped, shown
from sidedoor import registry
from sidedoor.bench.record import Record
from sidedoor.core.checkpoint import load_state
from sidedoor.metrics.statistics import t_interval


def gallery(study: Study, file: Path) -> str:
    """Test images of seed 0 through each network, with and without the square; what it shows, "" for no figure."""
    first = [r for r in study.of("table1") if r.spec["seed"] == 0 and r.spec["model"]["name"] == "autoencoder"]
    by_kernel = grouped(first, lambda r: str(r.spec["model"]["kernel"]))
    rows: dict[str, np.ndarray] = {}
    for kernel, records in sorted(by_kernel.items(), reverse=True):
        for record in records:
            arrays = study.store.arrays(record.key)
            given = record.spec["attack"]
            name = f"{'BLO' if given['name'] == 'blo' else given['fill']} {kernel}×{kernel}"
            if not rows:
                rows |= {"truth": arrays["images_truth"], "target": arrays["images_target"]}
            if name.startswith("white"):
                model = registry.make("model", record.spec["model"])((1, 28, 28), 1).eval()
                model.load_state_dict(load_state(study.store.model(record.clean_key or ""))["model"])
                with torch.no_grad():
                    rows[f"original {kernel}×{kernel}, square"] = model(torch.from_numpy(
                        arrays["images_stamped"]).float() / 255).clamp(0, 1).numpy() * 255
            rows |= {f"{name}, none": arrays["images_output"], f"{name}, square": arrays["images_triggered"]}
    if not rows:
        return ""
    shown({title: np.asarray(images, dtype=np.float32) / 255 for title, images in rows.items()}, file)
    return "Six test digits, what they should become, and what the networks of seed 0 give without and with the square."


def gains(points: Sequence[tuple[str, str, Record]], file: Path) -> None:
    """Gain of each attack, a line a setting: mean and 95 % interval over seeds."""
    settings = list(dict.fromkeys(name for name, _, _ in points))
    with canvas(file, 1, 1, (5.2, 0.6 + 0.24 * len(settings))) as axes:
        place = axes[0][0]
        for n, who in enumerate(("white", "random", "BLO")):
            for row, name in enumerate(settings):
                found = [r.columns["gain"] for s, a, r in points if (s, a) == (name, who)]
                values = [v for v in found if v is not None]
                if not values:
                    continue
                middle, low, _ = t_interval(values)
                half = 0.0 if low is None else middle - low
                place.errorbar(middle, -row - 0.2 * (n - 1), xerr=half, fmt="osD"[n], color=f"C{n}", ms=3, lw=1)
            place.plot([], [], "osD"[n], color=f"C{n}", ms=3, label=who)
        place.set(yticks=range(0, -len(settings), -1), yticklabels=settings, xlim=(-0.1, 1.1),
                  xlabel="gain: what the square adds to the plus sign's pixels")
        place.axvline(0, color="0.8", lw=0.6, zorder=0)
        place.legend(loc="lower right")
