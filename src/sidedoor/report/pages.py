"""The report of a folder of results: one page, or of many runs a page of tables and one more for each model.

Where models have pages, each is made once and kept while what it was made from stays the same, and so is the page of
tables, so that a report of thousands of runs costs as much as the runs that came since the last one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from importlib.resources import files
from pathlib import Path

import sidedoor
from sidedoor.bench.store import Store
from sidedoor.core import opening
from sidedoor.core.files import abandoned, write_text
from sidedoor.report import html, tables
from sidedoor.report.html import Model
from sidedoor.report.tables import Row

ONE_PAGE = 60
"""The most runs of a report that is one self-contained page."""
_HEAD, _LIMIT = 2048, 2**30
_MARK = re.compile(rb'<meta name="sidedoor-made-from" content="([0-9a-f]{64})">')


def write(store: Store, path: Path) -> None:
    """Write the report of a store; of more than `ONE_PAGE` runs the details of each model go into files beside it.

    Their folder is named as browsers name that of a page they save: `report_files` beside `report.html`.

    Raises:
        CannotComplete: there is nothing to report, or a file cannot be written.
    """
    store, folder = store.lenient(), path.with_name(f"{path.stem}_files")
    found = _files(store)  # before anything of them is read
    if _mark(path) == _whole(found, folder):
        return
    rows = tables.summary_rows(html.chosen(store))
    models, made_from = html.by_model(rows), ""
    if len(rows) <= ONE_PAGE:
        shown = [html.detailed(store, key, members) for key, members in models.items()]
    else:
        for key, members in models.items():
            _renew(store, key, members, folder / f"{key}.html", f"../{path.name}")
        shown = [Model(html.lead(members), tuple(members), page=f"{folder.name}/{key}.html")
                 for key, members in models.items()]
    # Pages of models that are gone, and of all where one page now says everything.
    _remove(folder, models if len(rows) > ONE_PAGE else {})
    if len(rows) > ONE_PAGE and not store.left_out:  # what is damaged is named each time
        made_from = _whole(found, folder)
    write_text(path, html.render(store, rows, shown, made_from=made_from))


def _files(store: Store) -> str:
    """A hash of all that a report is made from: files by time and size, and this code."""
    names = [f"results/{file.name}" for file in (store.root / "results").glob("*.json")]
    names += [f"artefacts/{each.name}/{file}" for each in (store.root / "artefacts").glob("*")
              for file in ("arrays.npz", "history.json")]
    return _hash([_code(), ONE_PAGE, [(name, _time_and_size(store.root / name)) for name in sorted(names)]])


def _whole(found: str, folder: Path) -> str:
    """What the page of tables is made from, and the pages that it leads to, which somebody may have removed."""
    return _hash([found, [(page.name, _time_and_size(page)) for page in sorted(folder.glob("*.html"))]])


def _hash(found: object) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _renew(store: Store, key: str, rows: Sequence[Row], page: Path, back: str) -> None:
    """Write the page of a model unless it is there as it would be written."""
    made_from = _state(store, key, rows, back)
    if _mark(page) == made_from:
        return
    damaged = list(store.left_out or ())
    model = html.detailed(store, key, rows)
    # A page of damaged files is made anew each time, so that the report names them each time.
    write_text(page, html.render(store, rows, [model], back, made_from if damaged == store.left_out else ""))


def _state(store: Store, key: str, rows: Sequence[Row], back: str) -> str:
    """A hash of all that the page of a model is made from: labels, files by time and size, and this code."""
    names = [f"results/{row.record.key}.json" for row in rows]
    names += [f"artefacts/{each}/{file}" for each in (key, *(row.record.key for row in rows))
              for file in ("arrays.npz", "history.json")]
    found = [_code(), back, [(*astuple(row.label), row.model) for row in rows],
             [(name, _time_and_size(store.root / name)) for name in names]]
    return _hash(found)


def _time_and_size(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, -1
    return found.st_mtime_ns, found.st_size


@functools.cache
def _code() -> str:
    """The version of the package and a hash of what pages are made with."""
    made_with = sorted(file.name for file in files("sidedoor.report").iterdir() if file.is_file())
    content = b"".join((files("sidedoor.report") / name).read_bytes() for name in made_with)
    return f"{sidedoor.__version__} {hashlib.sha256(content).hexdigest()}"


def _mark(page: Path) -> str:
    """What a page of a model was made from; empty if it is none, or of damaged files."""
    try:
        with opening.opened(page, _LIMIT) as file:
            found = _MARK.search(file.read(_HEAD))
    except OSError:
        return ""
    return found[1].decode() if found else ""


def _remove(folder: Path, models: Mapping[str, object]) -> None:
    """Delete pages of models that are not among some, and what was being written when a process died."""
    gone = [page for page in folder.glob("*.html") if page.stem not in models and _mark(page)]
    for file in (*gone, *abandoned(folder)):
        file.unlink(missing_ok=True)
