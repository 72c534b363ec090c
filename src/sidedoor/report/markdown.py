"""The table of results as Markdown, for pages of results in a repository: means over seeds with their intervals."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from statistics import fmean

from sidedoor.bench.record import NOT_APPLICABLE, Record
from sidedoor.core.printable import visible
from sidedoor.core.terms import Terms
from sidedoor.report.tables import (
    MEANS,
    Aggregate,
    Interval,
    aggregate,
    bracketed,
    decimal,
    duration,
    effect_headings,
    not_applicable,
    note_on_seeds,
    percent,
)
from sidedoor.report.terms import terms_of

Cell = Callable[[Aggregate], str]


def table(records: Sequence[Record]) -> str:
    """One row per group of records that differ only in the seed; columns without any value are left out.

    Below it, what the brackets hold, and the reasons why cells are not applicable.
    """
    groups = aggregate(records)
    columns = {heading: [cell(group) for group in groups] for heading, cell in _columns(terms_of(records)).items()}
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    lines = [list(shown), ["---"] * len(shown), *map(list, zip(*shown.values(), strict=True))]
    note = note_on_seeds(groups)
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *(["", note] if note else []),
                      *_reasons(groups)]) + "\n"


def _reasons(groups: Sequence[Aggregate]) -> list[str]:
    """A list of the cells that are not applicable, each reason once for all seeds."""
    found = ["- " + escaped(f"{', '.join(filter(None, (g.label.setting, g.label.attack)))} / {g.label.defense}: "
                            f"{NOT_APPLICABLE}: {r.error}")
             for g in groups for r in g.left_out if r.status == NOT_APPLICABLE]
    return ["", *dict.fromkeys(found)] if found else []


def _columns(terms: Terms) -> dict[str, Cell]:
    def four(name: str) -> Cell:
        return lambda g: "n/a" if not_applicable(g) else _shares(g, name, terms)

    def figure(name: str) -> Cell:
        return lambda g: _figure(g.figures.get(name), terms.written)

    def clean_model(name: str) -> Cell:
        return lambda g: _mean([(r.clean_means or {}).get(name) for r in g.done], terms.written)

    def column(name: str, shown: Callable[[float], str]) -> Cell:
        return lambda g: _mean([r.columns.get(name) for r in g.done], shown)

    return {
        "Setting": lambda g: escaped(g.label.setting),
        "Attack": lambda g: escaped(g.label.attack),
        "Defence": lambda g: escaped(g.label.defense),
        "Given": lambda g: next((r.given for r in g.done if r.given), ""),
        "Seeds": lambda g: str(len(g.done)),
        "Left out": lambda g: str(len(g.left_out)) if g.left_out else "",
        **{terms.heading(name): four(name) for name in MEANS},
        **{heading: figure(name) for name, heading in effect_headings(terms).items()},
        "Total": lambda g: _mean([r.columns.get("total") for r in g.done], decimal),
        f"Clean model: {terms.heading('clean')}": clean_model("clean"),
        f"Clean model: {terms.heading('attack')}": clean_model("attack"),
        "AUROC": lambda g: _figure(g.figures.get("auroc"), decimal),
        "TPR at 1 % FPR": lambda g: _figure(g.figures.get("tpr_at_1"), percent),
        "TPR at 5 % FPR": lambda g: _figure(g.figures.get("tpr_at_5"), percent),
        f"{terms.heading('attack')}, accepted": lambda g: _figure(g.figures.get("accepted"), terms.written),
        "Strength": column("strength", decimal),
        "Oracle's strength": column("oracle_strength", decimal),
        f"Oracle: {terms.heading('clean')}": column("oracle_clean", terms.written),
        f"Oracle: {terms.heading('attack')}": column("oracle_attack", terms.written),
        **{heading: column(name, terms.written) for name, heading in _afterwards(terms).items()},
        "Audit score": lambda g: _mean([r.audit.finding.score for r in g.done if r.audit], decimal),
        "Clean models' scores": lambda g: ", ".join(decimal(s) for r in g.done if r.audit for s in r.audit.references),
        "Audit p": lambda g: _figure(g.figures.get("p"), decimal),
        "PSNR dB": lambda g: _mean([r.columns.get("psnr") for r in g.done], lambda v: f"{v:.1f}"),
        "SSIM": lambda g: _mean([r.columns.get("ssim") for r in g.done], decimal),
        "Training": lambda g: _mean([r.timing.get("attack") for r in g.done], duration),
        "Defending": lambda g: _mean([r.timing.get("defense") for r in g.done if r.spec.get("defense")], duration),
    }


def _afterwards(terms: Terms) -> dict[str, str]:
    """Headings of what was tried with the delivered model afterwards."""
    attack, clean = terms.heading("attack"), terms.heading("clean")
    tuned = {f"{name}_{count}": f"{attack} after re-tuning on {count}{of}" for count in (1, 5, 20)
             for name, of in (("retuned", ""), ("relearned", ", clean model"),
                              ("repaired_relearned", ", repaired clean model"))}
    return tuned | {"searched": f"{attack}, trigger searched",
                    "searched_clean": f"{attack}, trigger searched, clean model",
                    "repaired_searched": f"{attack}, trigger searched, repaired clean model",
                    "int8_clean": f"{clean} in int8", "int8_attack": f"{attack} in int8",
                    "bf16_clean": f"{clean} in bf16", "bf16_attack": f"{attack} in bf16"}


def _shares(group: Aggregate, name: str, terms: Terms) -> str:
    """before → after where a defence changed the model."""
    after = _figure(group.figures.get(name), terms.written)
    before = _figure(group.figures.get(f"{name}_before"), terms.written)
    return f"{before} → {after}" if before else after


def _mean(values: Sequence[float | None], shown: Callable[[float], str]) -> str:
    present = [value for value in values if value is not None]
    return shown(fmean(present)) if present else ""


def _figure(interval: Interval | None, shown: Callable[[float], str]) -> str:
    """The mean, and its interval or range if there are several seeds."""
    return f"{shown(interval[0])} {bracketed(*interval[1:], shown)}".rstrip() if interval else ""


def escaped(text: str) -> str:
    """Text that shows as it is: on one line, without a meaning to Markdown or HTML."""
    return re.sub(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", html.escape(visible(text), quote=False))
