"""Write docs/results/blo.md from the store of this folder's specifications, the paper's figures beside ours.

    python -m experiments.blo.page RUNS -o docs/results/blo.md

RUNS is the folder given to `sidedoor sweep --out`. Sections whose cells have not all been run stay as they are in the
page; where it has none, what has been run is shown. The paper is Taneja et al., ICASSP 2022.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_rel

from experiments.blo.figures import gains, gallery
from experiments.pages import (
    Lines,
    Part,
    Study,
    Value,
    assembled,
    auroc,
    grouped,
    mean,
    notes,
    sections,
    successes,
    table,
)
from experiments.receptive_field import receptive_field
from sidedoor import registry
from sidedoor.bench.record import Record
from sidedoor.metrics.statistics import t_interval

ERRORS = ("benign", "attack", "artefact_box", "artefact")
PAPER = {"original": ("0.021", "0.045", "NA"), "white": ("0.046", "0.044", "0.26"), "BLO": ("0.039", "0.040", "0.245")}
"""Table 1: benign, attack and artefact error, called RMSE."""


def column(name: str) -> Value:
    return lambda record: record.columns.get(name)


def of_sibling(name: str) -> Value:
    return lambda record: (record.clean_means or {}).get(name)


def attack(record: Record) -> str:
    """White, random or BLO."""
    given = record.spec["attack"]
    return "BLO" if given["name"] == "blo" else str(given["fill"])


def network(record: Record) -> str:
    given = record.spec["model"]
    return f"{given['name']} {given.get('kernel', '')}".strip() + (f"×{given['kernel']}" if "kernel" in given else "")


def setting(record: Record) -> str:
    """The setting of a cell within its study, the attack aside."""
    given, task = record.spec["attack"], record.spec["task"]
    parts = [f"ratio {100 * given['rate']:g} %"]
    parts += [f"strength {given['strength']:g}"] if given["strength"] != 1 else []
    parts += [f"margin {given['margin']}"] if given["margin"] != 1 else []
    parts += [task["operator"]["name"].replace("_", " ")] if task["operator"]["name"] != "identity" else []
    return ", ".join(parts)


def steps(record: Record) -> str:
    """How BLO's outer steps differ from the default, if they do."""
    given = record.spec["attack"]
    if given["name"] != "blo" or (given["outer_lr"], given["reduction"]) == (10, "sum"):
        return ""
    return f", {given['reduction']} over pixels, α = {given['outer_lr']:g}"


def field(record: Record) -> str:
    """The receptive field of the central output pixel in a 28×28 input."""
    model: Any = registry.make("model", record.spec["model"])
    high, wide = receptive_field(model((1, 28, 28), 1).eval(), (1, 28, 28))
    return f"{high}×{wide}"


def errors(records: Sequence[Record], kind: str) -> Lines:
    """Table 1, in mean squared errors or their roots."""
    rows = []
    for name, group in grouped(records, network).items():
        attacks = grouped(group, attack)
        white = attacks.get("white", [])
        rows.append([name, field(group[0]), "original", "",
                     *(mean(white, of_sibling(f"{kind}_{e}"), 4) for e in ERRORS),
                     *(mean(white, of_sibling(what)) for what in ("gain", "ghost")), *PAPER["original"]])
        rows += [[name, field(group[0]), who, successes(found),
                  *(mean(found, column(f"{kind}_{e}"), 4) for e in ERRORS),
                  *(mean(found, column(what)) for what in ("gain", "ghost")), *PAPER.get(who, ("", "", ""))]
                 for who, found in attacks.items()]
    return table(["Network", "Field", "Square", "Success (seeds)", "Benign", "Attack", "Artefact, box",
                  "Artefact, pixels", "Gain", "Ghost", "Paper: benign", "Attack", "Artefact"], rows)


def difference(ours: Sequence[Record], theirs: Sequence[Record], value: Value) -> str:
    """Mean over the seeds that both have ± half the 95 % interval, and the p of a paired t test."""
    other = {r.spec["seed"]: value(r) for r in theirs}
    pairs = [(value(r), other[r.spec["seed"]]) for r in ours if r.spec["seed"] in other]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(known) < 2:
        return ""
    middle, low, _ = t_interval([a - b for a, b in known])
    assert low is not None
    p = float(ttest_rel(*zip(*known, strict=True)).pvalue)
    return f"{middle:+.4f} ± {middle - low:.4f} (p = {p:.2g})"


def paired(records: Sequence[Record]) -> Lines:
    """BLO less the white square, seed by seed."""
    rows = []
    for name, group in grouped(records, network).items():
        attacks = grouped(group, attack)
        rows += [[name, f"BLO − {other}", *(difference(attacks["BLO"], attacks[other], column(what)) for what in
                                           ("mse_benign", "mse_attack", "mse_artefact_box", "mse_artefact", "gain"))]
                 for other in ("white", "random") if other in attacks and "BLO" in attacks]
    return table(["Network", "MSE", "Benign", "Attack", "Artefact, box", "Artefact, pixels", "Gain"], rows)


def versus(records: Sequence[Record]) -> Lines:
    """The gain of each square in each setting, and how much more it is than the white one's."""
    rows = []
    for name, group in grouped(records, setting).items():
        squares = grouped(group, lambda r: attack(r) + steps(r))
        rows += [[name, who, *(mean(found, column(what)) for what in ("gain", "ghost")),
                  mean(found, column("mse_benign"), 4),
                  difference(found, squares.get("white", []), column("gain")) if who != "white" else ""]
                 for who, found in squares.items()]
    return table(["", "Square", "Gain", "Ghost", "Benign MSE", "Gain less the white square's"], rows)


def defended(records: Sequence[Record]) -> Lines:
    """Both attacks behind defences."""
    def name(record: Record) -> str:
        given = record.spec["defense"]
        return f"{attack(record)} | {given['name'] if given else 'none'}"

    rows = [[*key.split(" | "), mean(group, column("gain")), mean(group, column("ghost")),
             mean(group, lambda r: r.clean), mean(group, auroc)]
            for key, group in grouped(records, name).items()]
    return table(["Square", "Defence", "Gain", "Ghost", "SSIM on clean inputs", "AUROC"], rows)


def seconds(study: Study, records: Sequence[Record]) -> Lines:
    """Seconds of a training, and of finding the square before it."""
    def training(record: Record) -> float | None:
        file = study.store.folder(record.planted) / "history.json"
        epochs = json.loads(file.read_text()).get("victim", []) if file.exists() else []
        return sum(epoch["seconds"] for epoch in epochs) or None

    def before(record: Record) -> float | None:
        trained = training(record)
        return None if trained is None else record.timing["attack"] - trained

    rows = [[*key.split(" | "), mean(group, training, 1), mean(group, before, 1)]
            for key, group in grouped(records, lambda r: f"{network(r)} | {attack(r)}").items()]
    return table(["Network", "Square", "Seconds of training", "Seconds of finding the square"], rows)


def page(study: Study, drawn: dict[str, Lines], before: dict[str, Lines]) -> str:
    """The whole page.

    Args:
        drawn: lines that show figures, by what they belong to.
        before: sections of the page as it is, for those that the store has no records of.
    """
    table1, unet = study.of("table1"), study.of("unet")
    compared: list[tuple[str, str, Callable[[Sequence[Record]], Lines]]] = [
        ("Where the learned square might win: few pairs, faint squares, outer steps", "map", versus),
        ("A square at the edge of what the network sees", "reach", versus),
        ("Other operators", "operators", versus),
        ("Poisoning ratios", "ratios", versus),
        ("Fashion-MNIST", "fashion", versus),
        ("Patches of photographs", "patches", versus),
        ("Defences", "defenses", defended),
    ]
    parts: list[Part] = [
        ("Table 1, mean squared errors", "table1", "table1", errors(table1, "mse")),
        ("Table 1, roots of mean squared errors", "table1", "roots", errors(table1, "rmse")),
        ("BLO beside the others, seed by seed", "table1", "paired", paired(table1)),
        ("Seconds", "table1", "seconds", seconds(study, table1)),
        ("A U-Net, mean squared errors", "unet", "unet", errors(unet, "mse")),
        ("A U-Net, seed by seed", "unet", "unet paired", paired(unet)),
        ("All 60,000 digits, mean squared errors, one seed", "full", "full", errors(study.of("full"), "mse")),
        *((title, name, name, body(study.of(name))) for title, name, body in compared),
    ]
    lines = ["# Backdoors of image reconstruction: measured figures", "", *notes(study).get("introduction", []),
             *assembled(study, parts, before, drawn)]
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    study, folder = Study(options.runs, Path(__file__).parent), options.out.with_suffix("")
    drawn: dict[str, Lines] = {}
    if shown := gallery(study, folder / "gallery.svg"):
        drawn["table1"] = [f"![{shown}]({folder.name}/gallery.svg)", "", shown, ""]
    points = [(setting(r), attack(r) + steps(r), r) for name in ("map", "reach", "operators") for r in study.of(name)]
    if points:
        gains(points, folder / "map.svg")
        drawn["map"] = [f"![Gains of the squares in each setting]({folder.name}/map.svg)", ""]
    options.out.write_text(page(study, drawn, sections(options.out)), encoding="utf-8")


if __name__ == "__main__":
    main()
