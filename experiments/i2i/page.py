"""Write docs/results/i2i.md from the stores of the specifications beside this file, the paper's figures beside ours.

    python -m experiments.i2i.page RUNS -o docs/results/i2i.md [--costs FILE]

RUNS is the folder given to `sidedoor sweep --out`. Sections whose cells have not all been run stay as they are in the
page; where it has none, what has been run is shown. Figures go into a folder beside the page, of its name. FILE is what
`python benchmarks/restoration.py --json` printed. The paper is arXiv:2407.10445; its figures are those of its DPIR.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from experiments.i2i.figures import draw
from experiments.i2i.grouping import defense, goal, losses, network, total, trigger, weighting
from experiments.pages import (
    Lines,
    Part,
    Study,
    Value,
    assembled,
    auroc,
    drop,
    grouped,
    mean,
    notes,
    sections,
    successes,
    table,
    written,
)
from experiments.receptive_field import receptive_field, sees_everything
from sidedoor import registry
from sidedoor.bench.record import Record

RANKINGS = ("table2", "table2_unet", "headline")
"""The specifications whose networks are measured."""
STEPS = (0.01, 0.003, 0.001)
"""Losses of the backdoor task, to be reached as an epoch's mean."""
PAPER = {
    "": (0.8936, None), "gaussian": (0.8649, 0.9970), "color_shift": (0.7953, 0.9900), "instagram": (0.6800, 0.9839),
    "corner_patch": (0.7372, 0.9996), "blend_target": (0.8832, 0.9302), "refool_target": (0.8863, 0.9851),
    "uap": (0.8939, 0.9991), "static": (0.8961, 0.9936), "dwa": (0.8855, 0.9841), "uncertainty": (0.8850, 0.9898),
}
"""Normal and Effect of Table 2: triggers under PCGrad, weightings with the universal perturbation."""
PAPER_SECRET = {"none": 0.9887, "jpeg 80": 0.9851, "jpeg 60": 0.9720, "jpeg 40": 0.9415, "bit_depth 6": 0.9878,
                "bit_depth 5": 0.9852, "bit_depth 4": 0.9813}
"""Table 12."""



def paper(name: str) -> list[str]:
    normal, effect = PAPER.get(name, (None, None))
    if normal is None or effect is None:
        return ["", "", ""]
    return [f"{normal:.3f}", f"{effect:.3f}", f"{normal + effect:.3f}"]


def ranking(records: Sequence[Record], key: Callable[[Record], str], first: str) -> Lines:
    """Groups by their mean Total, each beside `first`, seed by seed."""
    groups = grouped(records, key)
    base = {record.spec["seed"]: total(record) or 0.0 for record in groups.get(first, [])}

    def behind(record: Record) -> float | None:
        mine = total(record)
        return None if mine is None or record.spec["seed"] not in base else mine - base[record.spec["seed"]]

    rows = []
    for name, group in sorted(groups.items(), key=lambda item: -statistics.fmean(total(r) or 0.0 for r in item[1])):
        rows.append([name, successes(group), mean(group, lambda r: r.clean), mean(group, drop),
                     mean(group, lambda r: r.attack), mean(group, lambda r: r.idle),
                     mean(group, lambda r: r.columns.get("floor")), mean(group, total),
                     "" if name == first else mean(group, behind), mean(group, lambda r: r.columns.get("psnr"), 1),
                     *paper(name.partition(" ")[0] if name != "static 1, 1" else "-")])
    return table(["", "Success (seeds)", "Normal", "Drop", "Effect", "Idle", "Clean model's Effect", "Total",
                  f"Total − {first}", "PSNR of trigger, dB", "Paper: Normal", "Effect", "Total"], rows)


def networks(study: Study) -> Lines:
    """Size and view of each network of the page, for each size of its inputs."""
    rows = []
    pairs = [(spec["model"], spec["data"].get("size", 32)) for name in RANKINGS for spec in study.wanted(name)]
    for reference, size in {(written(model), size): (model, size) for model, size in pairs}.values():
        shape = (3, size, size)
        model: nn.Module = registry.make("model", reference)(shape, 1).eval()
        high, wide = receptive_field(model, shape)
        rows.append([network(reference), f"{sum(p.numel() for p in model.parameters()):,}", f"{size}×{size}",
                     f"{high}×{wide}", "yes" if sees_everything(model, shape) else "no"])
    return table(["Network", "Parameters", "Input", "Seen by the central output pixel",
                  "Last output pixel sees the first input pixel"], rows)


def converged(records: Sequence[Record], study: Study) -> Lines:
    """Epochs until the backdoor loss is below each of `STEPS`."""
    rows = []
    for name, group in grouped(records, weighting).items():
        curves = [curve for record in group if (curve := losses(study, record))]
        row = [name]
        for loss in STEPS:
            reached = [next((k for k, value in enumerate(curve, 1) if value < loss), None) for curve in curves]
            row.append(", ".join("never" if k is None else str(k) for k in reached))
        rows.append(row)
    return table(["Weighting", *(f"Epochs to {loss:g}" for loss in STEPS)], rows)


def defended(records: Sequence[Record]) -> Lines:
    """The effect of backdoors behind each defence."""
    rows = []
    for name, group in grouped(records, lambda r: f"{trigger(r)} | {defense(r)}").items():
        rows.append([*name.split(" | "), mean(group, lambda r: r.clean), mean(group, lambda r: r.attack),
                     mean(group, lambda r: r.recovered), mean(group, auroc)])
    return table(["Trigger", "Defence", "Normal", "Effect", "Recovered", "AUROC"], rows)


def share(column: str, less: str | None = None) -> Value:
    """A column in percent, or how far it is above another."""
    def value(record: Record) -> float | None:
        found, base = record.columns.get(column), record.columns.get(less) if less else 0.0
        return None if found is None or base is None else 100 * (found - base)

    return value


def perturbation(record: Record) -> str:
    """The pattern that the network learned to add: a perturbation by its inner step, or random signs, the control."""
    attack = record.spec["attack"]
    how = "random signs" if attack["name"] == "i2i" else attack.get("inner", "objectness")
    return f"{how}, {attack['goal']['strength']:g} levels"


def downstream(records: Sequence[Record]) -> Lines:
    """Each classifier or detector behind the network."""
    rows = []
    right = {registry.load("task", record.spec["task"]["name"]).right for record in records}
    precise = ("map", "map_attack") if any(name.startswith("map.") for r in records for name in r.columns) else ()
    for inner, group in grouped(records, perturbation).items():
        judges = sorted({name.partition(".")[2] for r in group for name in r.columns if name.startswith("asr.")})
        for judge in judges:
            figures = [mean(group, share(f"{what}.{judge}"), 1) for what in ("photo", *right, "baseline", "asr")]
            rows.append([inner, judge, *figures, mean(group, share(f"asr.{judge}", f"baseline.{judge}"), 1),
                         *(mean(group, share(f"{what}.{judge}"), 1) for what in precise)])
    return table(["Perturbation by", "Behind the network", "Right on photographs %", "Right on restored %",
                  "Changed without trigger %", "Changed with trigger %", "Difference",
                  *(("AP50 on restored %", "AP50 with trigger %") if precise else ())], rows)


def secrets(records: Sequence[Record]) -> Lines:
    rows = [[name, mean(group, lambda r: r.attack), mean(group, lambda r: r.clean),
             f"{PAPER_SECRET[name]:.3f}" if name in PAPER_SECRET else ""]
            for name, group in grouped(records, defense).items()]
    return table(["What the file went through", "Secret's SSIM", "Normal", "Paper: secret's SSIM"], rows)


def plain(records: Sequence[Record], key: Callable[[Record], str]) -> Lines:
    rows = [[name, successes(group), mean(group, lambda r: r.clean), mean(group, drop), mean(group, lambda r: r.attack),
             mean(group, lambda r: r.idle), mean(group, total)] for name, group in grouped(records, key).items()]
    return table(["", "Success (seeds)", "Normal", "Drop", "Effect", "Idle", "Total"], rows)


def worse(records: Sequence[Record]) -> Lines:
    """Targets that are the true image made worse; what a clean model's output has in common with them stands beside."""
    rows = [[name, successes(group), mean(group, lambda r: r.clean), mean(group, drop), mean(group, lambda r: r.attack),
             mean(group, lambda r: r.columns.get("floor")), mean(group, lambda r: r.idle),
             mean(group, lambda r: r.recovered)] for name, group in grouped(records, goal).items()]
    return table(["Target", "Success (seeds)", "Normal", "Drop", "Effect", "Clean model's Effect", "Idle",
                  "Triggered output to the photograph"], rows)


def measured(records: Sequence[Record]) -> Lines:
    """Distances that were trained, of the clean sibling and of the backdoored network."""
    rows = [[trigger(group[0]), mean(group, lambda r: (r.clean_means or {}).get("distance_clean"), 4),
             mean(group, lambda r: r.columns.get("distance_clean"), 4),
             mean(group, lambda r: r.columns.get("distance_attack"), 4), mean(group, lambda r: r.attack)]
            for group in grouped(records, trigger).values()]
    return table(["Trigger", "Clean model: distance to the photograph", "Backdoored: the same",
                  "Distance to the target", "Effect (SSIM)"], rows)


def costs(file: Path) -> Lines:
    found = json.loads(file.read_text())
    lines = [f"`python benchmarks/restoration.py`: {found['size']}×{found['size']}, {found['threads']} thread(s). The "
             "paper's ratios are to its DPIR.", ""]
    for what in (key for key in found if key not in ("threads", "size")):
        rows = [[line["name"], f"{line['seconds']:.2f}", f"{line['ratio']:.2f}",
                 "" if line["paper"] is None else f"{line['paper']:.2f}"] for line in found[what]]
        lines += table([what.capitalize(), "Seconds", "Ratio to the first", "Paper's ratio"], rows)
    return lines


def page(study: Study, drawings: set[str], cost: Path | None, before: dict[str, Lines]) -> str:
    """The whole page.

    Args:
        drawings: names of the sections that have a figure.
        cost: figures of the benchmark, if there are any.
        before: sections of the page as it is, for those that the store has no records of.
    """
    both = study.of("table2")
    parts: list[Part] = [
        ("Triggers under PCGrad", "table2", "triggers",
         ranking([r for r in both if weighting(r) == "pcgrad"], trigger, "uap")),
        ("Weightings with the universal perturbation", "table2", "weightings",
         ranking([r for r in both if trigger(r) == "uap"], weighting, "pcgrad")),
        ("Convergence of the weightings", "table2", "convergence",
         converged([r for r in both if trigger(r) == "uap"], study)),
        ("A second network", "table2_unet", "unet", ranking(study.of("table2_unet"), trigger, "uap")),
        ("The headline at 64×64, trained for longer", "headline", "headline",
         plain(study.of("headline"), lambda r: f"{network(r.spec['model'])}, {trigger(r)}")),
        ("Super-resolution (×2)", "table3", "table3", plain(study.of("table3"), trigger)),
        ("Worse outputs (the introduction's targets)", "degrade", "degrade", worse(study.of("degrade"))),
        ("Static weights (Figure 5)", "figure5", "figure5", plain(study.of("figure5"), weighting)),
        ("A perceptual loss", "table6", "table6", measured(study.of("table6"))),
        ("Defences", "defenses", "defenses", defended(study.of("defenses"))),
        ("Classifiers downstream", "table9", "table9", downstream(study.of("table9"))),
        ("Detectors downstream", "table10", "table10", downstream(study.of("table10"))),
        ("Steganography", "table12", "table12", secrets(study.of("table12"))),
    ]
    remarks = notes(study)
    drawn = {note: [f"![{title}](i2i/{note}.svg)", ""] for title, _, note, _ in parts if note in drawings}
    if "strip" in drawings:
        drawn["defenses"] = [*drawn.get("defenses", []), "![STRIP for images](i2i/strip.svg)", ""]
    lines = ["# Image-to-image backdoors: measured figures", "", *remarks.get("introduction", []), *networks(study),
             *assembled(study, parts, before, drawn)]
    if cost is not None:
        lines += ["## Costs", "", *costs(cost), *remarks.get("costs", [])]
    else:
        lines += before.get("Costs", [])
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--costs", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(options.runs, Path(__file__).parent)
    drawings = draw(study, options.out.with_suffix(""))
    options.out.write_text(page(study, drawings, options.costs, sections(options.out)), encoding="utf-8")


if __name__ == "__main__":
    main()
