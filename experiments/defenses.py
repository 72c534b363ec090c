"""The page of what filters, input detectors and purifiers do, from the stores of four studies.

    sidedoor sweep experiments/defenses.toml --workers 1 --out runs/defenses
    sidedoor sweep experiments/defenses_rare.toml --workers 1 --out runs/defenses
    sidedoor sweep experiments/defenses_long.toml --workers 1 --out runs/defenses
    sidedoor sweep experiments/defenses_fashion.toml --workers 1 --out runs/fashion --data-root DIR
    sidedoor sweep experiments/defenses_common.toml --workers 1 --out runs/common --data-root DIR
    sidedoor sweep experiments/defenses_poison_ink.toml --workers 1 --out runs/common --data-root DIR
    sidedoor sweep experiments/defenses_issba.toml --workers 1 --out runs/physical --data-root DIR
    python -m experiments.defenses > TABLES.md

    python -m experiments.defenses --common runs/common --data-root DIR --figure docs/results/defenses/grad_cam.svg

Prints the tables, which docs/results/defenses.md has with remarks; with `--figure`, draws where the model with Poison
Ink and its clean sibling look instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from experiments.pages import Lines, Value, grouped, mean, shown, stored, table
from sidedoor import registry
from sidedoor.algorithms.features.cut import cut
from sidedoor.algorithms.saliency.grad_cam import grad_cam
from sidedoor.bench.case import load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.spec import grid, read
from sidedoor.bench.store import Store
from sidedoor.evidence import Calibrated
from sidedoor.triggers.base import stamp

FOLDER = Path(__file__).parent
IMAGES = 8
Column = tuple[str, Value, int]


def separated(name: str) -> Value:
    return lambda record: getattr(record.separation, name) if record.separation else None


def percent(of: Value) -> Value:
    def value(record: Record) -> float | None:
        found = of(record)
        return None if found is None else 100 * found
    return value


def seconds(record: Record) -> float | None:
    return record.timing.get("defense")


AFTER: tuple[Column, ...] = (("C-Acc %", percent(lambda r: r.clean), 1), ("ASR %", percent(lambda r: r.attack), 1),
                             ("R-Acc %", percent(lambda r: r.recovered), 1))
COLUMNS: dict[str, tuple[Column, ...]] = {
    "filter": (("AUROC", separated("auroc"), 2), ("poisoned rows removed %", percent(separated("removed_poisoned")), 0),
               *AFTER, ("s", seconds, 0)),
    "input_detector": (("AUROC", separated("auroc"), 2), ("TPR % at 1 % FPR", percent(separated("tpr_at_1")), 0),
                       ("at 5 %", percent(separated("tpr_at_5")), 0),
                       ("FPR % realised at 5 %", percent(separated("fpr_at_5")), 1), ("s", seconds, 0)),
    "purifier": (*AFTER, ("s", seconds, 0)),
    "repair": (*AFTER, ("s", seconds, 0)),
}


def named(record: Record, part: str) -> str:
    value = record.spec.get(part)
    return str(value["name"]) if isinstance(value, dict) else ""


def stages(found: Sequence[Record]) -> dict[str, list[Record]]:
    """By the stage of their defence, in the order of the specification."""
    of = {name: str(registry.load("defense", name).stage) for name in {named(r, "defense") for r in found} - {""}}
    return grouped([r for r in found if named(r, "defense")], lambda record: of[named(record, "defense")])


def cells_of(found: Sequence[Record], columns: Sequence[Column]) -> list[str]:
    """Means of the columns over the seeds; why there are none."""
    done = [record for record in found if record.status == "done"]
    if not done:
        words = "attack failed" if found and found[0].status == "failed" else (found[0].status if found else "not run")
        return [words, *[""] * (len(columns) - 1)]
    return [mean(done, value, digits) for _, value, digits in columns]


def stage_table(stage: str, found: Sequence[Record], attacks: Sequence[str]) -> Lines:
    columns = COLUMNS[stage]
    headings = ["defence", *(f"{attack}: {name}" for attack in attacks for name, _, _ in columns)]
    rows = [[f"`{name}`", *(cell for attack in attacks
                            for cell in cells_of([r for r in of if named(r, "attack") == attack], columns))]
            for name, of in grouped(found, lambda record: named(record, "defense")).items()]
    return [f"### {stage.capitalize().replace('_', ' ')}s", "", *table(headings, rows)]


def audit_table(found: Sequence[Record], attacks: Sequence[str]) -> Lines:
    """Scores of the attacked model, the clean models' range, and the paper's rule on both."""
    rows = []
    for name, of in grouped(found, lambda record: named(record, "defense")).items():
        row = [f"`{name}`"]
        for attack in attacks:
            some = [r for r in of if named(r, "attack") == attack]
            audited = [e for r in some for e in r.evidence if isinstance(e, Calibrated)]
            row += _audited(audited[0]) if audited else [some[0].status if some else "not run", "", "", ""]
        rows.append(row)
    names = ("score", "clean models", "paper's rule", "first suspect")
    return ["### Audits", "", *table(["audit", *(f"{attack}: {name}" for attack in attacks for name in names)], rows)]


def _audited(found: Calibrated) -> list[str]:
    paper = found.finding.paper
    rule = f"{paper.value:.2f}, {'flags' if paper.flagged else 'passes'}" if paper else "none"
    first = str(found.finding.suspected[0]) if found.finding.suspected else ""
    return [f"{found.finding.score:.2f}", ", ".join(f"{score:.2f}" for score in sorted(found.references)), rule, first]


def before_table(found: Sequence[Record]) -> Lines:
    """Attacks without a defence; each of a seed once."""
    rows = []
    for attack, of in grouped([r for r in found if r.undefended], lambda record: named(record, "attack")).items():
        models = list({record.planted: record for record in of}.values())
        rows.append([attack, *(mean(models, before(name), 1) for name in ("clean", "attack", "recovered")),
                     str(len(models))])
    return table(["attack, undefended", "C-Acc %", "ASR %", "R-Acc %", "models"], rows)


def page(found: Sequence[Record]) -> Lines:
    attacks = list(dict.fromkeys(named(record, "attack") for record in found))
    lines = before_table(found)
    for stage, of in stages(found).items():
        lines += audit_table(of, attacks) if stage == "audit" else stage_table(stage, of, attacks)
    return lines


def before(name: str) -> Callable[[Record], float | None]:
    return percent(lambda record: (record.undefended or {}).get(name))


def looked_at(out: Path, root: Path, file: Path) -> None:
    """Grad-CAM of the attacked model and of its clean sibling, for what each says of images with and without ink."""
    spec = next(cell for cell in grid(read(FOLDER / "defenses_poison_ink.toml"))
                if cell.attack_name == "poison_ink").attack_half()
    store, machine = Store(out), Machine(root, device="cpu")
    case = load(spec, store, machine)
    attacked, clean = train_or_load(case), train_or_load(load(spec.clean_models()[0], store, machine))
    door = attacked.doors[0]
    rows = torch.nonzero(case.test.targets != 0)[:IMAGES, 0]
    x, _, index = case.test.fetch(rows)
    with torch.no_grad():
        inked = stamp(door.trigger, x, index, case.test.space)
    shown({"image": x.numpy(), "with ink": inked.numpy(),
           **{f"{name} model, {what}": heat(trained.model, given) for name, trained in
              (("clean", clean), ("attacked", attacked)) for what, given in (("image", x), ("with ink", inked))}}, file)


def heat(model: nn.Module, x: Tensor) -> np.ndarray:
    """(b, 1, h, w) for the class that a model gives."""
    network = cut(model.eval(), (x.shape[1], x.shape[2], x.shape[3]))
    return grad_cam(network, x, model(x).argmax(1))[:, None].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, default=Path("runs/defenses"))
    parser.add_argument("--fashion", type=Path, default=Path("runs/fashion"))
    parser.add_argument("--common", type=Path, default=Path("runs/common"))
    parser.add_argument("--physical", type=Path, default=Path("runs/physical"))
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    if given.figure:
        looked_at(given.common, given.data_root, given.figure)
        return
    for title, name, out in (("Digits", "defenses", given.digits),
                             ("Digits, rare poison", "defenses_rare", given.digits),
                             ("Digits, four times the budget", "defenses_long", given.digits),
                             ("Fashion-MNIST", "defenses_fashion", given.fashion),
                             ("CIFAR-10, the common victims", "defenses_common", given.common),
                             ("Poison Ink", "defenses_poison_ink", given.common),
                             ("ISSBA", "defenses_issba", given.physical)):
        found = stored(out, FOLDER, name)
        if found:
            print("\n".join([f"## {title}", "", *page(found)]))


if __name__ == "__main__":
    main()
