"""A scan as files: a page, JSON and SARIF, in a folder of its own."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from sidedoor.core.files import write_json, write_text
from sidedoor.vetting import sarif
from sidedoor.vetting.page import page
from sidedoor.vetting.result import Scan


def write(scan: Scan, folder: Path, path: str, command: str) -> Path:
    """Write `report.html`, `scan.json` and `scan.sarif`; the page.

    Args:
        path: of the model, as it was given.
        command: that makes it again.
    """
    write_json(folder / "scan.json", scan.to_json())
    write_json(folder / "scan.sarif", as_sarif(scan, path))
    write_text(folder / "report.html", page(scan, command))
    return folder / "report.html"


def write_unsafe(message: str, folder: Path, path: str) -> Path:
    """Write `scan.sarif` of a file that was not opened, since it asks for code to be run; the log."""
    result = sarif.Result("SD-FILE-001", "error", message, "", {"security-severity": "9.0"})
    write_json(folder / "scan.sarif", sarif.log([result], path, importlib.metadata.version("sidedoor"), True))
    return folder / "scan.sarif"


def as_sarif(scan: Scan, path: str) -> dict[str, object]:
    """The log of a scan; one that is inconclusive has a result, too, lest an empty list look like a pass."""
    name = scan.class_name(scan.label) if scan.label is not None else ""
    figures = {"p": scan.p, "alpha": scan.alpha, "calibration": scan.calibration, "seed": scan.environment.get("seed"),
               "n": scan.data.get("n")}
    rules: dict[str, tuple[str, sarif.Level, str]] = {
        "finding": ("SD-MODEL-001", "error", "8.0"), "suspicious": ("SD-MODEL-002", "warning", "5.0"),
        "inconclusive": ("SD-MODEL-003", "note", "0.0")}
    results = []
    if scan.verdict in rules:
        rule, level, severity = rules[scan.verdict]
        results.append(sarif.Result(rule, level, scan.sentence, name, figures | {"security-severity": severity}))
    skipped = [f"{a.name}: {a.reason}" for a in scan.audits if not a.compared]
    return sarif.log(results, path, importlib.metadata.version("sidedoor"), scan.verdict != "inconclusive", skipped)
