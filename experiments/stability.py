"""How much what a defence does hangs on its settings, from a sweep that halves and doubles them one at a time.

    sidedoor sweep experiments/stability.toml --workers 1 --out runs/stability
    python -m experiments.stability --out runs/stability

Prints one line a defence once all cells are there: the mean absolute change of clean accuracy and attack success, over
settings and attacks, beside the first cell of the defence in the file, as the "mean absolute difference" of a review of
evaluations does (arXiv:2511.13143), and the setting that does worst by `net`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from experiments.defenses import named
from experiments.pages import Lines, Study, grouped, table
from experiments.repairs import net_of
from sidedoor.bench.record import Record


def changed(record: Record, beside: Record) -> str:
    """The settings of a cell that differ."""
    own, other = record.spec["defense"], beside.spec["defense"]
    return ", ".join(f"{name} {value:g}" for name, value in own.items() if value != other[name])


def line(name: str, found: Sequence[Record]) -> list[str]:
    by_attack = grouped([r for r in found if r.status == "done"], lambda record: named(record, "attack")).values()
    pairs = [(of[0], record) for of in by_attack for record in of[1:]]
    change = {value: 100 * fmean(abs((getattr(record, value) or 0.0) - (getattr(first, value) or 0.0))
                                 for first, record in pairs) for value in ("clean", "attack")}
    first, worst = min(pairs, key=lambda pair: net_of(pair[1]))
    return [f"`{name}`", str(len(pairs)), f"{change['clean']:.1f}", f"{change['attack']:.1f}",
            f"{100 * fmean(net_of(of[0]) for of in by_attack):.1f}",
            f"{100 * net_of(worst):.1f}: {changed(worst, first)}, {named(worst, 'attack')}"]


def page(found: Sequence[Record]) -> Lines:
    rows = [line(name, of) for name, of in grouped(found, lambda record: named(record, "defense")).items()]
    return table(["defence", "variants", "mean change of C-Acc, points", "of ASR, points", "net % of the defaults",
                  "worst net %, and where"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/stability"))
    print("\n".join(page(Study(parser.parse_args().out, Path(__file__).parent).whole("stability"))))


if __name__ == "__main__":
    main()
