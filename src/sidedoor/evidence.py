"""What defences, verifiers and explainers find, as values: kept in records as JSON and rendered by reports.

A method returns one of these and the evaluator enters the method's name. Neither torch nor numpy is imported, so that
whatever only reads records starts at once: pictures and curves lie in a record's arrays and are named here.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args

from sidedoor.errors import ConfigError

Kind = Literal["picture", "mask", "curve"]


@dataclass(frozen=True)
class Exhibit:
    """A picture (c, h, w) in [0, 1], a mask (h, w) in [0, 1], or a curve (n,) that a finding rests on.

    Args:
        name: unique among the exhibits of a finding; in a record the name of the array.
        caption: what it shows, for people.
        values: as the method gives them, a tensor or array; None in a record.

    Raises:
        ConfigError: an empty name or an unknown kind.
    """

    name: str
    kind: Kind
    caption: str
    values: Any = field(default=None, repr=False, compare=False, metadata={"kept": False})

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("an exhibit without a name given; expected one such as 'trigger'")
        if self.kind not in get_args(Kind):
            raise ConfigError(f"exhibit {self.name} is a {self.kind!r}; expected one of {', '.join(get_args(Kind))}")


@dataclass(frozen=True)
class Rule:
    """A paper's own decision: the statistic it looks at, and the threshold above which it flags a model."""

    value: float
    threshold: float

    def __post_init__(self) -> None:
        _check_finite(self, "value", "threshold")

    @property
    def flagged(self) -> bool:
        return self.value > self.threshold


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a method found.

    Args:
        method: the registered name of the method; entered by the evaluator.
    """

    method: str = ""

    @property
    def type(self) -> str:
        """What JSON calls it."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Separation(Evidence):
    """How well scores of inputs or training rows tell poisoned from clean; None where it cannot be said.

    Args:
        auroc: of all positives against all negatives.
        tpr_at_1, tpr_at_5: detection rates at the thresholds meant for 1 % and 5 % false positives.
        fpr_at_1, fpr_at_5: false positive rates that the same thresholds realise.
        too_small_at_1, too_small_at_5: 1 if there are too few calibration scores for such a threshold, else 0.
        n_positive, n_negative, n_calibration: numbers of scores.
        auroc_worked, tpr_at_1_worked, tpr_at_5_worked: over the positives on which the attack succeeds.
        removed_poisoned, removed_clean: shares of the poisoned and of the clean rows that a filter removes.
        removed_poisoned_by_class, removed_clean_by_class: the same among the rows of each label in the training data;
            None where there are no such rows; empty where the task has no classes, and in earlier records.

    Raises:
        ConfigError: a share outside [0, 1].
    """

    auroc: float | None = None
    tpr_at_1: float | None = None
    fpr_at_1: float | None = None
    tpr_at_5: float | None = None
    fpr_at_5: float | None = None
    too_small_at_1: float = 0.0
    too_small_at_5: float = 0.0
    n_positive: int = 0
    n_negative: int = 0
    n_calibration: int = 0
    auroc_worked: float | None = None
    tpr_at_1_worked: float | None = None
    tpr_at_5_worked: float | None = None
    removed_poisoned: float | None = None
    removed_clean: float | None = None
    removed_poisoned_by_class: tuple[float | None, ...] = ()
    removed_clean_by_class: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        _check_shares(self, *(f.name for f in fields(self) if f.name != "method" and not f.name.startswith("n_")))

    def __str__(self) -> str:
        said = [f"AUROC {_decimal(self.auroc)}", f"TPR {_percent(self.tpr_at_1)} at 1 % and {_percent(self.tpr_at_5)} "
                "at 5 % FPR", f"{self.n_positive:,} positives, {self.n_negative:,} negatives"]
        if self.removed_poisoned is not None:
            said.append(f"removed {_percent(self.removed_poisoned)} of the poisoned and "
                        f"{_percent(self.removed_clean)} of the clean rows")
        return _said_of(self, said)


@dataclass(frozen=True)
class Finding(Evidence):
    """What an audit says of a model.

    Args:
        score: suspicion of the model in a scale-free unit, such as robust standard deviations; higher is worse.
        paper: the paper's own decision, if it has one.
        suspected: the classes most likely to be targets, the most suspicious first.
        per_class: suspicion of each class; empty where the audit does not look at classes.
        exhibits: what it recovered.
        queries: how many inputs the model was asked about, where that is counted.

    Raises:
        ConfigError: a score that is not finite, a suspected class or number of queries below 0, or two exhibits of one
            name.
    """

    score: float
    paper: Rule | None = None
    suspected: tuple[int, ...] = ()
    per_class: tuple[float, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    queries: int | None = None

    def __post_init__(self) -> None:
        _check_finite(self, "score", "per_class")
        if any(label < 0 for label in self.suspected):
            raise ConfigError(f"Finding.suspected = {self.suspected} given; expected classes from 0")
        if self.queries is not None and self.queries < 0:
            raise ConfigError(f"Finding.queries = {self.queries} given; expected at least 0")
        names = [exhibit.name for exhibit in self.exhibits]
        if len(set(names)) < len(names):
            raise ConfigError(f"Finding.exhibits are named {', '.join(names)}; expected each name once")

    def __str__(self) -> str:
        said = [f"score {self.score:.3f}"]
        if self.paper:
            said.append(f"{'flagged' if self.paper.flagged else 'not flagged'} by the paper's rule "
                        f"({self.paper.value:.3f}, threshold {self.paper.threshold:.3f})")
        if self.suspected:
            said.append(f"suspected class{'es' if len(self.suspected) > 1 else ''} "
                        f"{', '.join(map(str, self.suspected))}")
        if self.queries is not None:
            said.append(f"{self.queries:,} queries")
        return _said_of(self, said)


@dataclass(frozen=True)
class Calibrated(Evidence):
    """A finding beside what the same audit says of clean models that were trained the same way.

    Args:
        references: scores of the clean models.
        models: keys of the clean models, in the same order.
        clean_per_class: suspicion of each class of each clean model, in the same order; empty in earlier records.

    Attributes:
        p: (1 + number of references that score at least as high) / (1 + number of references), the p-value of the
            hypothesis that the model is as clean as they are.
    """

    finding: Finding
    references: tuple[float, ...] = ()
    models: tuple[str, ...] = ()
    clean_per_class: tuple[tuple[float, ...], ...] = ()
    p: float = field(init=False)

    def __post_init__(self) -> None:
        _check_finite(self, "references")
        if any(not isinstance(value, int | float) or not math.isfinite(value)
               for values in self.clean_per_class for value in values):
            raise ConfigError("Calibrated.clean_per_class given with numbers that are not finite")
        as_high = sum(score >= self.finding.score for score in self.references)
        object.__setattr__(self, "p", (1 + as_high) / (1 + len(self.references)))

    @property
    def above_all(self) -> bool:
        """Whether the model is more suspicious than every clean one."""
        return all(self.finding.score > score for score in self.references)

    @property
    def relative(self) -> tuple[float, ...]:
        """How many times as suspicious each class is as in the clean models, by their median: classes differ, and one
        that is easy to reach in all of them is no sign. Empty where suspicions are not above 0, or unknown.
        """
        own = self.finding.per_class
        alike = [values for values in self.clean_per_class if len(values) == len(own)]
        if not own or not alike or min(*own, *(value for values in alike for value in values)) <= 0:
            return ()
        return tuple(value / statistics.median(values[k] for values in alike) for k, value in enumerate(own))


@dataclass(frozen=True)
class Verdict(Evidence):
    """A test of the claim that a model was trained on a watermarked data set.

    Args:
        statistic: of the test.
        p_value: the probability of such a statistic or a larger one under the null hypothesis.
        effect: its size, in the unit that the verifier states.
        power: the probability of rejecting if the model was trained on the set; None where it is not known.
        n: images that the model was asked about.
        alpha: the level, decided before the test.
        null_hypothesis: in words.

    Raises:
        ConfigError: a probability outside [0, 1], fewer images than one, or no null hypothesis.
    """

    statistic: float
    p_value: float
    effect: float
    power: float | None
    n: int
    alpha: float
    null_hypothesis: str

    def __post_init__(self) -> None:
        _check_finite(self, "statistic", "effect")
        _check_shares(self, "p_value", "power", "alpha")
        if self.n < 1 or not self.null_hypothesis:
            raise ConfigError(f"Verdict.n = {self.n} and null_hypothesis = {self.null_hypothesis!r} given; expected at "
                              "least one image and a hypothesis in words")

    @property
    def rejected(self) -> bool:
        """Whether the null hypothesis is rejected."""
        return self.p_value <= self.alpha


@dataclass(frozen=True)
class Localisation(Evidence):
    """Whether an explanation of triggered inputs points at the trigger.

    Args:
        pointing: share of the inputs whose most salient pixel the trigger covers.
        chance: share of the pixels that the trigger covers, which a random pixel would hit.
        n: inputs.
        exhibits: such as a few saliency maps.
        iou: expected intersection over union of the trigger and as many of the most salient pixels (standardised
            evaluation), and `chance_iou`, that of a random map; these and the following are None where not measured.
        box_iou: of the boxes around salient pixels above a threshold and around the trigger (vanilla evaluation).
        recovered: share of the inputs whose prediction comes back once the box is filled from the original.
        difference: share of the pixels that still differ then.
        boxless: share of the inputs in which there was no box.
        seconds: that one map took.

    Raises:
        ConfigError: a share outside [0, 1], or fewer inputs than one.
    """

    pointing: float
    chance: float
    n: int
    exhibits: tuple[Exhibit, ...] = ()
    iou: float | None = None
    chance_iou: float | None = None
    box_iou: float | None = None
    recovered: float | None = None
    difference: float | None = None
    boxless: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        _check_shares(self, "pointing", "chance", "iou", "chance_iou", "box_iou", "recovered", "difference", "boxless")
        if self.n < 1:
            raise ConfigError(f"Localisation.n = {self.n} given; expected at least 1")


_TYPES: dict[str, type[Evidence]] = {
    cls.__name__.lower(): cls for cls in (Separation, Finding, Calibrated, Verdict, Localisation)
}


def to_json(value: Evidence) -> dict[str, Any]:
    """`{type, method, ...}`, as records keep it; arrays are left out."""
    if value.type not in _TYPES:
        raise ConfigError(f"{type(value).__name__} given; expected one of {', '.join(_TYPES)}")
    return {"type": value.type, **_plain(value)}


def from_json(value: dict[str, Any]) -> Evidence:
    """The value that `to_json` wrote; fields that it does not have any more are left out.

    Raises:
        ConfigError: of no known type, or with figures that cannot be.
    """
    kind = value.get("type")
    cls = type_of(kind)
    try:
        return _made(cls, value)  # type: ignore[no-any-return]
    except TypeError as error:
        raise ConfigError(f"evidence of type {kind} is incomplete: {error}") from error


def type_of(name: Any) -> type[Evidence]:
    """The class of evidence that JSON calls so.

    Raises:
        ConfigError: there is none.
    """
    if not isinstance(name, str) or name not in _TYPES:
        raise ConfigError(f"evidence of type {name!r} given; expected one of {', '.join(_TYPES)}")
    return _TYPES[name]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.metadata.get("kept", True)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _made(cls: Any, value: dict[str, Any]) -> Any:
    """An instance from a table; what is derived is derived again."""
    names = {f.name for f in fields(cls) if f.init}
    return cls(**{name: _read(name, item) for name, item in value.items() if name in names})


def _read(name: str, item: Any) -> Any:
    if isinstance(item, list):
        return tuple(_made(Exhibit, part) if name == "exhibits" else _read("", part) for part in item)
    return _made({"finding": Finding, "paper": Rule}[name], item) if isinstance(item, dict) else item


def _check_finite(value: Any, *names: str) -> None:
    for name in names:
        given = getattr(value, name)
        for number in given if isinstance(given, tuple) else (given,):
            if not isinstance(number, int | float) or not math.isfinite(number):
                raise ConfigError(f"{type(value).__name__}.{name} = {given!r} given; expected "
                                  f"{'finite numbers' if isinstance(given, tuple) else 'a finite number'}")


def _check_shares(value: Any, *names: str) -> None:
    for name in names:
        given = getattr(value, name)
        for share in given if isinstance(given, tuple) else (given,):
            if share is not None and not (isinstance(share, int | float) and 0 <= share <= 1):
                raise ConfigError(f"{type(value).__name__}.{name} = {given!r} given; expected "
                                  f"{'shares' if isinstance(given, tuple) else 'a share'} between 0 and 1")


def _said_of(value: Evidence, parts: list[str]) -> str:
    """One line of a log or an interpreter."""
    return f"{value.method or type(value).__name__}: {'; '.join(parts)}"


def _decimal(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"
