"""What was found in a data set as files: a page, JSON, SARIF, the ranking of all rows, the names of those to keep."""

from __future__ import annotations

import csv
import importlib.metadata
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidedoor.core.files import write_json, write_text
from sidedoor.core.printable import visible
from sidedoor.report.spreadsheet import FORMULA
from sidedoor.vetting import sarif
from sidedoor.vetting.filter.page import page
from sidedoor.vetting.filter.result import Filtered


def write(found: Filtered, folder: Path, path: str, command: str) -> Path:
    """Write `report.html`, `filter.json`, `filter.sarif`, `ranking.csv` and `keep.txt`; the page.

    Args:
        path: of the data set, as it was given.
        command: that makes it again.
    """
    write_json(folder / "filter.json", found.to_json())
    write_json(folder / "filter.sarif", as_sarif(found, path))
    write_text(folder / "ranking.csv", ranking(found))
    write_text(folder / "keep.txt", "".join(f"{name_of(found, row)}\n" for row in found.keep))
    write_text(folder / "report.html", page(found, command))
    return folder / "report.html"


def name_of(found: Filtered, row: int) -> str:
    """The file of a row, or its number, as one line: what cannot be printed is an escape."""
    return visible(found.rows.files[row].encode("utf-8", "backslashreplace").decode())


def ranking(found: Filtered) -> str:
    """Every row as CSV, the most suspicious first; no text of it begins like a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    ran = [each for each in found.filters if each.scores is not None]
    writer.writerow(["rank", "row", "file", "class", *(each.name for each in ran), "suspicion", "suspected"])
    for rank, row in enumerate(found.rows.ranked.tolist(), start=1):
        scores: Sequence[Any] = [f"{each.scores[row]:.6g}" for each in ran if each.scores is not None]
        name, label = name_of(found, row), visible(found.class_name(int(found.rows.labels[row])))
        writer.writerow([rank, row, _plain(name), _plain(label), *scores, f"{found.rows.suspicion[row]:.4f}",
                         int(found.rows.group[row])])
    return file.getvalue()


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def as_sarif(found: Filtered, path: str) -> dict[str, object]:
    """The log of a run; one that is inconclusive has a result, too, lest an empty list look like a pass."""
    results = [_poison(each.label, found) for each in found.suspected
               if each.confirmed or (found.verdict == "suspicious" and each.rows)]
    rows = {row for pair in found.conflicts.pairs for row in pair}
    for label in sorted({int(found.rows.labels[row]) for row in rows}):
        own = [row for row in sorted(rows) if found.rows.labels[row] == label]
        results.append(sarif.Result("SD-DATA-002", "warning", f"{len(own)} images also stand under other labels, such "
                                    f"as {name_of(found, own[0])}.", found.class_name(label),
                                    {"rows": own, "security-severity": "3.0"}))
    if found.verdict == "inconclusive":
        results.append(sarif.Result("SD-DATA-003", "note", found.sentence, "", {"security-severity": "0.0"}))
    skipped = [f"{each.name}: {each.reason}" for each in found.filters if each.scores is None]
    skipped += [f"class {found.class_name(each.label)}: {each.reason}" for each in found.classes if each.reason]
    skipped += [f"{file}: {reason}" for file, reason in found.quarantined]
    return sarif.log(results, path, importlib.metadata.version("sidedoor"), found.verdict != "inconclusive", skipped)


def _poison(label: int, found: Filtered) -> sarif.Result:
    each = next(one for one in found.suspected if one.label == label)
    name = found.class_name(label)
    message = (f"What {len(each.rows)} rows of class {name} have in common sends {each.rate:.0%} of {each.n} images of "
               f"other classes there, and {each.after:.0%} once a network is trained without them.")
    return sarif.Result("SD-DATA-001", "error" if each.confirmed else "warning", message, name, {
        "rows": list(each.rows), "rate": each.rate, "low": each.low, "after": each.after, "n": each.n,
        "others": each.others, "seed": found.environment.get("seed"),
        "security-severity": "8.0" if each.confirmed else "5.0"})
