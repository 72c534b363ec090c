"""An HTML page of runs: tables, figures and how to repeat each run, readable offline, on paper and in the dark."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from sidedoor.bench.record import Record
from sidedoor.core.printable import visible
from sidedoor.core.templates import template
from sidedoor.core.terms import Terms
from sidedoor.errors import CannotComplete
from sidedoor.evidence import Calibrated, Exhibit, Finding, Localisation, Separation
from sidedoor.image import outlines
from sidedoor.report import figures, images, overview, series, spreadsheet, tables, toml
from sidedoor.report.tables import Row
from sidedoor.report.terms import terms_of

if TYPE_CHECKING:
    from sidedoor.bench.store import Store

Arrays = dict[str, npt.NDArray[Any]]
History = dict[str, list[dict[str, float | None]]]
GRID_IMAGES = 10
AXES = {"picture": 3, "mask": 2, "curve": 1}
"""Of the array of an exhibit."""
CLASS_ROWS = 50
"""Tables by class show so many, those of the lowest clean accuracy."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption, which also stands for it where it cannot be seen."""

    svg: Markup
    caption: str

    def __html__(self) -> str:
        return self.svg.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(self.caption), 1)


@dataclass(frozen=True)
class Picture:
    """An image as a data URI."""

    uri: str
    title: str


@dataclass(frozen=True)
class Column:
    """A test image in the grid, one picture per row."""

    title: str
    pictures: tuple[Picture, ...]
    rows: tuple[str, ...] = ("clean", "stamped", "residual")


@dataclass(frozen=True)
class ClassRow:
    """A class: its samples and, for each system, accuracy and attack success (None where nothing is eligible)."""

    name: str
    count: int
    cells: tuple[tuple[float | None, float | None], ...]


@dataclass(frozen=True)
class PerClass:
    """Classes by systems."""

    systems: tuple[str, ...]
    rows: tuple[ClassRow, ...]
    classes: int

    @property
    def csv(self) -> str:
        columns = [f"{system}: {name}" for system in self.systems for name in ("clean", "attack")]
        return spreadsheet.uri(["class", "images", *columns],
                               [[row.name, row.count, *itertools.chain(*row.cells)] for row in self.rows])


@dataclass(frozen=True)
class Removed:
    """Shares of the rows of one label that a filter removes; None where there are no such rows."""

    name: str
    poisoned: float | None
    clean: float | None


@dataclass(frozen=True)
class Run:
    """The details of one record beyond its row."""

    row: Row
    training: Figure | None
    drawings: tuple[Figure, ...]
    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]
    toml: str


@dataclass(frozen=True)
class Model:
    """A trained model and all runs on it; `lead` is the run without a defence, or else the first.

    Args:
        page: where its details are, if they are on a page of their own.
    """

    lead: Row
    rows: tuple[Row, ...]
    grid: tuple[Column, ...] = ()
    strip: tuple[Column, ...] = ()
    per_class: PerClass | None = None
    drawings: tuple[Figure, ...] = ()
    runs: tuple[Run, ...] = ()
    page: str = ""


def build(store: Store, keys: list[str] | None = None) -> str:
    """The page of a store.

    Args:
        keys: of the records to show; None for all.

    What is damaged is left out, and named on the page.

    Raises:
        CannotComplete: there is nothing to report, or a key is unknown.
    """
    store = store.lenient()
    rows = tables.summary_rows(chosen(store, keys))
    return render(store, rows, [detailed(store, key, members) for key, members in by_model(rows).items()])


def by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each trained model, by its key."""
    models: dict[str, list[Row]] = {}
    for row in rows:
        models.setdefault(row.model, []).append(row)
    return models


def render(store: Store, rows: Sequence[Row], models: Sequence[Model], back: str = "", made_from: str = "") -> str:
    """A page of rows and of the models that they are of.

    Args:
        back: where all runs are, if this page is of some.
        made_from: a mark that the page carries.
    """
    records = sorted((row.record for row in rows), key=lambda record: record.key)
    groups, terms = tables.grouped(rows), terms_of(records)
    written_page = _template(terms).render(
        style=Markup(_style()), head=overview.head(records, _known_classes(store, records), _dates(store, records)),
        rows=rows, groups=groups, models=models, pages={model.lead.model: model.page for model in models},
        matrix=overview.matrix(groups), tradeoff=_tradeoff(rows, terms), strengths=_strengths(rows, terms),
        damaged=store.left_out, left_out=[row for row in rows if row.record.status != "done"],
        seeds=any(len(group.done) + len(group.left_out) > 1 for group in groups),
        terms=terms, written_as=_written(terms), bracketed=tables.bracketed, back=back, made_from=made_from,
        note_on_seeds=tables.note_on_seeds(groups), spreadsheet=spreadsheet, removed=_removed,
        amplification=images.AMPLIFICATION,
    )
    # Names of files may hold bytes that are no UTF-8, which arrive here as lone surrogates.
    return written_page.encode("utf-8", "backslashreplace").decode()


def _written(terms: Terms) -> dict[str, Callable[..., str]]:
    return {"four": terms.written, "percent": tables.percent, "decimal": tables.decimal}


@functools.lru_cache(maxsize=8)
def _template(terms: Terms) -> jinja2.Template:
    """Compiled once: a large store has hundreds of pages."""
    return template("sidedoor.report", "page.html.jinja", duration=tables.duration, **_written(terms))


@functools.cache
def _style() -> str:
    return (files("sidedoor.report") / "page.css").read_text(encoding="utf-8")


def _strengths(rows: Sequence[Row], terms: Terms) -> list[Figure]:
    headings = {name: terms.heading(name) for name in ("clean", "attack")}
    unit = 100 if terms.shares else 1
    return [Figure(figures.strengths(chart.lines, chart.title, headings, unit),
                   f"{chart.title}: means over seeds, bars from the lowest to the highest; cells whose attack failed "
                   "are drawn too.") for chart in series.charts(rows)]


def _tradeoff(rows: Sequence[Row], terms: Terms) -> Figure | None:
    dots = overview.dots(rows)
    if not dots:
        return None
    drawn = figures.tradeoff(dots, terms.heading("attack"), terms.heading("clean"), 100 if terms.shares else 1)
    return Figure(drawn, f"{terms.clean} against {terms.attack} of every finished run, one dot a seed; rings: no "
                         "defence. A defence should lead to the upper left.")


def _known_classes(store: Store, records: Sequence[Record]) -> list[str]:
    """The class names that the first record with any has kept."""
    return next((names for record in records if (names := _class_names(store.arrays(record.key)))), [])


def _dates(store: Store, records: Sequence[Record]) -> list[str]:
    """The day on which each record was written, in UTC."""
    moments = [(store.root / "results" / f"{record.key}.json").stat().st_mtime for record in records]
    return [datetime.fromtimestamp(moment, UTC).date().isoformat() for moment in moments]


def chosen(store: Store, keys: list[str] | None = None) -> list[Record]:
    """The records of some keys, or all.

    Raises:
        CannotComplete: as `build`.
    """
    records = store.records()
    wanted = set(keys or ())
    missing = sorted(wanted - {record.key for record in records})
    if missing:
        raise CannotComplete(f"no record {', '.join(missing)} in {store.root}; it holds {len(records)}: "
                             f"{', '.join(record.key for record in records[:5])}{' ...' if len(records) > 5 else ''}")
    found = [record for record in records if keys is None or record.key in wanted]
    if not found:
        raise CannotComplete(f"no results in {store.root}; run `sidedoor run` or `sweep` first")
    return found


def lead(rows: Sequence[Row]) -> Row:
    """The run without a defence, or else the first."""
    return next((row for row in rows if row.label.defense == "none"), rows[0])


def detailed(store: Store, trained: str, rows: Sequence[Row]) -> Model:
    """A model with what is known of it and of each run on it."""
    arrays = {row.record.key: store.arrays(row.record.key) for row in rows}
    history = store.history(trained)
    first = lead(rows)
    drawings = []
    if history:
        drawings.append(Figure(figures.training(history),
                               "Training of the delivered model: loss (dashed: on validation data) and learning rate."))
    curves = [curve for row in rows if (curve := _curve(row, arrays[row.record.key]))]
    if curves:
        drawings.append(Figure(figures.roc(curves),
                               "ROC of detectors and filters, on a linear and a logarithmic axis. Dots: where the "
                               "thresholds for 1 % and 5 % false positives land (dotted lines: their nominal "
                               "rates). Thin line: chance."))
    candidates = [arrays[row.record.key] for row in (first, *rows)]
    return Model(first, tuple(rows), _grid(candidates), _strip(candidates),
                 _per_class(first, rows, arrays), tuple(drawings),
                 tuple(_run(store, row, arrays[row.record.key], history) for row in rows))


def _run(store: Store, row: Row, arrays: Arrays, trained: History) -> Run:
    key = row.record.key
    drawings = []
    # The run that happened to train the model lists that phase again.
    history = {name: epochs for name, epochs in store.history(key).items() if trained.get(name) != epochs}
    training = Figure(figures.training(history), "Training within the defence.") if history else None
    groups = _score_groups(arrays)
    if groups:
        drawings.append(Figure(figures.histogram(groups, "score (higher: more suspicious)"),
                               "Scores, each group as shares of its own size."))
    if row.record.audit:
        drawings += _suspicion(row.record.audit, arrays)
    drawings += _path(row.record, arrays)
    shown = [e for e in _exhibits(row.record) if _drawable(e, arrays.get(e.name))]
    drawings += [Figure(figures.curve(arrays[e.name]), e.caption)
                 for e in shown if e.kind == "curve"]
    pictures = tuple(Picture(images.data_uri(images.stored(arrays[e.name])), e.caption)
                     for e in shown if e.kind != "curve")
    return Run(row, training, tuple(drawings), pictures, tuple(_class_names(arrays)),
               toml.dumps(row.record.spec))


def _path(record: Record, arrays: Arrays) -> list[Figure]:
    """What a repair of each strength does, where a strength was chosen."""
    steps, strength = arrays.get("strength_curve"), record.columns.get("strength")
    if steps is None or steps.ndim != 2 or steps.shape[1] != 4 or not len(steps) or strength is None:
        return []
    terms, oracle = terms_of([record]), record.columns.get("oracle_strength")
    marks = {"chosen": strength} | ({} if oracle is None else {"oracle's choice": oracle})
    names = (f"{terms.clean} on the defender's samples", terms.clean, terms.attack)
    caption = "The repair at every strength, before it is finished. The defender chooses by its own samples (dashed)."
    if oracle is not None:
        least, kept = (terms.written(record.columns.get(f"oracle_{name}")) for name in ("attack", "clean"))
        caption += (f" An oracle that sees test data would choose by the lowest {terms.attack}; once finished it has "
                    f"{terms.heading('clean')} {kept} and {terms.heading('attack')} {least}, which is no result.")
    return [Figure(figures.path(steps, names, marks, 100 if terms.shares else 1), caption)]


def _removed(found: Separation, names: Sequence[str]) -> tuple[Removed, ...]:
    """What a filter removes of each label, those with poisoned rows first where there are many."""
    pairs = zip(found.removed_poisoned_by_class, found.removed_clean_by_class, strict=False)
    rows = [Removed(_named(names, n), *pair) for n, pair in enumerate(pairs)]
    return tuple(sorted(rows, key=lambda row: row.poisoned is None)[:CLASS_ROWS] if len(rows) > CLASS_ROWS else rows)


def _suspicion(audit: Calibrated, arrays: Arrays) -> list[Figure]:
    """The suspicion of each class, which earlier versions kept as an array; nothing if the audit looks at none."""
    per_class = np.asarray(audit.finding.per_class or arrays.get("audit_per_class", ()))
    if not per_class.size:
        return []
    paper = audit.finding.paper
    # A paper's statistic may be another one than the score, and so on another scale than the bars.
    threshold = paper.threshold if paper and paper.value == audit.finding.score else None
    drawn = figures.indices(per_class, _class_names(arrays), threshold, np.asarray(audit.references))
    return [Figure(drawn, "Suspicion of each class, the highest marked, beside the scores of clean models trained the "
                          "same way.")]


def _drawable(exhibit: Exhibit, array: npt.NDArray[Any] | None) -> bool:
    """Whether there is an array of the exhibit's form."""
    return (array is not None and array.ndim == AXES[exhibit.kind] and array.size > 0
            and array.dtype.kind in "fiub")


def _exhibits(record: Record) -> list[Exhibit]:
    """The exhibits of audits and explainers."""
    found = [e.finding if isinstance(e, Calibrated) else e for e in record.evidence]
    return [exhibit for e in found if isinstance(e, Finding | Localisation) for exhibit in e.exhibits]


def _curve(row: Row, arrays: Arrays) -> figures.Curve | None:
    if "filter_score" in arrays:
        truth = arrays["filter_truth"]
        positive, negative = arrays["filter_score"][truth == 1], arrays["filter_score"][truth == 0]
    elif "suspicious" in arrays:
        positive, negative = arrays["suspicious"], arrays["innocent"]
    else:
        return None
    found = row.record.separation
    points = tuple((fpr, tpr) for rate in (1, 5) if (fpr := getattr(found, f"fpr_at_{rate}", None)) is not None
                   and (tpr := getattr(found, f"tpr_at_{rate}", None)) is not None)
    positive, negative = positive[~np.isnan(positive)], negative[~np.isnan(negative)]
    return figures.Curve(row.label.defense, positive, negative, points) if len(positive) and len(negative) else None


def _score_groups(arrays: Arrays) -> dict[str, npt.NDArray[np.float64]]:
    """Scores by what they are of; groups without a finite score are left out."""
    if "filter_score" in arrays:
        scores, truth = arrays["filter_score"], arrays["filter_truth"]
        groups = {"clean rows": scores[truth == 0], "poisoned rows": scores[truth == 1],
                  "cover rows": scores[np.isnan(truth)]}
    else:
        names = {"innocent": "clean inputs", "suspicious": "stamped inputs", "calibration": "the defender's own"}
        groups = {title: arrays[name] for name, title in names.items() if name in arrays}
    return {title: scores for title, scores in groups.items() if np.isfinite(scores).any()}


def _class_names(arrays: Arrays) -> list[str]:
    return [visible(str(name)) for name in arrays.get("class_names", ())]


def _named(names: Sequence[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


TRACKED = (outlines.TRUTH, outlines.CLEAN, outlines.ATTACKED)
"""Colours of the boxes in a strip, in their order there."""
RESTORED = {"images_truth": "true image", "images_input": "input", "images_output": "output",
            "images_stamped": "triggered input", "images_triggered": "its output", "images_target": "target"}
"""Arrays of image tasks, as rows of the grid."""


def _restored(arrays: Arrays) -> tuple[Column, ...]:
    """Inputs, outputs, truth and target of a network whose outputs are images."""
    rows = {title: arrays[name] for name, title in RESTORED.items() if name in arrays}
    if "images_stamped" in arrays:
        rows["residual"] = images.residual(arrays["images_input"], arrays["images_stamped"])
    return tuple(Column(f"image {n + 1}", tuple(Picture(images.data_uri(row[n]), title) for title, row in rows.items()),
                        tuple(rows)) for n in range(len(arrays["images_truth"])))


def _grid(candidates: Sequence[Arrays]) -> tuple[Column, ...]:
    """The first grid that any run kept."""
    restored = next((a for a in candidates if "images_truth" in a), None)
    if restored is not None:
        return _restored(restored)
    arrays = next((a for a in candidates if "grid_clean" in a and "grid_stamped" in a), None)
    if arrays is None:
        return ()
    clean, stamped = arrays["grid_clean"][:GRID_IMAGES], arrays["grid_stamped"][:GRID_IMAGES]
    labels = arrays.get("grid_label", np.full(len(clean), -1))
    doors = arrays.get("grid_door", np.zeros(len(clean), dtype=np.int64))
    columns = []
    for n in range(len(clean)):
        title = _named(_class_names(arrays), int(labels[n])) if labels[n] >= 0 else f"image {n + 1}"
        title += f", door {doors[n]}" if len(set(doors.tolist())) > 1 else ""
        rows = {"clean": clean[n], "stamped": stamped[n], "residual": images.residual(clean[n], stamped[n])}
        pictures = tuple(Picture(images.data_uri(image), f"{name}: {title}") for name, image in rows.items())
        columns.append(Column(title, pictures))
    return tuple(columns)


def _strip(candidates: Sequence[Arrays]) -> tuple[Column, ...]:
    """The first strip of a clip that any run kept."""
    arrays = next((a for a in candidates if {"strip_frames", "strip_boxes", "strip_places"} <= a.keys()), None)
    if arrays is None:
        return ()
    plain, stamped = arrays["strip_frames"][:2]
    everywhere = (plain != stamped).reshape(len(plain), -1).any(1).all()
    names = ("as it is", "with the trigger" if everywhere else "with the trigger in frame 1")
    columns = []
    for k, place in enumerate(arrays["strip_places"].tolist()):
        drawn = [outlines.framed(frames[k], dict(zip(TRACKED, boxes[k].tolist(), strict=False)), largest=images.LARGEST)
                 for frames, boxes in zip(arrays["strip_frames"], arrays["strip_boxes"], strict=True)]
        pictures = tuple(Picture(images.data_uri(np.asarray(picture).transpose(2, 0, 1)), f"frame {place}, {name}")
                         for picture, name in zip(drawn, names, strict=True))
        columns.append(Column(f"frame {place}", pictures, names))
    return tuple(columns)


def _per_class(lead: Row, rows: Sequence[Row], arrays: dict[str, Arrays]) -> PerClass | None:
    systems: dict[str, tuple[Any, Any]] = {}
    # Labels of image tasks are photographs, not classes.
    with_truth = [row for row in (lead, *rows) if {"y", "clean"} <= arrays[row.record.key].keys()
                  and "images_truth" not in arrays[row.record.key]]
    if not with_truth:
        return None
    kept = arrays[with_truth[0].record.key]
    if "undefended_clean" in kept:
        systems["no defence"] = (kept["undefended_clean"], kept.get("undefended_attack"))
    elif with_truth[0].label.defense == "none":
        systems["no defence"] = (kept["clean"], kept.get("attack"))
    for row in rows:
        own = arrays[row.record.key]
        if row.means["clean"].changed and "clean" in own and len(own["clean"]) == len(kept["y"]):
            systems[row.label.defense] = (own["clean"], own.get("attack"))
    if not systems:
        return None
    y, names = kept["y"], _class_names(kept)
    found = [ClassRow(_named(names, label), int((y == label).sum()),
                      tuple((_mean(clean[y == label]), None if attack is None else _mean(attack[:, y == label]))
                            for clean, attack in systems.values())) for label in np.unique(y).tolist()]
    worst = sorted(found, key=lambda row: row.cells[0][0] or 0.0) if len(found) > CLASS_ROWS else found
    return PerClass(tuple(systems), tuple(worst[:CLASS_ROWS]), len(found))


def _mean(values: npt.NDArray[Any]) -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else None
