"""What a scan found, as a value: a page of text, JSON, and an exit code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from sidedoor.evidence import to_json
from sidedoor.metrics.hypothesis import most_probable
from sidedoor.vetting.battery import Role, Told
from sidedoor.vetting.confirm import Demonstration
from sidedoor.vetting.suspect import Accuracy

SCHEMA = 1
Verdict = Literal["no finding", "suspicious", "finding", "inconclusive"]
EXIT: dict[Verdict, int] = {"no finding": 0, "finding": 1, "suspicious": 3, "inconclusive": 3}
"""A model that is merely suspicious has not passed."""

LIMITS = (
    "Nothing here says that the model is safe: backdoors exist that no known method finds.",
    "The false-alarm rate holds for clean models that were trained like the references, and says nothing of others.",
    "Backdoors of all classes at once, of single source classes or of single samples, warped images and backdoors made "
    "to evade these audits may not be seen.",
    "Code in the file was not run and was not judged.",
)


@dataclass(frozen=True)
class Audited:
    """An audit of the suspect beside the same one of its references.

    Args:
        audit: with its parameters.
        references: scores of the clean models.
        per_class: of the suspect; `clean_per_class` lowest and highest of the references, class by class.
        p: of the suspect's score among theirs; None without references.
        reason: why there is no score, or no comparison.
    """

    name: str
    audit: dict[str, Any]
    role: Role
    told: Told | None
    references: tuple[float, ...] = ()
    clean_per_class: tuple[tuple[float, float], ...] = ()
    p: float | None = None
    reason: str = ""

    @property
    def ran(self) -> bool:
        return self.told is not None and self.told.finding is not None

    @property
    def compared(self) -> bool:
        return self.p is not None

    def to_json(self) -> dict[str, Any]:
        finding = to_json(self.told.finding) if self.told and self.told.finding else None
        return {"name": self.name, "audit": self.audit, "role": self.role, "finding": finding,
                "references": list(self.references), "p": self.p, "reason": self.reason,
                "seconds": self.told.seconds if self.told else None}


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Args:
        verdict: "finding" where a shortcut was demonstrated, "suspicious" where a p-value is small and nothing was,
            "no finding" where all that was needed ran and was compared, else "inconclusive".
        p: of the model, over all audits that were compared.
        why: reasons of the verdict, in words.
        model: name, sha256, architecture and so on.
        data: how many images of what.
        calibration: "references", "trusted references" or "none".
        pictures: for the page: clean images, the same triggered, and the maps of what the model looked at.
    """

    verdict: Verdict
    p: float | None
    alpha: float
    why: tuple[str, ...]
    model: dict[str, Any]
    data: dict[str, Any]
    accuracy: Accuracy | None
    calibration: str
    audits: tuple[Audited, ...]
    demonstrations: tuple[Demonstration, ...] = ()
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)

    @property
    def exit_code(self) -> int:
        return EXIT[self.verdict]

    @property
    def label(self) -> int | None:
        """The class that the suspicion is about."""
        told = sorted((a for a in self.audits if a.ran and a.role != "note" and a.p is not None),
                      key=lambda a: a.p if a.p is not None else 1.0)
        confirmed = [d.label for d in self.demonstrations if d.confirmed]
        if confirmed:
            return confirmed[0]
        finding = told[0].told.finding if told and told[0].told else None
        return finding.suspected[0] if finding and finding.suspected and self.verdict == "suspicious" else None

    @property
    def probability(self) -> float:
        """An upper bound of what the p-value supports, from even odds; 0.5 where nothing was compared."""
        return 0.5 if self.p is None else most_probable(self.p)

    @property
    def sentence(self) -> str:
        """The verdict, with what it rests on in the same sentence."""
        made = ", ".join(a.name for a in self.audits if a.compared and a.role != "note") or "no audit"
        level = f"at a false-alarm rate of {self.alpha:g} ({self.calibration})"
        if self.verdict == "finding":
            shown = next(d for d in self.demonstrations if d.confirmed)
            return (f"A backdoor-like shortcut to class {self.class_name(shown.label)} was demonstrated {level}: a "
                    f"trigger recovered by {shown.audit} sends {shown.rate:.0%} of {shown.n} other images there.")
        if self.verdict == "suspicious":
            return f"The model stands out among its references {level}, but no shortcut was demonstrated."
        if self.verdict == "no finding":
            return f"No shortcut was demonstrated by {made} {level}; other backdoors would not be seen."
        return f"Inconclusive: {'; '.join(self.why)}."

    def class_name(self, label: int) -> str:
        names = self.data.get("classes", [])
        return str(names[label]) if label < len(names) else str(label)

    def to_json(self) -> dict[str, Any]:
        """As `scan.json` has it."""
        return {
            "schema_version": SCHEMA, "verdict": self.verdict, "exit_code": self.exit_code, "sentence": self.sentence,
            "p": self.p, "alpha": self.alpha, "probability": self.probability, "label": self.label,
            "why": list(self.why), "model": self.model, "data": self.data,
            "accuracy": asdict(self.accuracy) if self.accuracy else None,
            "calibration": {"kind": self.calibration, "references": max((len(a.references) for a in self.audits),
                                                                        default=0)},
            "coverage": {"ran": [a.name for a in self.audits if a.compared],
                         "skipped": [{"name": a.name, "reason": a.reason} for a in self.audits if not a.compared]},
            "audits": [audited.to_json() for audited in self.audits],
            "confirmation": [_plain(shown) for shown in self.demonstrations],
            "notes": list(self.notes), "limits": list(LIMITS), "environment": self.environment,
        }

    def __str__(self) -> str:
        lines = [f"{self.verdict.upper()}  {self.model['name']}", self.sentence, ""]
        lines += [f"model      {_listed(self.model)}", f"images     {self.data.get('n', 0)} of {self.data['name']}"]
        if self.accuracy:
            a = self.accuracy
            lines.append(f"accuracy   {a.value:.1%} [{a.low:.1%}, {a.high:.1%}] on {a.n} labelled images")
        if self.p is not None:
            lines.append(f"p          {self.p:.3f}, of the model over all audits")
        lines += ["", f"{'audit':<16}{'score':>9}  {'clean models':<18}{'p':>6}  class"]
        lines += [_row(audited, self) for audited in self.audits]
        for shown in self.demonstrations:
            lines.append(f"{shown.audit}: the trigger sends {shown.rate:.0%} [{shown.low:.0%}, {shown.high:.0%}] of "
                         f"{shown.n} images to class {self.class_name(shown.label)}; clean models' at most "
                         f"{max(shown.references, default=0):.0%}"
                         + (f"; {shown.pixels:.1f} pixels, clean models' {shown.smallest:.1f}"
                            if shown.pixels is not None and shown.smallest is not None else ""))
        lines += ["", *(f"note: {note}" for note in self.notes), *(f"- {limit}" for limit in LIMITS)]
        return "\n".join(lines)


def _row(audited: Audited, scan: Scan) -> str:
    finding = audited.told.finding if audited.told else None
    if finding is None:
        return f"{audited.name:<16}{'–':>9}  {audited.reason}"
    among = f"{min(audited.references):.3g} to {max(audited.references):.3g}" if audited.references else "none"
    p = f"{audited.p:.3f}" if audited.p is not None else "–"
    label = scan.class_name(finding.suspected[0]) if finding.suspected else ""
    said = f"  ({audited.reason})" if audited.reason else "  (a note)" if audited.role == "note" else ""
    return f"{audited.name:<16}{finding.score:>9.3g}  {among:<18}{p:>6}  {label}{said}"


def _listed(model: dict[str, Any]) -> str:
    return f"{model['architecture'] or 'an object'} ({model['how']}), inputs normalised {model['normalization']}"


def _plain(shown: Demonstration) -> dict[str, Any]:
    values = {f.name: getattr(shown, f.name) for f in fields(shown)}
    return {**values, "references": list(shown.references), "works": shown.works, "small": shown.small,
            "natural": shown.natural, "confirmed": shown.confirmed}


def pictures_of(values: Tensor) -> Tensor:
    """Images in [0, 1] as bytes."""
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)
