"""Write docs/results/poison_ink.md from the store of this folder's specifications, the paper's figures beside ours.

    python -m experiments.poison_ink.page RUNS -o docs/results/poison_ink.md [--data-root DIR]

RUNS is the folder given to `sidedoor sweep --out`. Its records are kept beside the page, and those that are there count
too: a section shows what has been run of it, in whichever store.
The paper is arXiv:2108.02488; its figures are those of CIFAR-10.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.pages import Lines, Study, Value, assembled, drop, grouped, mean, notes, sections, successes, table
from experiments.poison_ink.figures import Networks, hidden
from sidedoor import registry
from sidedoor.bench.record import Record
from sidedoor.report.critical import file_of
from sidedoor.report.radar import radar

Fold = Callable[[list[float]], float]
FIGURE = "What is hidden, and found again (Figure 6)"
STRENGTHS = (0.5, 1.0, 2.0, 3.0, 4.0)
"""Of the change, for the figures of the extractor."""
TRANSFORMS = ("none", "flip", "shrink_pad", "rotation", "crop_resize")
AXES = ("None", "Flip", "Shrink and pad", "Rotation", "Crop and resize")
"""The same in words."""
PLAIN_TITLE = "The same behind transformations (Table IX)"
ENHANCED_TITLE = "The same with enhanced training (Table VII)"
INVISIBLE = {"badnets": (25.68, 0.9833), "blended": (21.29, 0.8810), "sig": (25.12, 0.8250), "refool": (19.38, 0.8243),
             "spm": (38.94, 0.9884), "lsb": (51.13, 0.9991), "poison_ink": (42.95, 0.9961), "wanet": (32.15, 0.9822),
             "ftrojan": (41.10, 0.9915), "advdoor": (22.97, 0.9101)}
"""PSNR and SSIM of Tables V and VIII."""
VISIBILITY = (("PSNR dB", "psnr", 2), ("SSIM", "ssim", 4), ("LPIPS", "lpips", 4))
PLAIN = {"ftrojan": (100, 100, 9.99, 77.99, 9.56, 59.51), "poison_ink": (99.92, 99.98, 39.82, 96.24, 82.39, 83.67)}
"""ASR of Table IX without enhanced training: each of `TRANSFORMS`, then their mean."""
ENHANCED = {"badnets": (100, 99.98, 22.00, 77.26, 39.77, 67.80), "blended": (99.82, 99.79, 92.39, 98.95, 74.34, 93.06),
            "sig": (99.92, 99.95, 99.86, 99.8, 97.62, 99.43), "refool": (93.87, 93.64, 89.59, 93.22, 93.63, 92.79),
            "spm": (99.86, 99.89, 9.72, 68.42, 8.96, 57.37), "lsb": (14.93, 15.36, 15.14, 16.35, 17.03, 15.76),
            "poison_ink": (99.92, 99.97, 83.12, 96.94, 87.46, 93.48),
            "ftrojan": (97.57, 97.35, 99.07, 97.59, 99.46, 98.21)}
"""The same of Tables VII and IX."""
PREPROCESSED = {"gaussian_noise": (55.17, 89.49), "gaussian_blur": (52.53, 40.60), "mixup": (45.77, 85.74),
                "cutout": (65.82, 72.39), "cutmix": (61.79, 85.11), "edges (sobel) by grey": (60.98, 57.28),
                "edges (scharr) by grey": (60.71, 56.59), "edges (prewitt) by grey": (61.96, 58.34),
                "edges (roberts) by grey": (65.30, 62.15)}
"""Accuracy and ASR of Tables XII and XIII."""


def percent(number: Callable[[Record], float | None]) -> Value:
    def value(record: Record) -> float | None:
        found = number(record)
        return None if found is None else 100 * found

    return value


C_ACC, ASR, DROP, IDLE = (percent(number) for number in (lambda r: r.clean, lambda r: r.attack, drop, lambda r: r.idle))


def column(name: str) -> Value:
    return lambda record: record.columns.get(name)


def inner(record: Record) -> dict[str, Any]:
    """The attack on data: of one that trains around another, the other."""
    given: dict[str, Any] = record.spec["attack"]
    return given.get("attack", given)


def variant(record: Record) -> str:
    """An attack's name with what sets it apart in this study."""
    given = inner(record)
    parts = [given["name"]]
    if given["name"] == "poison_ink":
        parts += [words for key, value, words in (
            ("interference", 0, "no interference"), ("adversarial", 0, "no adversarial loss"),
            ("invisible", 0, "adversarial loss alone")) if given[key] == value]
        parts += [f"edges of a picture ({given['picture']})"] if given["picture"] else []
        parts += [] if given["relearn"] else ["same network"]
    parts += [f"{given['margin']} pixels from the edge"] if given.get("margin") else []
    if record.spec["attack"] is not given and record.spec["attack"]["name"] != "physical":
        parts.append(_unusual("attack", record.spec["attack"]))
    return ", ".join(parts)


def changed(record: Record) -> str:
    """An attack's name with the numbers that are not its defaults, and a goal other than all to one."""
    given, goal = inner(record), inner(record)["goal"]["name"]
    return _unusual("attack", given) + ("" if goal == "all_to_one" else f", {goal.replace('_', ' ')}")


def with_rate(record: Record) -> str:
    return f"{variant(record)}, {100 * inner(record)['rate']:g} %"


def with_strength(record: Record) -> str:
    """An attack's name, with the factor of its change unless that is 1."""
    strength = inner(record)["strength"]
    return variant(record) + ("" if strength == 1 else f", strength {strength:g}")


def defense(record: Record) -> str:
    """The name, and of edges which and how."""
    given = record.spec["defense"]
    if given is None:
        return "none"
    if given["name"] != "edge_replacement":
        return str(given["name"])
    extra = [f"threshold {given['threshold']:g}"] if given["threshold"] != 28 else []
    extra += [f"{given['width']} pixels wide"] if given["width"] != 1 else []
    return ", ".join([f"edges ({given['operator']}) by {given['fill']}", *extra])


def network(record: Record) -> str:
    """A network's name with the numbers that are not its defaults."""
    return _unusual("model", record.spec["model"])


def _unusual(kind: str, given: dict[str, Any]) -> str:
    usual = registry.reference(kind, given["name"])
    return ", ".join([given["name"], *(f"{key.replace('_', ' ')} {value:g}" for key, value in given.items()
                                       if isinstance(value, int | float) and value != usual.get(key))])


def compared(records: Sequence[Record], key: Callable[[Record], str]) -> Lines:
    """Each attack without a defence: its cost, its success, its visibility."""
    undefended = [r for r in records if r.spec["defense"] is None]
    # LPIPS is in records where AlexNet's weights were at hand.
    seen = [(title, column(name), digits) for title, name, digits in VISIBILITY
            if name != "lpips" or any(r.columns.get(name) is not None for r in undefended)]
    rows = []
    for name, group in grouped(undefended, key).items():
        rows.append([name, successes(group), mean(group, C_ACC, 1), mean(group, DROP, 1), mean(group, ASR, 1),
                     mean(group, IDLE, 1), *(mean(group, value, digits) for _, value, digits in seen),
                     *map(str, INVISIBLE.get(name, ("", "")))])
    return table(["", "Success (seeds)", "C-Acc %", "Drop", "ASR %", "Idle %", *(title for title, *_ in seen),
                  "Paper: PSNR", "SSIM"], rows)


def over_transforms(records: Iterable[Record], value: Value, fold: Fold = statistics.fmean) -> dict[int, float]:
    """The mean, or another figure such as the least, over all transformations, by seed; of seeds that have them all."""
    seeds = grouped(records, lambda r: str(r.spec["seed"]))
    found = {int(seed): [v for r in group if (v := value(r)) is not None] for seed, group in seeds.items()}
    return {seed: fold(values) for seed, values in found.items() if len(values) == len(TRANSFORMS)}


def transformed(records: Sequence[Record], paper: dict[str, tuple[float, ...]]) -> Lines:
    """ASR behind each transformation, the worst case, the mean, and how far Poison Ink's is above it, seed by seed."""
    groups = grouped(records, variant)
    averages = {name: over_transforms(group, ASR) for name, group in groups.items()}
    ink = averages.get("poison_ink", {})
    rows = []
    for name, group in groups.items():
        cells, mine, right = grouped(group, defense), averages[name], over_transforms(group, C_ACC)
        worst = over_transforms(group, ASR, min)
        ahead = {seed: ink[seed] - mine[seed] for seed in mine if seed in ink and name != "poison_ink"}
        theirs = paper.get(name, ())
        rows.append([name, *(mean(cells.get(t, []), ASR, 1) for t in TRANSFORMS),
                     *(mean(cells.get("none", []), _of_seed(values), 1) for values in (worst, mine, ahead, right)),
                     *([f"{min(theirs[:-1]):g}", f"{theirs[-1]:g}"] if theirs else ["", ""])])
    return table(["ASR %", *AXES, "Worst", "Mean", "Poison Ink: mean − it", "C-Acc %, mean", "Paper: worst", "Mean"],
                 rows)


def drawn(study: Study, out: Path, titles: dict[str, str]) -> dict[str, Lines]:
    """Radar charts of the attack success behind transformations (Figures 3 and 4), written beside a page.

    Args:
        titles: of sections, by the specification that they are of.
    """
    found = {}
    for name, title in titles.items():
        cells = {attack: grouped(group, defense) for attack, group in grouped(study.of(name), variant).items()}
        values = {attack: [_centre(behind.get(each, [])) for each in TRANSFORMS] for attack, behind in cells.items()}
        if values:
            file = out.with_suffix("") / f"{name}_radar.svg"
            file.parent.mkdir(exist_ok=True)
            file.write_text(file_of(radar(AXES, values, 100)), encoding="utf-8")
            found[title] = [f"![ASR % behind transformations, means over seeds]({file.parent.name}/{file.name})", ""]
    return found


def _centre(records: Sequence[Record]) -> float | None:
    values = [value for record in records if (value := ASR(record)) is not None]
    return statistics.fmean(values) if values else None


def _of_seed(values: dict[int, float]) -> Value:
    return lambda record: values.get(record.spec["seed"])


def defended(records: Sequence[Record]) -> Lines:
    """The success of attacks behind defences, of those that worked without them."""
    working = {r.planted for r in records if r.spec["defense"] is None and r.status == "done"}
    rows = [[name, str(len(group)), mean(group, C_ACC, 1), mean(group, ASR, 1),
             mean(group, percent(lambda r: r.recovered), 1), *map(str, PREPROCESSED.get(name, ("", "")))]
            for name, group in grouped([r for r in records if r.planted in working], defense).items()]
    return table(["", "Models", "C-Acc %", "ASR %", "R-Acc %", "Paper: C-Acc %", "ASR %"], rows)


def networks(records: Sequence[Record]) -> Lines:
    rows = [[name, successes(group), mean(group, percent(lambda r: (r.clean_means or {}).get("clean")), 1),
             mean(group, C_ACC, 1), mean(group, ASR, 1)] for name, group in grouped(records, network).items()]
    return table(["Network", "Success (seeds)", "Clean model's C-Acc %", "C-Acc %", "ASR %"], rows)


def messages(networks: Networks) -> Lines:
    """How often messages are read, by strength, from what the network gives and from what a file keeps of it."""
    rows = [[f"{strength:g}", *(f"{100 * networks.read_back(strength, rounded):.1f}" for rounded in (False, True))]
            for strength in STRENGTHS]
    return table(["Strength", "Read %, before rounding", "Read %, rounded to 8 bits"], rows)


def page(study: Study, drawing: Lines, radars: dict[str, Lines], before: dict[str, Lines]) -> str:
    """The whole page.

    Args:
        drawing: the section with the figure, if there is one.
        radars: lines that show charts, by the title of their section.
        before: sections of the page as it is, for those that the store has no records of.
    """
    parts: list[tuple[str, str, Lines]] = [
        ("Poison Ink and its faintest rivals", "headline", compared(study.of("headline"), variant)),
        (PLAIN_TITLE, "headline", transformed(study.of("headline"), PLAIN)),
        ("Design (section V-I)", "ablations", compared(study.of("ablations"), variant)),
        ("Design, behind transformations", "ablations", transformed(study.of("ablations"), {})),
        (ENHANCED_TITLE, "table7", transformed(study.of("table7"), ENHANCED)),
        ("Other networks (Table X)", "table10", networks(study.of("table10"))),
        ("Adaptive pre-processing (Tables XII and XIII)", "table12", defended(study.of("table12"))),
        ("Few poisoned samples (Table XIV)", "table14", compared(study.of("table14"), with_rate)),
        ("All attacks on one setup, trained briefly (Tables V and VIII)", "attacks",
         compared(study.of("attacks"), variant)),
        ("Why attacks fail: one thing changed", "explained", compared(study.of("explained"), changed)),
        ("Why attacks fail: a class that is a tenth of the data", "explained_cifar",
         compared(study.of("explained_cifar"), changed)),
        ("Why attacks fail: Sleeper Agent with a surrogate of the victim's architecture", "explained_sleeper",
         compared(study.of("explained_sleeper"), changed)),
        ("Why attacks fail: longer training", "explained_long", compared(study.of("explained_long"), variant)),
        ("Losses (Table XV)", "table15", compared(study.of("table15"), variant)),
        ("Ten inks for ten targets", "multi", compared(study.of("multi"), with_rate)),
        ("A clean network trained further (Figure 7)", "pretrained", compared(study.of("pretrained"), variant)),
        ("A clean network trained further, for as many images as in the paper", "pretrained_long",
         compared(study.of("pretrained_long"), variant)),
        ("CIFAR-10 (Table V)", "cifar10", compared(study.of("cifar10"), with_strength)),
    ]
    introduction = notes(study).get("introduction", [])
    lines = ["# Poison Ink and what it is compared with: measured figures", "", *introduction, *drawing,
             *assembled(study, [(title, name, title, body) for title, name, body in parts], before, radars)]
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, help="where data sets lie, for the figure")
    options = parser.parse_args()
    kept = options.out.with_suffix(".jsonl")
    study = Study(options.runs, Path(__file__).parent, kept)
    before = sections(options.out)
    drawing = before.get(FIGURE, [])
    if options.data_root and study.of("headline"):
        networks, file = Networks.of(study, "headline", options.data_root), options.out.with_suffix("") / "hidden.svg"
        hidden(networks, file)
        drawing = [f"## {FIGURE}", "", f"![{FIGURE}]({file.parent.name}/{file.name})", "",
                   "How often the extractor reads the message that the ink's colour stands for, one of 125, from test "
                   "images that have edges, by the strength of the change:", "", *messages(networks)]
    study.keep(kept)
    radars = drawn(study, options.out, {"headline": PLAIN_TITLE, "table7": ENHANCED_TITLE})
    options.out.write_text(page(study, drawing, radars, before), encoding="utf-8")


if __name__ == "__main__":
    main()
