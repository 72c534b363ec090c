"""The risk of an attack, from what was measured of it: likelihood times impact, each from 1 to 5.

Ours; no attack has a score of its own. With the share w of the seeds in which the attack works at all,

    L = 1 + 4 w mean(access, budget, stealth, transport)        I = 1 + 4 w (0.5 A + 0.3 D + 0.2 T)

where A is the success rate that the best defence of a stage leaves, averaged over stages, D the least over stages, and
T how far the attacker chooses what happens. What the formula must keep, and where a plainer one does not:

- *An attack that never works has risk 1.* Access, stealth and T say nothing of success, and without w such an attack
  would have L of up to 5 and I of at least 1.8; with it, both are 1.
- *A better defence never raises I.* A mean over the stages that have been tried rises when a further stage does worse
  than those before it. Here a stage counts from the start, as what no defence leaves, and nobody who defends is worse
  off than without: the success rate of a stage is at most the undefended one.
- *A larger budget never raises L.* The budget is the least rate that works, so that more can only be less likely.
- *Monotone in every ingredient*: in w, access, budget, stealth, transport, A, D and T up.

An ingredient that means nothing for an attack, such as a poisoning rate for one who trains the model, is left out of
the mean rather than guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Poisoning rates at which an attack is tried; ours."""
WORKS = 0.9
"""The success rate that a rate has to reach in all seeds; ours."""
CLEAREST = 40.0
"""PSNR in dB above which nobody sees more; ours."""
LIKELIHOOD = ("access", "budget", "stealth", "transport")
IMPACT = ("stages", "least", "target")
SWEPT = 1000
"""Draws of weights for the sensitivity of the order."""


@dataclass(frozen=True)
class Weights:
    """What the formula takes besides measurements; all of it ours.

    Args:
        likelihood, impact: weights of the ingredients, of any scale.
        access: how easily an attacker comes by the access: data with labels left alone, data, training, weights; and
            what is taken off for a data poisoner who needs the victim's architecture (whoever trains the model has it),
            and for test images that have to pass a network of the attacker.
        target: what the attacker decides: the output, the output for some classes, only that it is wrong; nothing.
        bands: from which risk on it is medium, high, critical.
        cost: clean accuracy that a defence may cost, and the rate of false alarms of a detector, twice the nominal one,
            since thresholds rest on few images.
    """

    likelihood: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(LIKELIHOOD, 1.0))
    impact: Mapping[str, float] = field(default_factory=lambda: {"stages": 0.5, "least": 0.3, "target": 0.2})
    access: Mapping[str, float] = field(default_factory=lambda: {
        "clean_label": 1.0, "data": 0.9, "training": 0.5, "weights": 0.4, "surrogate": 0.2, "network": 0.2})
    target: Mapping[str, float] = field(default_factory=lambda: {
        "any": 1.0, "some_classes": 0.7, "untargeted": 0.5, "positive": 0.0})
    bands: Mapping[str, float] = field(default_factory=lambda: {"medium": 6.0, "high": 12.0, "critical": 18.0})
    cost: Mapping[str, float] = field(default_factory=lambda: {"clean": 0.05, "false_alarms": 0.1})

    def band(self, risk: float) -> str:
        """In words; a bound belongs to the band above it."""
        return next((name for name in ("critical", "high", "medium") if risk >= self.bands[name] - 1e-9), "low")


def access_score(access: str, clean_label: bool, surrogate: bool, network: bool, weights: Weights) -> float:
    """How easily an attacker comes by what the attack takes, in [0, 1].

    Args:
        access: "data", "training" or "weights".
        surrogate: a data poisoner needs the victim's architecture.
    """
    given = weights.access
    score = given["clean_label" if access == "data" and clean_label else access]
    score -= given["surrogate"] * (surrogate and access == "data") + given["network"] * network
    return min(1.0, max(0.0, score))


def budget_score(rate: Numbers) -> Numbers:
    """1 for a per cent of the data or less, 0 for all of them; 0 where no rate works, which is infinite."""
    with np.errstate(divide="ignore"):
        found: Numbers = np.clip(1 - np.log10(100 * rate) / 2, 0.0, 1.0)
    return found


def stealth_score(psnr: Numbers, ssim: Numbers, detected: Numbers) -> Numbers:
    """How little is seen, by people and by the best filter; NaN is left out, and 0 if all is.

    Args:
        detected: share of the poisoned rows that the filter finds at 5 % false alarms.
    """
    parts = np.stack([np.clip(psnr / CLEAREST, 0, 1), np.clip(ssim, 0, 1), 1 - detected])
    known = ~np.isnan(parts)
    found: Numbers = np.where(known, parts, 0).sum(0) / np.maximum(known.sum(0), 1)
    return found


def transport_score(asr: Numbers, worst: Numbers) -> Numbers:
    """The share of the success rate that survives the worst of what happens to an image on its way; 0 without any."""
    found: Numbers = np.clip(np.divide(worst, asr, out=np.zeros_like(asr), where=asr > 0), 0, 1)
    return found


def likelihood(works: Numbers, parts: Mapping[str, Numbers], weights: Mapping[str, float]) -> Numbers:
    """L, in [1, 5].

    Args:
        parts: of `LIKELIHOOD`; NaN is left out of the mean.
    """
    return 1 + 4 * works * _mean(parts, LIKELIHOOD, weights)


def impact(works: Numbers, parts: Mapping[str, Numbers], weights: Mapping[str, float]) -> Numbers:
    """I, in [1, 5].

    Args:
        parts: of `IMPACT`.
    """
    return 1 + 4 * works * _mean(parts, IMPACT, weights)


def _mean(parts: Mapping[str, Numbers], names: Sequence[str], weights: Mapping[str, float]) -> Numbers:
    values = np.stack([np.asarray(parts[name], float) for name in names])
    given = np.array([weights[name] for name in names]).reshape(-1, *[1] * (values.ndim - 1)) * ~np.isnan(values)
    total = given.sum(0)
    found: Numbers = np.divide((given * np.nan_to_num(values)).sum(0), total, out=np.zeros_like(total), where=total > 0)
    return found


def risk(works: Numbers, parts: Mapping[str, Numbers], weights: Weights) -> Numbers:
    """L times I, from 1 to 25."""
    return likelihood(works, parts, weights.likelihood) * impact(works, parts, weights.impact)


class Sensitivity(NamedTuple):
    """How far weights move the order of attacks, as Kendall's tau with the order by the given weights.

    Args:
        median, low, least: over draws of weights that know nothing (Dirichlet): the median, 5 % quantile and least.
        tornado: of each weight, tau without it and with twice as much of it.
    """

    median: float
    low: float
    least: float
    tornado: dict[str, tuple[float, float]]


def sensitivity(works: Numbers, parts: Mapping[str, Numbers], weights: Weights, seed: int = 0) -> Sensitivity | None:
    """Of the order of several attacks; None where fewer than two differ."""
    before = risk(works, parts, weights)
    if len(np.unique(before)) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = [rng.dirichlet(np.ones(len(names)), SWEPT) for names in (LIKELIHOOD, IMPACT)]
    taus = np.array([agreement(before, risk(works, parts, replace(
        weights, likelihood=dict(zip(LIKELIHOOD, first, strict=True)), impact=dict(zip(IMPACT, second, strict=True)))))
        for first, second in zip(*drawn, strict=True)])
    tornado = {f"{side} {name}": (_moved(before, works, parts, weights, side, name, 0.0),
                                  _moved(before, works, parts, weights, side, name, 2.0))
               for side, names in (("likelihood", LIKELIHOOD), ("impact", IMPACT)) for name in names}
    return Sensitivity(float(np.median(taus)), float(np.quantile(taus, 0.05)), float(taus.min()), tornado)


def _moved(before: Numbers, works: Numbers, parts: Mapping[str, Numbers], weights: Weights, side: str, name: str,
           factor: float) -> float:
    """The agreement after one weight was multiplied."""
    changed: Any = dict(getattr(weights, side))
    changed[name] *= factor
    return agreement(before, risk(works, parts, replace(weights, **{side: changed})))


def agreement(first: Numbers, second: Numbers) -> float:
    """Kendall's tau-b of two orders; 0 where one of them has none."""
    a, b = (np.sign(np.round(values[:, None] - values[None, :], 12)) for values in (first, second))
    room = float(np.sqrt(np.abs(a).sum() * np.abs(b).sum()))
    return float((a * b).sum()) / room if room else 0.0
