"""Pages of results from a store: its records by specification, tables, and remarks about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from sidedoor.bench.record import Record
from sidedoor.bench.spec import cells, grid, read
from sidedoor.bench.store import Store
from sidedoor.core.files import write_text
from sidedoor.data.base import Dataset
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.metrics.statistics import t_interval
from sidedoor.report.tables import FEWEST

Value = Callable[[Record], float | None]
Lines = list[str]
Part = tuple[str, str, str, Lines]
"""A section: its title, the specification that it is of, what its remark is called in the notes, and its tables."""


class Study:
    """Records of a store and of earlier ones, by the specification that asked for them.

    Args:
        runs: the folder given to `sidedoor sweep --out`.
        specifications: the folder of the specifications, which also has `notes.md`: remarks about the figures, by
            headings.
        kept: a file of records, one per line, as `keep` writes it: of cells that other stores have run. Where both
            have a cell, the store's record counts. For pages that need nothing but records.
    """

    def __init__(self, runs: Path, specifications: Path, kept: Path | None = None):
        self.store, self.specifications, self.accumulates = Store(runs), specifications, kept is not None
        lines = kept.read_text(encoding="utf-8").splitlines() if kept and kept.is_file() else []
        self.earlier = [Record.from_json(json.loads(line)) for line in lines]
        here = self.store.records() if (runs / "results").is_dir() or not lines else []
        finished = [current(record) for record in (*self.earlier, *here) if record.scored]
        self.found = {written(record.spec): record for record in finished if record}

    def keep(self, file: Path, *names: str) -> None:
        """Write the records that the specifications ask for, these or all, so that a page never needs a cell to be run
        twice.
        """
        names = names or tuple(file.stem for file in self.specifications.glob("*.toml"))
        asked = {record.key: record for name in names for record in self.of(name)}
        write_text(file, "".join(f"{json.dumps(asked[key].to_json())}\n" for key in sorted(asked)))

    def restore(self) -> None:
        """Put the records that were kept into the store where it lacks them, so that a sweep goes on from them."""
        for record in self.earlier:
            if self.store.record(record.key) is None:
                self.store.put(record)

    def of(self, name: str) -> list[Record]:
        """Finished cells of NAME.toml, in its order."""
        return [self.found[text] for spec in self.wanted(name) if (text := written(spec)) in self.found]

    def whole(self, name: str) -> list[Record]:
        """The cells of NAME.toml if all of them are finished, else none."""
        found = self.of(name)
        return found if len(found) == len(self.wanted(name)) else []

    def wanted(self, name: str) -> list[dict[str, Any]]:
        """The cells of NAME.toml whose methods suit each other."""
        table = read(self.specifications / f"{name}.toml")
        found = grid(table) if "grid" in table else cells(table)
        return [spec.to_json() for spec in found if not spec.refusal()]


def current(record: Record) -> Record | None:
    """A record with its specification as it is written now; None if a store would run its cell again."""
    given = {name: value for name, value in record.spec.items() if value is not None}
    with suppress(ConfigError, CannotComplete):  # of methods or weights that are no longer there
        spec = cells(given)[0]
        return replace(record, spec=spec.to_json()) if spec.key(record.data) == record.key else None
    return None


def written(spec: dict[str, Any]) -> str:
    """As text that is equal where the specifications are."""
    return json.dumps(json.loads(json.dumps(spec)), sort_keys=True)


@contextmanager
def canvas(file: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    """Axes of a figure (rows, columns) of a size in inches, written to an SVG file that the data alone decide."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"font.size": 7.0, "axes.spines.top": False, "axes.spines.right": False,
                                "legend.frameon": False, "svg.hashsalt": file.name}):
        figure = Figure(size, layout="constrained")
        yield figure.subplots(rows, columns, squeeze=False)
        figure.savefig(file, metadata={"Date": None})


def shown(rows: Mapping[str, np.ndarray], file: Path) -> None:
    """Rows of images (b, c, h, w) in [0, 1], each with its title."""
    count = max(len(images) for images in rows.values())
    with canvas(file, len(rows), count, (1.4 + 0.8 * count, 0.85 * len(rows))) as axes:
        for line, (title, images) in zip(axes, rows.items(), strict=True):
            for k, (place, image) in enumerate(zip(line, images, strict=True)):
                place.imshow(np.clip(image, 0, 1).transpose(1, 2, 0).repeat(3 // image.shape[0], 2),
                             interpolation="nearest")
                place.set(xticks=[], yticks=[])
                place.set_ylabel("" if k else title, rotation=0, ha="right", va="center")
                for spine in place.spines.values():
                    spine.set_visible(False)


def archive(file: Path, parts: Mapping[str, tuple[Dataset, Tensor]]) -> None:
    """Rows of data sets by the part that they become, as a file for `npz`."""
    arrays: dict[str, Any] = {}
    for part, (data, rows) in parts.items():
        arrays[f"{part}_images"] = data.rows(rows).numpy().transpose(0, 2, 3, 1)
        arrays[f"{part}_labels"] = data.targets[rows].numpy()
    np.savez(file, **arrays)


def stored(out: Path, specifications: Path, name: str) -> list[Record]:
    """Finished cells of NAME.toml in a store; none where the folder has no results yet."""
    return Study(out, specifications).of(name) if any((out / "results").glob("*")) else []


def drop(record: Record) -> float | None:
    """The cost of the backdoor on clean inputs, beside the clean sibling."""
    clean = (record.clean_means or {}).get("clean")
    return None if clean is None or record.clean is None else clean - record.clean


def auroc(record: Record) -> float | None:
    """Of a filter or detector."""
    return record.separation.auroc if record.separation else None


def grouped(records: Iterable[Record], key: Callable[[Record], str]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def mean(records: Iterable[Record], value: Value, digits: int = 3) -> str:
    """Mean over seeds ± half the 95 % interval; of two seeds, which are too few for one, with their range."""
    values = [v for record in records if (v := value(record)) is not None]
    if not values:
        return ""
    middle, low, _ = t_interval(values)
    written = f"{middle:z.{digits}f}"
    if low is None:
        return written
    if len(values) < FEWEST:
        return f"{written} [{min(values):z.{digits}f}, {max(values):z.{digits}f}]"
    return f"{written} ± {middle - low:.{digits}f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    return [f"| {' | '.join(row)} |" for row in [list(headings), ["---"] * len(headings), *rows]] + [""]


def successes(records: Sequence[Record]) -> str:
    """The number of seeds that the protocol calls a success, of how many."""
    return f"{sum(record.status == 'done' for record in records)} of {len(records)}"


def notes(study: Study) -> dict[str, Lines]:
    """Remarks about the figures: notes.md, by headings."""
    found = _by_heading(study.specifications / "notes.md", "# ")
    return {name: ["\n".join(lines).strip(), ""] for name, lines in found.items()}


def sections(page: Path) -> dict[str, Lines]:
    """The sections of a page, with their headings; none where there is no page yet."""
    found = _by_heading(page, "## ") if page.is_file() else {}
    # The page ends without the empty line that its last section has anywhere else.
    return {title: ["\n".join([f"## {title}", *lines]).rstrip("\n"), ""] for title, lines in found.items()}


def _by_heading(file: Path, mark: str) -> dict[str, Lines]:
    parts: dict[str, Lines] = {}
    current: Lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(mark):
            current = parts.setdefault(line.removeprefix(mark), [])
        else:
            current.append(line)
    return parts


def assembled(study: Study, parts: Iterable[Part], before: dict[str, Lines], drawn: dict[str, Lines]) -> Lines:
    """The sections of a page.

    One whose cells have not all been run stays as it is in the page, if the page has it and keeps no records: other
    stores may have run more of it.

    Args:
        before: sections of the page as it is.
        drawn: lines that show figures, by the name of the remark that they stand before.
    """
    remarks, lines = notes(study), []
    for title, name, remark, body in parts:
        if len(body) > 3 and (study.accumulates or study.whole(name) or title not in before):
            lines += [f"## {title}", "", *command(study, name), *body, *drawn.get(remark, []), *remarks.get(remark, [])]
        else:
            lines += before.get(title, [])
    return lines


def command(study: Study, name: str) -> Lines:
    """The command that runs a specification."""
    folder = study.specifications.name
    return [f"`sidedoor sweep experiments/{folder}/{name}.toml --workers 2 --out runs/{folder} --data-root DIR`", ""]
