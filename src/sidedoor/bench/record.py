"""What is kept of one run: numbers, and enough to run it again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sidedoor.errors import CannotComplete

SCHEMA = 1
Means = dict[str, float | None]
"""clean, attack, recovered, idle (shares in [0, 1]; None where nothing is eligible) and a task's own columns."""


@dataclass(frozen=True)
class Record:
    """The result of one cell; one JSON file.

    Args:
        key: hash of everything that decides the result.
        planted: key of the trained model, shared by all defences against it.
        data: fingerprint of the data, which with the specification and the code gives the key.
        spec: the specification in full, methods with all their parameters.
        status: "done"; "failed": the attack did not take, so the cell stays out of averages; "error" or "timeout".
        error: why, for a person, unless done.
        clean, attack, recovered, idle: of the delivered system: defended, if there is a defence.
        intervals: 95 % Wilson intervals of the same.
        undefended: the same means before the defence.
        sibling: the same means of the clean sibling: same data, model, recipe and seed, no attack.
        reference: key of the clean sibling.
        detectors: of filters and input detectors: auroc, tpr_at_1, tpr_at_5 and what was realised; see `evaluate`.
        audit: of model audits: score, threshold, flagged, suspected, references (scores of clean models), rank.
        columns: psnr, ssim, lpips (None without its weights), asr_all, floor and a task's own.
        samples: train, poisoned, cover, rate (of the eligible), defender, test, eligible.
        seconds: of everything that this run did itself; `timing` has its parts, also those taken from the store.
        peak_mb: largest resident memory of the process.
    """

    key: str
    planted: str
    spec: dict[str, Any]
    status: str
    data: str = ""
    error: str | None = None
    clean: float | None = None
    attack: float | None = None
    recovered: float | None = None
    idle: float | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    undefended: Means | None = None
    sibling: Means | None = None
    reference: str | None = None
    detectors: dict[str, float | None] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    columns: Means = field(default_factory=dict)
    samples: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    timing: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0
    threads: int = 1
    device: str = "cpu"
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """As JSON writes it."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Record:
        """A record of this or an older schema.

        Raises:
            CannotComplete: it was written by a newer sidedoor, or is none.
        """
        if not isinstance(value, dict) or not {"key", "spec", "status", "planted"} <= value.keys():
            raise CannotComplete("this is no sidedoor record: key, planted, spec or status is missing")
        if value.get("schema", 0) > SCHEMA:
            raise CannotComplete(f"record {value['key']} has schema {value['schema']}, this sidedoor knows {SCHEMA}; "
                                 "upgrade sidedoor")
        known = {f.name for f in fields(Record)}
        intervals = {name: (low, high) for name, (low, high) in value.get("intervals", {}).items()}
        given = {k: v for k, v in value.items() if k in known}
        return Record(**given | {"intervals": intervals, "schema": SCHEMA})

    @property
    def finished(self) -> bool:
        """Whether the cell came to its end, so that it need not be run again; a failed attack is a result."""
        return self.status in ("done", "failed")

    @property
    def attack_name(self) -> str:
        return self.spec["attack"]["name"] if self.spec.get("attack") else "none"

    @property
    def defense_name(self) -> str:
        return self.spec["defense"]["name"] if self.spec.get("defense") else "none"
