"""The record of one run: its numbers, and enough to run it again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, TypedDict

from sidedoor import evidence as evidences
from sidedoor.bench.schema import fit
from sidedoor.core.terms import Terms
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.evidence import Calibrated, Evidence, Exhibit, Finding, Rule, Separation

SCHEMA = 2
Means = dict[str, float | None]
"""clean, attack, recovered, idle (shares in [0, 1]; None where nothing is eligible) and a task's own columns."""
NOT_APPLICABLE = "not applicable"
Key = Annotated[str, re.compile(r"[A-Za-z0-9_-]{0,64}")]
"""Part of the name of a file or folder of the store."""


class _Named(TypedDict):
    name: str


class _SpecTable(TypedDict, total=False):
    """What tables and reports rely on in a specification."""

    data: _Named
    model: _Named
    attack: _Named | None
    defense: _Named | list[_Named] | None
    surrogate: _Named | None
    task: _Named | None
    recipe: dict[str, Any]
    seed: int


_DEFENDED = ("defense", "references", "assumed_rate", "after")


def half_of(spec: Mapping[str, Any], *further: str) -> dict[str, Any]:
    """What of a specification, as JSON, decides the model that is trained; `Spec.attack_half` without torch.

    Args:
        further: keys that are left out besides.
    """
    return {name: value for name, value in spec.items() if name not in (*_DEFENDED, *further)}


class _Needed(TypedDict):
    """What a record of any schema has."""

    key: Key
    planted: Key
    spec: _SpecTable
    status: str


class _Head(_Needed, total=False):
    schema: int


@dataclass(frozen=True)
class Record:
    """The result of one cell, stored as one JSON file.

    Args:
        key: hash of everything that decides the result.
        planted: key of the trained model, shared by all defences against it; empty if the cell has none.
        spec: the specification in full, methods with all their parameters.
        status: "done"; "failed": the attack did not succeed, so the cell stays out of averages; "not applicable": a
            method has nothing to work on here, or the methods do not suit each other; "error" or "timeout".
        data: fingerprint of the data, which with the specification and the code gives the key.
        resized: from what the images were brought to one shape, in words; empty if they were not.
        error: why, for a person, unless done.
        clean, attack, recovered, idle: of the delivered system: defended, if there is a defence.
        intervals: 95 % Wilson intervals of the same.
        undefended: the same means before the defence.
        clean_means: the same means of the clean sibling: same data, model, recipe and seed, no attack.
        clean_key: key of the clean sibling.
        given: what the defence was given, in words; empty without one, and in records of schema 1.
        evidence: what filters, input detectors, audits, verifiers and explainers found.
        terms: what the task calls the four numbers; None in records of schema 1.
        columns: psnr, ssim, lpips (None without its weights), asr_all, floor and a task's own.
        samples: train, poisoned, cover, rate (of the eligible), target_share (poisoned samples among all that are
            labelled as the target, where there is one target), defender, test, eligible.
        seconds: wall time of this run; `timing` has its parts, also those of models that were in the store already.
        peak_mb: largest resident memory of the process; 0 where the system does not say.
        threads: that torch computed with.
        device: such as "cpu" or "cuda:0".
        processor: the model of the CPU or GPU.
        memory_format: of the delivered model's weights, "contiguous" or "channels_last".
        versions: of the packages that figures depend on.
        resubmitted: how often the cell was started again after the worker or the machine that ran it had died.
    """

    key: Key
    planted: Key
    spec: dict[str, Any]
    status: str
    data: str = ""
    resized: str = ""
    error: str | None = None
    clean: float | None = None
    attack: float | None = None
    recovered: float | None = None
    idle: float | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    undefended: Means | None = None
    clean_means: Means | None = None
    clean_key: Key | None = None
    given: str = ""
    evidence: tuple[Evidence, ...] = ()
    terms: Terms | None = None
    columns: Means = field(default_factory=dict)
    samples: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    timing: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0
    threads: int = 1
    device: str = "cpu"
    processor: str = ""
    memory_format: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    resubmitted: int = 0
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """As JSON writes it."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {"evidence": [evidences.to_json(value) for value in self.evidence],
                        "terms": self.terms.to_json() if self.terms else None, "schema": SCHEMA}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Record:
        """A record of this or an older schema.

        Raises:
            CannotComplete: it was written by a newer sidedoor, or is none.
        """
        try:
            return Record._read(value)
        # The others come from older schemas, whose tables are upgraded before they are checked.
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
            said = error if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
            raise CannotComplete(f"this is no sidedoor record: {said}") from error

    @staticmethod
    def _read(value: Any) -> Record:
        fit("", value, _Head)
        if value.get("schema", 0) > SCHEMA:
            raise CannotComplete(f"record {value['key']} has schema {value['schema']}, this sidedoor knows {SCHEMA}; "
                                 "upgrade sidedoor")
        if value.get("schema", 0) < SCHEMA:
            value = _upgraded(value)
        known = {f.name for f in fields(Record)}
        fit("", {name: item for name, item in value.items() if name != "evidence"}, Record)
        fit("evidence", value.get("evidence", ()), list[Any])
        _check_lists("spec", value["spec"])
        return Record(**{k: v for k, v in value.items() if k in known} | {
            "intervals": {name: (low, high) for name, (low, high) in value.get("intervals", {}).items()},
            "evidence": tuple(map(_evidence, value.get("evidence", ()))), "schema": SCHEMA,
            "terms": Terms.from_json(value["terms"]) if value.get("terms") else None,
        })

    @property
    def finished(self) -> bool:
        """Whether the cell came to its end, so that it need not be run again; a failed attack is a result."""
        return self.scored or self.status == NOT_APPLICABLE

    @property
    def scored(self) -> bool:
        """Whether it has the four numbers."""
        return self.status in ("done", "failed")

    @property
    def attack_name(self) -> str:
        return self.spec["attack"]["name"] if self.spec.get("attack") else "none"

    @property
    def defense_name(self) -> str:
        given = self.spec.get("defense") or []
        return "+".join(each["name"] for each in (given if isinstance(given, list) else [given])) or "none"

    @property
    def separation(self) -> Separation | None:
        """Of a filter or input detector: how well it tells poisoned from clean."""
        return next((value for value in self.evidence if isinstance(value, Separation)), None)

    @property
    def audit(self) -> Calibrated | None:
        """Of a model audit: its finding beside those of clean models."""
        return next((value for value in self.evidence if isinstance(value, Calibrated)), None)


def _evidence(value: Any) -> Evidence:
    """One piece of evidence, checked by the fields of its type."""
    fit("evidence", value, _Typed)
    fit(f"evidence of type {value['type']}", value, evidences.type_of(value["type"]))
    return evidences.from_json(value)


class _Typed(TypedDict):
    type: str


def _check_lists(what: str, value: Any) -> None:
    """Fail if a list holds null, which no specification can."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_lists(f"{what}.{name}", item)
    elif isinstance(value, list | tuple):
        if None in value:
            raise ConfigError(f"{what} is a list with null in it")
        for item in value:
            _check_lists(what, item)


def _upgraded(value: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 1 in the fields of schema 2."""
    method = (value["spec"].get("defense") or {}).get("name", "")
    found: list[Evidence] = []
    if value.get("detectors"):
        found.append(Separation(**value["detectors"]))
    if value.get("audit"):
        found.append(_calibrated(value["audit"]))
    return value | {"clean_means": value.get("sibling"), "clean_key": value.get("reference"),
                    "evidence": [evidences.to_json(replace(item, method=method)) for item in found]}


def _calibrated(audit: dict[str, Any]) -> Calibrated:
    """An audit of schema 1, whose every record has the arrays of a recovered trigger if one was recovered."""
    score, suspected = audit["score"], audit.get("suspected")
    exhibits = (Exhibit("audit_trigger", "picture", "recovered mask × pattern"),
                Exhibit("audit_mask", "mask", "recovered mask"))
    finding = Finding(score, Rule(score, audit["threshold"]), () if suspected is None else (suspected,),
                      exhibits=exhibits)
    return Calibrated(finding, tuple(audit.get("references", ())), tuple(audit.get("models", ())))
