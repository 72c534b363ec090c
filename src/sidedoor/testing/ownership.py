"""The contract of tests of ownership."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8
from scipy import stats

from sidedoor.attacks.poisoning.key_watermark import KeyWatermark
from sidedoor.attacks.poisoning.ubw_p import UbwP
from sidedoor.backdoor.secret import Secret, Watermark
from sidedoor.data.base import Dataset, Subset
from sidedoor.defenses.base import Needs
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Verdict
from sidedoor.goals.secret_labels import SecretLabels
from sidedoor.ownership.base import OTHER, Answers, Suspect, Verifier, pixels, stamped
from sidedoor.testing.ground import CLASSES, Ground, check_stateless, check_value, drawing, failing, ground, require

KEYS, DECOYS, IMAGES = 8, 99, 16
SECRETS, LEVEL, CHANCE = 40, 0.2, 1e-6
"""Secrets that a suspect knows nothing of, a level, and how rarely an exact test may seem not to be."""


def check_verifier(verifier: Verifier) -> None:
    """A test of ownership is a value that gives a verdict on what its `needs` names, and asks nothing of the data.

    A thief, whose answers follow the secret, must look no more innocent than a model that sees no trigger. A test that
    says it is exact is tried on a suspect that answers every image otherwise and knows none of 40 secrets.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"verifier {type(verifier).__name__}"
    require(isinstance(verifier, Verifier), who, "is no Verifier")
    require(isinstance(getattr(verifier, "needs", None), Needs), who, "declares no `needs`: what it uses of answers")
    require(isinstance(getattr(verifier, "exact", None), bool), who, "does not say whether it is `exact`")
    check_value(who, verifier)
    for here in (ground(3), ground(1)):
        accepted = sum(_check_verdict(who, verifier, here, secret) for secret in _secrets(here, 0))
        require(accepted > 0, who, "applies to no secret: several keys, one, or one without a label")
        check_stateless(who, verifier)
    if verifier.exact:
        _check_exact(who, replace(verifier, alpha=LEVEL), ground(3))


def _secrets(here: Ground, seed: int) -> tuple[Secret, ...]:
    """Several keys, one key with decoys, and a mark that leads to no class."""
    return tuple(_secret(mark, here, seed) for mark in (KeyWatermark(SecretLabels(KEYS)),
                                                        KeyWatermark(SecretLabels(1)), UbwP()))


def _secret(mark: KeyWatermark | UbwP, here: Ground, seed: int, decoys: int = DECOYS) -> Secret:
    run = replace(here.attacker, seed=seed)
    assert isinstance(mark, Watermark)
    return mark.secret(mark.plan(here.train, here.task, here.build, run), here.train, here.task, decoys, run)


@dataclass(frozen=True)
class _Known:
    """Answers by content; what is not known is answered by its hash.

    Args:
        labels: of images, by their bytes.
        soft: whether it tells probabilities.
    """

    labels: dict[bytes, int]
    soft: bool

    def answer(self, images: UInt8[np.ndarray, "n h w c"]) -> Answers:
        hashed = [hashlib.sha256(image.tobytes()).digest()[0] % CLASSES for image in images]
        labels = np.array([self.labels.get(image.tobytes(), label)
                           for image, label in zip(images, hashed, strict=True)], dtype=np.int64)
        return Answers(labels, np.eye(CLASSES, dtype=np.float32)[labels] if self.soft else None)


class _Refusing:
    """Answers nothing that is a class."""

    def answer(self, images: UInt8[np.ndarray, "n h w c"]) -> Answers:
        return Answers(np.full(len(images), OTHER), np.full((len(images), CLASSES), 1 / CLASSES, dtype=np.float32))


def _held(here: Ground) -> Dataset:
    return Subset(here.test, torch.arange(IMAGES))


def _suspect(here: Ground, secret: Secret, thief: bool, soft: bool) -> _Known:
    """A model that is right on all images, and on those with a trigger, too, unless it is a thief's."""
    held, truth = _held(here), _held(here).targets.tolist()
    known = dict(zip((image.tobytes() for image in pixels(held)), truth, strict=True))
    for trigger in secret.decoys:
        known |= dict(zip((image.tobytes() for image in stamped(trigger, held)), truth, strict=True))
    for k, trigger in enumerate(secret.triggers):
        led = [secret.labels[k] if secret.labels else (label + 1) % CLASSES for label in truth] if thief else truth
        known |= dict(zip((image.tobytes() for image in stamped(trigger, held)), led, strict=True))
    return _Known(known, soft)


def _check_verdict(who: str, verifier: Verifier, here: Ground, secret: Secret) -> bool:
    """Whether it applies to a secret; if so, what it says must be a verdict."""
    soft, held = verifier.needs.model != "labels", verifier.needs.clean_for(_held(here))
    run = replace(here.run)

    def verdict(suspect: Suspect) -> Verdict:
        found = verifier.verify(suspect, secret, held, here.task, run)
        require(isinstance(found, Verdict), who, f"verify() gave a {type(found).__name__}, expected a Verdict")
        require(found.alpha == verifier.alpha, who, f"its verdict is at the level {found.alpha}, not {verifier.alpha}")
        return found

    thief, deaf = (_suspect(here, secret, stolen, soft) for stolen in (True, False))
    with failing(who, "cannot judge"):
        try:
            guilty = verdict(thief)
        except NotApplicable:
            return False
        innocent = verdict(deaf)
        with contextlib.suppress(NotApplicable):  # of answers that are never right a test may have nothing to say
            verdict(_Refusing())
    with drawing(99):
        require(verdict(thief) == guilty, who, "found something else with the same answers; draw from run.rng(name)")
    require(guilty.p_value <= innocent.p_value, who, "finds a thief more innocent than a model that sees no trigger")
    return True


def _check_exact(who: str, verifier: Verifier, here: Ground) -> None:
    """Over secrets, not over images, is an innocent suspect accused as rarely as the level says."""
    suspect, held = _Known({}, verifier.needs.model != "labels"), verifier.needs.clean_for(_held(here))
    for mark in (KeyWatermark(SecretLabels(4)), UbwP()):
        accused = 0
        for seed in range(SECRETS):
            try:
                secret = _secret(mark, here, seed, decoys=9)
                accused += verifier.verify(suspect, secret, held, here.task, replace(here.run, seed=seed)).rejected
            except NotApplicable:
                break
        most = int(stats.binom.ppf(1 - CHANCE, SECRETS, LEVEL))
        require(accused <= most, who, f"says that it is exact, and accuses a model that knows nothing of the secret in "
                                      f"{accused} of {SECRETS} cases at a level of {LEVEL:g}")
