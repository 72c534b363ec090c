"""What was found in a data set, as a value: a page of text, JSON, and an exit code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sidedoor.vetting.described import network_in_words
from sidedoor.vetting.filter.duplicates import Conflicts
from sidedoor.vetting.filter.suspicion import Scored
from sidedoor.vetting.filter.transplant import Kind
from sidedoor.vetting.result import EXIT, Verdict

SCHEMA = 1
WORKS = 0.5
"""Share of images of other classes that a trigger must send to its class, by the lower end of its interval."""
BLENDED = 0.9
"""The same where the trigger is blended, since features of a class do much of the work."""
CURED = 0.5
"""Of that share, at most so much may be left once the network is trained without the group."""
FOREIGN = 0.5
"""Share of a group's rows that a network without them may still take for their label."""
LISTED = 20
"""Rows of a group, and conflicting pairs, that the text and the page name."""

LIMITS = (
    "Nothing here says that the data are safe: there is poison that no known method finds.",
    "The rule for a finding has no proven false-alarm rate; benchmarks/data_filter.py measures it on clean data sets.",
    "A mark that stands in many images of one class without ill intent, such as a watermark, is a shortcut as well, "
    "and is found like one.",
    "Triggers that bend an image or differ from image to image, poison in all classes at once or in most of a class, "
    "and poison whose label is right (which is suspicious at most) may not be seen.",
)


@dataclass(frozen=True)
class Suspected:
    """A group of rows of one class, and what the trigger does that they have in common.

    Args:
        rows: of the data set.
        kind: how the trigger is put into images.
        pixels: places that it changes.
        rate: share of held-out images of other classes that it sends to the class; `low` and `high` its 95 % interval.
        n: such images.
        others: the largest share that any other class's group reaches with its own trigger of the kind; classes that
            are found to be poisoned themselves do not count.
        chance: the same of groups of this class that were drawn at random.
        after: the share that is left once the network was trained without the suspected groups.
        recognised: share of the group's rows that this network still takes for their label.
    """

    label: int
    rows: tuple[int, ...]
    kind: Kind
    pixels: int
    rate: float
    low: float
    high: float
    n: int
    others: float
    chance: float
    after: float
    recognised: float

    @property
    def beyond(self) -> bool:
        """Better than what the same search finds where nothing is; random rows, blended, have the features of the class
        and say nothing.
        """
        return self.low > max(self.others, self.chance if self.kind != "blend" else 0.0)

    @property
    def cured(self) -> bool:
        """Whether it takes the group to teach a network the trigger: a feature of the class works without it."""
        return self.after <= CURED * self.rate

    @property
    def foreign(self) -> bool:
        """Whether the rows are not of their class: rare but right rows of a class may teach a network something that
        works elsewhere, too, and a network without them still knows them.
        """
        return self.recognised < FOREIGN

    @property
    def confirmed(self) -> bool:
        """Whether it demonstrates that these rows are poison."""
        works = self.low >= (BLENDED if self.kind == "blend" else WORKS)
        return works and self.beyond and self.cured and self.foreign


@dataclass(frozen=True)
class Judged:
    """A class, and the best of its groups' triggers.

    Args:
        silhouette: of its two clusters; None where activation clustering did not run.
        rates: largest share of other images that a trigger of each kind sends to it.
        reason: why it was not looked at.
    """

    label: int
    n: int
    silhouette: float | None = None
    rates: dict[Kind, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Rows:
    """Of each row of the data set.

    Args:
        files: their names, or their numbers.
        suspicion: mean place within the class over all filters, in [0, 1].
        group: whether it is in a suspected group.
    """

    files: tuple[str, ...]
    labels: Int[Tensor, "n"]
    suspicion: Float[Tensor, "n"]
    group: Bool[Tensor, "n"]

    @property
    def ranked(self) -> Int[Tensor, "n"]:
        """Rows from the most to the least suspicious; those of suspected groups come first."""
        return (self.suspicion + 2 * self.group).argsort(descending=True, stable=True)


@dataclass(frozen=True)
class Pictures:
    """Of a suspected group: some of its rows, ordinary rows of the class, other images, the same with the trigger, and
    the trigger.
    """

    label: int
    rows: tuple[int, ...]
    suspected: Tensor
    ordinary: Tensor
    others: Tensor
    stamped: Tensor
    trigger: Tensor


@dataclass(frozen=True)
class Filtered:
    """What was found in a data set.

    Args:
        verdict: "finding" where a group of rows was shown to teach a trigger, "suspicious" where one stands out and
            that was not shown, "no finding" where all classes were looked at, else "inconclusive".
        why: reasons of the verdict, in words.
        data: how many images of what.
        accuracy: of the inspection model on the data themselves.
        suspected: groups whose triggers work, the strongest first.
        quarantined: (file, reason) of what could not be read.
    """

    verdict: Verdict
    why: tuple[str, ...]
    data: dict[str, Any]
    model: dict[str, Any]
    accuracy: float
    filters: tuple[Scored, ...]
    classes: tuple[Judged, ...]
    suspected: tuple[Suspected, ...]
    conflicts: Conflicts
    rows: Rows = field(repr=False)
    quarantined: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Pictures, ...] = field(default=(), repr=False, compare=False)

    @property
    def exit_code(self) -> int:
        return EXIT[self.verdict]

    @property
    def keep(self) -> tuple[int, ...]:
        """Rows that are in no suspected group."""
        return tuple(torch.nonzero(~self.rows.group)[:, 0].tolist())

    @property
    def sentence(self) -> str:
        """The verdict, with what it rests on in the same sentence."""
        made = ", ".join(each.name for each in self.filters if each.scores is not None) or "no filter"
        confirmed = [each for each in self.suspected if each.confirmed]
        if confirmed:
            best = confirmed[0]
            more = f" (and {len(confirmed) - 1} more classes)" if len(confirmed) > 1 else ""
            return (f"Poison was demonstrated in class {self.class_name(best.label)}{more}: what {len(best.rows)} of "
                    f"its rows have in common sends {best.rate:.0%} of {best.n} images of other classes there, and "
                    f"{best.after:.0%} once a network is trained without these rows.")
        if self.verdict == "suspicious":
            best = self.suspected[0]
            return (f"Rows of class {self.class_name(best.label)} stand out: what they have in common sends "
                    f"{best.rate:.0%} of {best.n} images of other classes there; that they are poison was not shown.")
        if self.verdict == "no finding":
            return (f"No trigger was recovered from groups of rows that {made} suspect, in any of "
                    f"{len(self.classes)} classes; other poison would not be seen.")
        return f"Inconclusive: {'; '.join(self.why)}."

    @property
    def network(self) -> str:
        """The one that was trained on the data, with its parameters."""
        return network_in_words(self.model["architecture"])

    def class_name(self, label: int) -> str:
        return str(self.data["classes"][label])

    def to_json(self) -> dict[str, Any]:
        """As `filter.json` has it."""
        return {
            "schema_version": SCHEMA, "verdict": self.verdict, "exit_code": self.exit_code, "sentence": self.sentence,
            "why": list(self.why), "data": self.data, "model": self.model, "accuracy": self.accuracy,
            "suspected": [asdict(each) | {"class": self.class_name(each.label), "rows": list(each.rows),
                                          "files": [self.rows.files[row] for row in each.rows],
                                          "beyond": each.beyond, "cured": each.cured, "foreign": each.foreign,
                                          "confirmed": each.confirmed} for each in self.suspected],
            "classes": [asdict(each) | {"class": self.class_name(each.label)} for each in self.classes],
            "coverage": {"ran": [each.name for each in self.filters if each.scores is not None],
                         "skipped": [{"name": each.name, "reason": each.reason} for each in self.filters
                                     if each.scores is None]
                         + [{"class": self.class_name(each.label), "reason": each.reason} for each in self.classes
                            if each.reason],
                         "quarantined": [{"file": file, "reason": reason} for file, reason in self.quarantined]},
            "keep": len(self.keep), "seconds": {each.name: each.seconds for each in self.filters},
            "conflicts": {"exact": [list(pair) for pair in self.conflicts.exact],
                          "near": [list(pair) for pair in self.conflicts.near],
                          "near_compared": self.conflicts.compared, "more": self.conflicts.more},
            "notes": list(self.notes), "limits": list(LIMITS), "environment": self.environment,
        }

    def __str__(self) -> str:
        lines = [f"{self.verdict.upper()}  {self.data['name']}", self.sentence, "",
                 f"images     {self.data['n']} of {len(self.classes)} classes, {len(self.keep)} to keep",
                 f"model      {self.network}, right on {self.accuracy:.1%} of them", "",
                 f"{'class':<20}{'rows':>7}{'silhouette':>12}{'replace':>9}{'add':>7}{'blend':>7}"]
        lines += [_row(each, self.class_name(each.label)) for each in self.classes]
        for each in self.suspected:
            lines.append(_said(each, self.class_name(each.label)))
        if self.conflicts.pairs:
            lines.append(_counted(self.conflicts))
        lines += [f"not read: {file}: {reason}" for file, reason in self.quarantined[:LISTED]]
        lines += ["", *(f"note: {note}" for note in self.notes), *(f"- {limit}" for limit in LIMITS)]
        return "\n".join(lines)


def _row(judged: Judged, name: str) -> str:
    if judged.reason:
        return f"{name:<20}{judged.n:>7}  {judged.reason}"
    index = "–" if judged.silhouette is None else f"{judged.silhouette:.2f}"
    rates = [f"{judged.rates[kind]:.0%}" if kind in judged.rates else "–" for kind in ("replace", "add", "blend")]
    return f"{name:<20}{judged.n:>7}{index:>12}{rates[0]:>9}{rates[1]:>7}{rates[2]:>7}"


def _said(found: Suspected, name: str) -> str:
    return (f"{name}: {len(found.rows)} rows; their trigger ({found.kind}, {found.pixels} pixels) sends "
            f"{found.rate:.0%} [{found.low:.0%}, {found.high:.0%}] of {found.n} images there, other classes' at most "
            f"{found.others:.0%}, random rows' {found.chance:.0%}; trained without them {found.after:.0%}, and "
            f"{found.recognised:.0%} of them are still taken for {name}")


def _counted(conflicts: Conflicts) -> str:
    more = " or more" if conflicts.more else ""
    return (f"the same image under several labels: {len(conflicts.exact)} pairs byte for byte, {len(conflicts.near)} "
            f"nearly{more}")
