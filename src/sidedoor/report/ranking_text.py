"""A ranking for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from sidedoor.core.printable import visible
from sidedoor.report.ranking import BY, Line, Mean, Ranking

REASONS = 2
"""Of a method's cells that a table names; JSON has all."""
HEADINGS = ("rank", "95 %", "P(first)", "method", "stage", "net %", "DER %", "DER with broken", "ASR left %",
            "worst net", "p (Holm)", "blocks", "seeds")


def lines(found: Ranking) -> list[str]:
    """The table, the tests, what is left out, and what the ranking cannot say."""
    least, most = found.field.seeds
    seeds = f"{least}" if least == most else f"{least} to {most}"
    blocks = len(found.field.blocks)
    head = [f"Ranked by {found.by}: {BY[found.by][0]}.",
            f"Over {blocks} block{'s' * (blocks != 1)} (attack, data, network) of {seeds} "
            f"seed{'s' * (most != 1)}; intervals resample blocks, then seeds.", ""]
    rows = [_row(line) for line in found.lines if line.standing]
    test = [] if found.test is None else [
        "", f"All alike? Friedman chi2 {found.test.chi2:.2f}, p = {found.test.chi2_p:.2g}; Iman-Davenport F "
        f"{found.test.f:.2f}, p = {found.test.f_p:.2g}.",
        f"p (Holm): signed ranks of {found.by} over blocks, against {found.baseline} alone."]
    return [visible(line) for line in [*head, *table([HEADINGS, *rows]), *test, *_unranked(found), *_broken(found),
                                       "", *found.limits]]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of plain text, as wide as they need; those that are empty below their heading are left out."""
    kept = [n for n in range(len(rows[0])) if any(row[n] for row in rows[1:])]
    wide = {n: max(len(row[n]) for row in rows) for n in kept}
    return ["  ".join(row[n].ljust(wide[n]) for n in kept).rstrip() for row in rows]


def _row(line: Line) -> list[str]:
    standing = line.standing
    assert standing is not None
    return [f"{standing.rank:.2f}", f"{standing.low:.2f}-{standing.high:.2f}", f"{standing.first:.2f}", line.method,
            line.stage, _mean(line.net), _mean(line.der),
            f"{100 * line.der_all:.1f}" if line.der_all is not None and _broke(line) else "", _mean(line.left),
            f"{100 * line.worst[1]:.1f} {line.worst[0]}" if line.worst else "", _p(line), str(line.blocks),
            str(line.seeds)]


def _mean(value: Mean | None) -> str:
    return "" if value is None else f"{100 * value[0]:.1f} [{100 * value[1]:.1f}, {100 * value[2]:.1f}]"


def _p(line: Line) -> str:
    if line.versus is None:
        return ""
    return "no test" if line.versus.adjusted is None else f"{line.versus.adjusted:.3f}"


def _broke(line: Line) -> int:
    return line.cells["error"] + line.cells["timeout"]


def _unranked(found: Ranking) -> list[str]:
    said = [f"  {line.method} ({line.stage}): {line.unranked}" for line in found.lines if line.standing is None]
    return ["", "Not ranked:", *said] if said else []


def _broken(found: Ranking) -> list[str]:
    """Cells that are in no rank, of methods that have any that is, with their reasons; and tests that were refused."""
    said = []
    for line in found.lines:
        counts = ", ".join(f"{count} {status}" for status, count in line.cells.items() if count and status != "done")
        if counts and line.blocks:
            more = len(line.reasons) - REASONS
            reasons = [*line.reasons[:REASONS], *([f"and {more} more reasons"] if more > 0 else [])]
            said.append(f"  {line.method}: {counts} ({'; '.join(reasons)})")
    refused = dict.fromkeys(line.versus.reason for line in found.lines if line.versus and line.versus.reason)
    return [*(["", "Cells in no rank:", *said] if said else []),
            *(["", *(f"No test against {found.baseline}: {reason}." for reason in refused)] if refused else [])]
