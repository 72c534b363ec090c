"""What an attacker reaches who knows the defence: he tries his own parameters against it, on data of his own.

    python -m experiments.adaptive --out runs/adaptive > TABLE.md

The attacker has the training images of scikit-learn's digits and nothing else. On half of them he plays victim and
defender, judges by the other half, and keeps of `CANDIDATES` the one of which the defence leaves most, among those
that take and cost a victim no more accuracy than the protocol allows. Victims are then trained on the whole data set
poisoned by his choice, on seeds he has never seen, and repaired; beside them stand the attacks that he did not
choose, on the same seeds. Nothing is chosen on test images. Twenty minutes of one core; all of it goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from experiments.defenses import AFTER, before
from experiments.pages import Lines, archive, mean, successes, table
from sidedoor import zoo
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.run import run
from sidedoor.bench.spec import cells
from sidedoor.bench.store import Store

DEFENSES: tuple[dict[str, Any], ...] = ({"name": "awm"}, {"name": "super_fine_tuning"}, {"name": "fine_pruning"})
"""The three best of docs/results/repairs.md."""
USUAL: tuple[dict[str, Any], ...] = ({"name": "badnets", "rate": 0.1}, {"name": "blended", "rate": 0.1},
                                     {"name": "adaptive_blend", "rate": 0.1, "cover_rate": 0.1})
"""Of an attacker who knows nothing; candidates as well, so that searching can gain and nothing be lost by it."""
CANDIDATES: tuple[dict[str, Any], ...] = (
    *USUAL,
    *({"name": "badnets", "rate": rate, "size": size} for rate in (0.02, 0.3) for size in (3, 5)),
    *({"name": "blended", "rate": rate, "ratio": ratio} for rate in (0.02, 0.3) for ratio in (0.1, 0.3)),
    *({"name": "adaptive_blend", "rate": rate, "cover_rate": cover, "ratio": 0.2}
      for rate, cover in ((0.02, 0.02), (0.05, 0.15), (0.2, 0.2), (0.3, 0.1))),
)
SETTINGS: dict[str, Any] = {"model": "small_cnn", "defender_share": 0.15, "recipe": {"epochs": 15}}
SEARCHED = 50
"""The attacker's seed."""
JUDGED = (1, 2, 3)


def attackers_data(file: Path) -> dict[str, Any]:
    """The training images in two halves, one to train on and one to judge by, as an archive."""
    if not file.exists():
        train = zoo.load("digits").train
        rows, others = torch.randperm(len(train), generator=torch.Generator().manual_seed(SEARCHED)).chunk(2)
        archive(file, {"train": (train, rows), "test": (train, others)})
    return {"name": "npz", "path": str(file.resolve())}


def cell(out: Path, data: Any, attack: dict[str, Any], defense: dict[str, Any], seed: int) -> Record:
    spec, = cells({**SETTINGS, "data": data, "attack": attack, "defense": defense, "seed": seed})
    record = run(spec, Store(out / "store"), Machine())
    print(defense["name"], attack, seed, record.status, record.attack, file=sys.stderr)
    return record


def search(out: Path) -> dict[str, dict[str, Any]]:
    """The attacker's choice against each defence."""
    data = attackers_data(out / "attacker.npz")
    chosen = {}
    for defense in DEFENSES:
        found = {k: cell(out, data, attack, defense, SEARCHED) for k, attack in enumerate(CANDIDATES)}
        took = {k: record.attack or 0.0 for k, record in found.items() if record.status == "done"}
        chosen[defense["name"]] = CANDIDATES[max(took, key=lambda k: took[k])]
    return chosen


def judge(out: Path, chosen: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[Record]]]:
    """Records by defence and attack, over seeds; the attacker's choice as "chosen"."""
    usual = {attack["name"]: attack for attack in USUAL}
    return {defense["name"]: {label: [cell(out, "digits", attack, defense, seed) for seed in JUDGED]
                              for label, attack in ({"chosen": chosen[defense["name"]]} | usual).items()}
            for defense in DEFENSES}


def page(out: Path) -> Lines:
    """The table as Markdown."""
    chosen = search(out)
    rows = []
    for defense, found in judge(out, chosen).items():
        told = ", ".join(f"{name} {value}" for name, value in chosen[defense].items() if name != "name")
        for label, of in found.items():
            name = f"**{chosen[defense]['name']}, {told}**" if label == "chosen" else label
            done = [record for record in of if record.status == "done"]
            rows.append([f"`{defense}`", name, successes(of), mean(done, before("attack"), 1),
                         *(mean(done, value, digits) for _, value, digits in AFTER)])
    return table(["defence", "attack (**chosen by who knows the defence**)", "took", "ASR % before",
                  *(heading for heading, _, _ in AFTER)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/adaptive"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    print("\n".join(page(out)))


if __name__ == "__main__":
    main()
