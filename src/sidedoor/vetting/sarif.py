"""Verdicts in the Static Analysis Results Interchange Format 2.1.0 (OASIS), which dashboards of code scanning read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

Level = Literal["error", "warning", "note"]
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RULES = {
    "SD-FILE-001": ("UnsafeFile", "The file asks for code to be run when it is loaded."),
    "SD-MODEL-001": ("DemonstratedShortcut", "A trigger was recovered that sends other images to one class."),
    "SD-MODEL-002": ("SuspiciousModel", "The model stands out among clean ones; no trigger was demonstrated."),
    "SD-MODEL-003": ("InconclusiveScan", "Whether the model has a backdoor could not be said."),
    "SD-DATA-001": ("PoisonedRows", "Rows of one class form a cluster of their own that carries a trigger."),
    "SD-DATA-002": ("ConflictingDuplicates", "The same image stands under several labels."),
    "SD-DATA-003": ("InconclusiveFilter", "Whether rows are poisoned could not be said."),
}


@dataclass(frozen=True)
class Result:
    """One line of a dashboard.

    Args:
        rule: one of `RULES`.
        label: the class that it is about; empty for none.
        properties: further figures.
    """

    rule: str
    level: Level
    message: str
    label: str
    properties: dict[str, Any]


def log(results: Iterable[Result], path: str, version: str, complete: bool, skipped: Iterable[str] = ()) \
        -> dict[str, Any]:
    """The log of one run.

    Args:
        path: of the file or folder that was looked at.
        version: of sidedoor.
        complete: whether all came to a verdict; if not, an empty list of results means nothing.
        skipped: what was left out, and why.
    """
    found = list(results)
    rules = [{"id": name, "name": title, "shortDescription": {"text": words},
              "helpUri": "https://github.com/sidedoor/sidedoor"} for name, (title, words) in RULES.items()]
    notifications = [{"level": "warning", "message": {"text": reason}} for reason in skipped]
    return {
        "$schema": SCHEMA, "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "sidedoor", "version": version, "rules": rules}},
            "invocations": [{"executionSuccessful": complete, "toolExecutionNotifications": notifications}],
            "results": [_result(each, path) for each in found],
        }],
    }


def _result(result: Result, path: str) -> dict[str, Any]:
    logical = {"logicalLocations": [{"name": result.label, "kind": "class"}]} if result.label else {}
    digest = hashlib.sha256("|".join((result.rule, result.label, path)).encode()).hexdigest()
    return {
        "ruleId": result.rule, "ruleIndex": list(RULES).index(result.rule), "level": result.level,
        "message": {"text": result.message},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(path)}, "region": {"startLine": 1}}}
                      | logical],
        "partialFingerprints": {"primaryLocationLineHash": f"{digest}:1"},
        "properties": result.properties,
    }


def _uri(path: str) -> str:
    """A path as a relative or absolute URI."""
    given = Path(path)
    return given.as_uri() if given.is_absolute() else quote(given.as_posix())
