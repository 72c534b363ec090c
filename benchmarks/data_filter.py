"""How often `sidedoor filter` accuses clean data, and what it finds of poisoned data, as a Markdown table.

Each set is drawn anew by its seed: so many rows of the data, of all classes or, for an odd seed, of all but two to four
of them; the target class goes with the seed, too. `python benchmarks/data_filter.py digits --clean 20 --poisoned 10`
takes about ten seconds of a core a set. --data-root has the data that do not come with the package.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import sidedoor as sd
from sidedoor import registry, zoo
from sidedoor.backdoor.base import AttackerRun
from sidedoor.data.base import ArrayDataset
from sidedoor.metrics.statistics import wilson

ATTACKS: dict[str, dict[str, Any]] = {
    "badnets 10 %": {"name": "badnets", "rate": 0.1}, "badnets 5 %": {"name": "badnets", "rate": 0.05},
    "badnets 1 %": {"name": "badnets", "rate": 0.01}, "blended 10 %": {"name": "blended", "rate": 0.1},
}


class Line(NamedTuple):
    """What was said of one set."""

    kind: str
    verdict: str
    right: bool
    recall: float
    precision: float
    seconds: float
    strongest: float


def drawn(data: sd.Dataset, rows: int, seed: int) -> sd.Dataset:
    """So many rows of a data set; of an odd seed two to four classes are left out."""
    rng = torch.Generator().manual_seed(seed)
    left_out = torch.randperm(len(data.classes), generator=rng)[: (seed % 2) * (2 + seed // 2 % 3)]
    kept = torch.nonzero(~torch.isin(data.targets, left_out))[:, 0]
    kept = kept[torch.randperm(len(kept), generator=rng)[:rows]]
    names = torch.unique(data.targets[kept])
    return ArrayDataset(data.rows(kept), torch.searchsorted(names, data.targets[kept]), len(names), "drawn")


def poisoned(data: sd.Dataset, attack: dict[str, Any], seed: int) -> tuple[sd.Dataset, torch.Tensor]:
    """The data with poison, and which rows that are."""
    goal = {"name": "all_to_one", "target_class": seed % len(data.classes)}
    task, run = sd.Classification(len(data.classes)), AttackerRun.of(sd.Run.local(seed=seed))
    backdoor = registry.make("attack", attack | {"goal": goal}).plan(data, task, sd.network("small_cnn", data), run)
    given = sd.PoisonedDataset(data, backdoor, task)
    return given, given.is_poisoned() > 0


def line(data: sd.Dataset, kind: str, seed: int, network: dict[str, Any]) -> Line:
    marked = torch.zeros(len(data), dtype=torch.bool)
    if kind != "clean":
        data, marked = poisoned(data, ATTACKS[kind], seed)
    start = time.monotonic()
    found = sd.filter_data(data, architecture=network, settings=sd.FilterSettings(seed=seed))
    for each in found.suspected:
        print(kind, seed, replace(each, rows=each.rows[:5]), len(each.rows), each.confirmed, file=sys.stderr)
    confirmed = [each.label for each in found.suspected if each.confirmed]
    target = seed % len(data.classes)
    hit = float((found.rows.group & marked).sum())
    right = confirmed == ([] if kind == "clean" else [target])
    strongest = max((rate for each in found.classes for kind_, rate in each.rates.items()
                     if kind_ != "blend" and (kind == "clean" or each.label != target)), default=0.0)
    return Line(kind, found.verdict, right, hit / max(1, int(marked.sum())), hit / max(1, int(found.rows.group.sum())),
                time.monotonic() - start, strongest)


def table(lines: list[Line]) -> Iterator[str]:
    yield "| data | sets | finding | suspicious | no finding | recall | precision | strongest elsewhere | seconds |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for kind in dict.fromkeys(each.kind for each in lines):
        own = [each for each in lines if each.kind == kind]
        n, said = len(own), [each.verdict for each in own]
        findings = said.count("finding")
        low, high = wilson(findings, n)
        recall, precision = (sum(getattr(each, name) for each in own if each.verdict == "finding") / max(1, findings)
                             for name in ("recall", "precision"))
        shares = "– | –" if kind == "clean" else f"{recall:.2f} | {precision:.2f}"
        yield (f"| {kind} | {n} | {findings} [{low:.0%}, {high:.0%}] | {said.count('suspicious')} | "
               f"{said.count('no finding')} | {shares} | {max(each.strongest for each in own):.0%} | "
               f"{sum(each.seconds for each in own) / n:.0f} |")
    wrong = sum(each.verdict == "finding" and not each.right for each in lines)
    yield f"\n{wrong} findings name a class that is not poisoned. Recall and precision: of removed rows, where found."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--data-root")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--clean", type=int, default=20)
    parser.add_argument("--poisoned", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--lines", type=Path, help="a file that gets what was measured, one set a line; sets that it "
                        "has are not measured again")
    given = parser.parse_args()
    torch.set_num_threads(1)
    splits = zoo.load(given.data, given.data_root)
    whole = ArrayDataset(torch.cat([part.rows(torch.arange(len(part))) for part in splits]),
                         torch.cat([part.targets for part in splits]), splits.train.classes, given.data)
    known = {}
    if given.lines and given.lines.exists():
        kept = map(json.loads, given.lines.read_text().splitlines())
        known = {(seed, values[0]): Line(*values) for seed, values in kept}
    for seed in range(given.first, given.first + max(given.clean, given.poisoned)):
        kinds = ["clean"] * (seed < given.first + given.clean) + list(ATTACKS) * (seed < given.first + given.poisoned)
        for kind in kinds:
            if (seed, kind) not in known:
                one = line(drawn(whole, given.rows, seed), kind, seed, {"name": "small_cnn", "width": given.width})
                known[seed, kind] = one
                if given.lines:
                    with given.lines.open("a") as file:
                        file.write(json.dumps([seed, one]) + "\n")
    lines = [known[key] for key in sorted(known)]
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
