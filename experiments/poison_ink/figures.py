"""Figures of the Poison Ink study from its store, as SVG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.pages import Study
from sidedoor.attacks.poison_ink import PoisonInk
from sidedoor.bench.case import Machine, load
from sidedoor.bench.spec import Spec, grid, read
from sidedoor.triggers.ink import Ink, drawn, mixed
from sidedoor.types import stamp

IMAGES = 8


def hidden(study: Study, name: str, root: Path | None, file: Path) -> bool:
    """Figure 6: images, the same with ink, ten times the difference, what was drawn, and what the extractor finds.

    Returns:
        Whether the store has the networks.
    """
    spec = next(cell for cell in grid(read(study.specifications / f"{name}.toml")) if cell.attack_name == "poison_ink")
    if not study.of(name):
        return False
    rows = _rows(study, spec, root)
    with matplotlib.rc_context({"font.size": 7.0, "svg.hashsalt": file.name}):
        figure = Figure((0.8 * IMAGES, 0.85 * len(rows)), layout="constrained")
        for axes, (title, images) in zip(figure.subplots(len(rows), IMAGES), rows.items(), strict=True):
            for k, (place, image) in enumerate(zip(axes, images, strict=True)):
                place.imshow(np.clip(image.permute(1, 2, 0).numpy(), 0, 1), interpolation="nearest")
                place.set(xticks=[], yticks=[], ylabel="" if k else title)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None})
    return True


def _rows(study: Study, spec: Spec, root: Path | None) -> dict[str, Tensor]:
    case, attack = load(spec, study.store, Machine(root, device="cpu")), spec.make_attack()
    assert isinstance(attack, PoisonInk)
    pair, pen = attack.networks(case.train, case.run.within("plan")), attack.pen()
    ink = mixed(attack.ink, 0, case.test.shape[0])
    batch = case.test.fetch(torch.linspace(0, len(case.test) - 1, IMAGES).long(), case.run.device)
    with torch.no_grad():
        stamped = stamp(Ink(pair.injection, ink, pen), batch.x, batch.index, case.test.space)
        return {"image": batch.x, "with ink": stamped, "10 × difference": 0.5 + 10 * (stamped - batch.x),
                "pattern": drawn(pen.lines(batch.x), ink[None]), "extracted": pair.extractor(stamped),
                "from the image": pair.extractor(batch.x)}
