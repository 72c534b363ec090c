"""A leaderboard as a page that carries all within itself, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sidedoor.apps.leaderboard import SCHEMA, Cell, Entry, read
from sidedoor.core.printable import visible
from sidedoor.core.templates import template
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.metrics.ranking import Score, Scores, Standing, field, standings
from sidedoor.report import toml
from sidedoor.report.ranking import FEWEST

MACHINE = "leaderboard.json"
"""The name of the file for programs, which lies beside the page."""


@dataclass(frozen=True)
class Line:
    """An entry on its board.

    Args:
        standing: among the entries of its board; None where they have no block in common.
        doubts: why it is grey; empty if it is not.
    """

    entry: Entry
    standing: Standing | None
    doubts: tuple[str, ...]

    @property
    def broken(self) -> str:
        """How many cells are in no mean because the method broke or refused; a failed attack is no fault of it."""
        counts = Counter(cell.status for cell in self.entry.cells if cell.status not in ("done", "attack failed"))
        return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))

    @property
    def numbers(self) -> dict[str, float | None]:
        """What columns sort by, in per cent where they are shares."""
        means, worst = self.entry.means, self.entry.worst_block
        adaptive = max((each.asr for each in self.entry.adaptive), default=None)
        found = {"worst": worst.net[0], "net": means.net[0], "der": means.der[0], "asr": means.asr[0],
                 "clean": means.clean[0], "recovered": means.recovered and means.recovered[0], "adaptive": adaptive}
        shares = {name: None if value is None else 100 * value for name, value in found.items()}
        return shares | {"rank": self.standing and self.standing.rank, "seconds": self.entry.cost.seconds,
                         "samples": self.entry.cost.clean_samples, "seeds": self.entry.seeds}

    def specification(self, cell: Cell) -> str:
        """A cell as a file that `sidedoor run` takes."""
        return toml.dumps(cell.spec)


@dataclass(frozen=True)
class Board:
    """Entries that compare, those with the best worst case first."""

    data: str
    model: str
    tier: str
    lines: tuple[Line, ...]
    blocks: int

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (f"{self.model} on {self.data}", self.tier)))


def collected(folder: Path) -> list[Entry]:
    """The entries below a folder.

    Raises:
        CannotComplete: there is none, or a file that is none.
        ConfigError: a method has two on one board.
    """
    paths = [path for path in sorted(folder.rglob("*.json")) if path.name != MACHINE]
    if not paths:
        raise CannotComplete(f"no entries in {folder}; `sidedoor leaderboard add DIR --method NAME -o FILE` writes one")
    found: dict[tuple[str, ...], Path] = {}
    entries = []
    for path in paths:
        entry = read(path)
        place = (*entry.board, entry.method)
        if place in found:
            raise ConfigError(f"{path} and {found[place]} are both of {entry.method} on one board; delete one")
        found[place] = path
        entries.append(entry)
    return entries


def boards(entries: Sequence[Entry]) -> list[Board]:
    """The boards, by data set, network and tier."""
    grouped: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.board, []).append(entry)
    return [_board(board, of) for board, of in sorted(grouped.items())]


def page(found: Sequence[Board]) -> str:
    """The page: it needs no server and fetches nothing."""
    style = (files("sidedoor.report") / "page.css").read_text(encoding="utf-8")
    lines = [line for board in found for line in board.lines]
    written = template("sidedoor.apps", "leaderboard.html.jinja", number=_number).render(
        boards=found, style=Markup(style), fewest=FEWEST,  # the house's own file
        stages=sorted({line.entry.stage for line in lines}), access=sorted({line.entry.access for line in lines}),
        data=sorted({line.entry.data for line in lines}))
    return written.encode("utf-8", "backslashreplace").decode()


def to_json(found: Sequence[Board]) -> dict[str, Any]:
    """What programs read: the numbers of the page, without cells."""
    return {"schema": SCHEMA, "boards": [
        {"data": board.data, "model": board.model, "tier": board.tier, "blocks": board.blocks, "methods": [
            {"method": line.entry.method, "stage": line.entry.stage, "access": line.entry.access,
             "worst_block": line.entry.worst_block.name, "doubts": list(line.doubts),
             "verified_by": line.entry.verified_by, "standing": line.standing and line.standing._asdict(),
             "specs": list(line.entry.specs), **line.numbers} for line in board.lines]} for board in found]}


def _board(board: tuple[str, str, str], entries: Sequence[Entry]) -> Board:
    given = field(_scores(entries))
    stood = standings(given) if given.tables else {}
    lines = [Line(entry, stood.get(entry.method), tuple(_doubts(entry))) for entry in entries]
    return Board(*board, tuple(sorted(lines, key=lambda line: (-line.entry.worst_block.net[0], line.entry.method))),
                 len(given.blocks))


def _scores(entries: Sequence[Entry]) -> Scores:
    scores: dict[str, dict[str, dict[int, Score]]] = {}
    for entry in entries:
        of = scores.setdefault(entry.method, {})
        for cell in entry.cells:
            if cell.status == "done" and cell.net is not None and cell.asr is not None and cell.clean is not None:
                of.setdefault(cell.block, {})[cell.seed] = Score(cell.net, cell.asr, cell.clean)
    return scores


def _doubts(entry: Entry) -> list[str]:
    few = [f"{entry.seeds} seed{'s' * (entry.seeds != 1)}"] if entry.seeds < FEWEST else []
    return few + ([f"unreliable: {visible(entry.unreliable)}"] if entry.unreliable else [])


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
