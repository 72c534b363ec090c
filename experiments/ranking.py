"""The page of the tier "digits": ranks, the leaderboard's entries and the risk matrix, from the records of its grid.

    sidedoor sweep experiments/bench_digits.toml --workers 2 --out runs/digits
    python -m experiments.ranking --out runs/digits --figures docs/results/ranking --entries docs/leaderboard/digits

Prints what docs/results/ranking.md has with remarks: what `sidedoor rank` and `sidedoor risk` say of the folder. With
`--figures`, draws the critical-difference diagram and the matrix; with `--entries`, writes an entry of the leaderboard
for each method that is ranked. The records are kept in docs/results/ranking.jsonl, from which `--restore` puts those
that the folder lacks back into it, so that a sweep goes on where an earlier one stopped though its folder is gone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from experiments.pages import Lines, Study
from sidedoor.apps import risk_text
from sidedoor.apps.leaderboard import entry_of, write
from sidedoor.apps.risk import Matrix, matrix
from sidedoor.apps.risk_page import heat
from sidedoor.bench.record import Record
from sidedoor.bench.spec import read, tier_of
from sidedoor.core.files import write_text
from sidedoor.report import ranking_text
from sidedoor.report.critical import MOST, diagram, file_of
from sidedoor.report.ranking import Ranking, rank

FOLDER = Path(__file__).parent
NAME = "bench_digits"
KEPT = FOLDER.parent / "docs/results/ranking.jsonl"


def page(found: Ranking, risks: Matrix) -> Lines:
    return ["## Ranks", "", "```text", *ranking_text.lines(found), "```", "",
            "## Risk", "", "```text", *risk_text.lines(risks), "```"]


def draw(found: Ranking, risks: Matrix, folder: Path) -> None:
    """The diagram, of the best where there are more than it has room for, and the matrix."""
    if found.difference is not None:
        best = dict(sorted(found.ranked.items(), key=lambda item: item[1])[:MOST])
        write_text(folder / "critical_difference.svg", file_of(diagram(best, found.difference)))
    shown = [row for row in risks.threats if row.shown]
    write_text(folder / "risk.svg", file_of(heat(shown, risks.weights)))


def enter(found: Ranking, records: list[Record], folder: Path) -> None:
    tier = tier_of(read(FOLDER / f"{NAME}.toml"))
    for method in found.ranked:
        entry = replace(entry_of(records, method), tier=tier, authors="sidedoor", verified_by="us")
        write(entry, folder / f"{method}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--entries", type=Path)
    parser.add_argument("--restore", action="store_true")
    given = parser.parse_args()
    study = Study(given.out, FOLDER, KEPT)
    if given.restore:
        study.restore()
        return
    study.keep(KEPT, NAME)
    records = study.of(NAME)
    found, risks = rank(records), matrix(records)
    if given.figures:
        draw(found, risks, given.figures)
    if given.entries:
        enter(found, records, given.entries)
    print("\n".join(page(found, risks)))


if __name__ == "__main__":
    main()
