"""Is this model backdoored? Audits of it beside audits of clean models like it, and a demonstration where they differ.

The rate of false findings is that of conformal p-values: under the assumption that a clean suspect is exchangeable
with its references, as far as it was trained like them, the model-level p-value is at most alpha with probability
alpha, whatever the audits and however they depend on each other. Without references there is no verdict.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.algorithms.features.cut import cut
from sidedoor.algorithms.saliency.grad_cam import grad_cam
from sidedoor.core.checkpoint import Shelf
from sidedoor.core.progress import Progress, Silent
from sidedoor.data.augment import augmentation
from sidedoor.data.base import ArrayDataset, Dataset, Splits, halves
from sidedoor.engine import Recipe, Run, fabric
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.evidence import Finding
from sidedoor.metrics.hypothesis import combined_p, conformal_p, needed
from sidedoor.tasks.classification import Classification
from sidedoor.vetting import references as clean_models
from sidedoor.vetting.battery import PROFILES, Notebook, Step, Told
from sidedoor.vetting.confirm import Demonstration, demonstrated, trigger
from sidedoor.vetting.described import environment, network_in_words
from sidedoor.vetting.images import few, parts_of
from sidedoor.vetting.references import SHORTFALL, Reference
from sidedoor.vetting.result import Audited, Scan, Verdict
from sidedoor.vetting.suspect import (
    USUAL,
    Accuracy,
    accuracy,
    answers,
    in_models_order,
    labels_among,
    object_suspect,
    open_suspect,
    relabelled,
)

SHOWN = 8


@dataclass(frozen=True)
class ScanSettings:
    """How a scan is made.

    Args:
        alpha: rate of false findings, in (0, 1).
        references: how many clean models are trained, or a folder of weights of trusted ones; None: as many as `alpha`
            needs; 0: none, and then no verdict.
        profile: of the audits.
        minutes: that may be spent; what does not fit is left out and said so.
        recipe: by which references are trained; that of the suspect is best.
        augment: of the references' training data.
        normalization: behind which the weights were trained; "auto" to look for it.
        weights_key: the key inside the file, where several lead to tensors.
        labels: names of the model's outputs in their order, where these are not the classes of the images.
        image: (channels, height, width) where there are no images.
        classes: of the model, where there are no images.
    """

    alpha: float = 0.05
    references: int | Path | None = None
    profile: str = "standard"
    minutes: float = 15.0
    recipe: Recipe = field(default_factory=Recipe)
    augment: tuple[str, ...] = ()
    normalization: str = "auto"
    weights_key: str = ""
    labels: tuple[str, ...] = ()
    image: tuple[int, int, int] | None = None
    classes: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha = {self.alpha} given; expected a rate between 0 and 1, such as 0.05")
        if self.profile not in PROFILES:
            raise ConfigError(f"profile {self.profile!r} given; expected {' or '.join(PROFILES)}")
        if self.normalization not in (*USUAL, "auto"):
            raise ConfigError(f"normalisation {self.normalization!r} given; expected one of {', '.join(USUAL)}, auto")
        if isinstance(self.references, Path) and not self.references.is_dir():
            raise ConfigError(f"{self.references} is no folder; expected one of weights files of trusted models")
        if self.minutes <= 0:
            raise ConfigError(f"a budget of {self.minutes} minutes given; expected more than 0")

    @property
    def count(self) -> int:
        """References to train."""
        return self.references if isinstance(self.references, int) else needed(self.alpha)


def scan(model: str | Path | nn.Module, data: str | Path | Dataset | Splits | None = None, *,
         architecture: str | Mapping[str, Any] | None = None, settings: ScanSettings | None = None,
         out: str | Path | None = None, root: str | Path | None = None, download: bool = False, device: str = "auto",
         progress: Progress | None = None) -> Scan:
    """Whether a model of unknown origin is backdoored, as far as audits can tell.

    Args:
        model: a weights file, which is read without running code from it, or a classifier of inputs in [0, 1].
        data: clean images of the model's task with their labels: a folder of class folders, an .npz file, the name of
            a registered set, a data set, or training and test part; None: audits that need no images, and no verdict.
            References are trained on the training part, and audits look at the test part.
        architecture: a registered network; None to look for one that fits.
        out: a folder that keeps what is measured, so that a scan resumes and later ones share references; None keeps
            nothing.
        root: where registered data sets lie.

    Raises:
        CannotComplete: a file cannot be read, or is of another network.
        ConfigError: settings that cannot mean anything, or no known architecture fits.
    """
    settings = settings or ScanSettings()
    with tempfile.TemporaryDirectory(prefix="sidedoor-") as temporary:
        folder = Path(out) if out is not None else Path(temporary)
        run = Run(fabric(device), settings.recipe, settings.seed, augmentation(settings.augment),
                  progress=progress or Silent(), shelf=Shelf(folder / "references"))
        splits, name = _images(data, root, download, settings)
        return _Scanning(model, splits, name, architecture, settings, folder, run).result()


class _Scanning:
    """One scan: its suspect, its images, its references, its clock."""

    def __init__(self, model: str | Path | nn.Module, splits: Splits, name: str,
                 architecture: str | Mapping[str, Any] | None, settings: ScanSettings, folder: Path, run: Run):
        self.start, self.settings, self.run, self.name = time.monotonic(), settings, run, name
        self.quiet = replace(run, progress=Silent())  # of what takes a moment
        self.labelled = name != "none"
        test = few(splits.clean or splits.test, run, "scanned")
        self.train, self.mapped = splits.train, False
        if settings.labels:
            places = labels_among(test, settings.labels)
            test, self.mapped = relabelled(test, places, settings.labels), True
        if isinstance(model, nn.Module):
            self.suspect = object_suspect(model, type(model).__name__)
        else:
            self.suspect = open_suspect(Path(model), architecture, test, settings.normalization,
                                        settings.weights_key, run)
        self.task = Classification(len(test.classes))
        self.notes = list(self.suspect.notes)
        self.accuracy: Accuracy | None = None
        if self.labelled:
            given = answers(self.suspect.model, test, run)
            if ordered := in_models_order(given, test, self.train):
                self.notes.append("the model has its classes in another order than the images; theirs was put into "
                                  "its own")
                test, self.train = ordered
            self.accuracy = accuracy(given, test)
        self.test = test
        self.images, self.held_out = halves(test, settings.seed) if self.labelled else (test, test)
        self.notebook = Notebook(folder / "audits", self.images, self.task, run)
        self.problems: list[str] = []

    def result(self) -> Scan:
        steps = PROFILES[self.settings.profile]
        if self.accuracy and not self.accuracy.enough:
            skipped = tuple(Audited(step.name, step.audits[0], step.role, None, reason="it would mean nothing")
                            for step in steps)
            doubt = (f"an accuracy of {self.accuracy.value:.1%} on {self.accuracy.n} images does not show that the "
                     "network was put together rightly: its architecture, the normalisation of its inputs, the size of "
                     "images or the order of classes may be others")
            return self.told("inconclusive", None, (doubt,), skipped, (), [])
        others = self.references()
        with self.run.progress.task("scan", len(steps)) as advance:
            audits = []
            for step in steps:
                audits.append(self.audited(step, others))
                advance(1, step.name)
        compared = [a for a in audits if a.compared and a.role != "note"]
        p = _model_p(compared) if compared else None
        shown = self.demonstrations(compared, others) if p is not None and p <= self.settings.alpha else ()
        verdict, why = self.verdict(audits, p, shown)
        return self.told(verdict, p, why, tuple(audits), shown, others)

    def told(self, verdict: Verdict, p: float | None, why: tuple[str, ...], audits: tuple[Audited, ...],
             shown: tuple[Demonstration, ...], others: list[Reference]) -> Scan:
        return Scan(verdict, p, self.settings.alpha, why, self.about_model(), self.about_data(), self.accuracy,
                    self.calibration(others), audits, shown, tuple(self.notes), environment(self.run),
                    self.pictures(audits, shown))

    def references(self) -> list[Reference]:
        """Clean models like the suspect; none where there cannot be any, which is one of the problems then."""
        settings, found = self.settings, []
        if not self.labelled:
            self.problems.append("without images there are no clean models to compare with")
        elif isinstance(settings.references, Path):
            found = clean_models.trusted(self.suspect, settings.references, self.run)
        elif self.mapped:
            self.problems.append("the images have fewer classes than the model, so no clean model like it can be "
                                 "trained on them; give a folder of trusted ones")
        elif settings.count:
            found = clean_models.trained(self.suspect, self.train, self.task, self.run, settings.count)
        else:
            self.problems.append("no clean models to compare with were asked for")
        if found and len(found) < needed(settings.alpha):
            self.problems.append(f"{len(found)} clean models given; a false-alarm rate of {settings.alpha:g} needs "
                                 f"{needed(settings.alpha)}")
        return found if not found or self.alike(found) else []

    def alike(self, found: list[Reference]) -> bool:
        """Whether references are about as accurate as the suspect; trains them, as far as the budget goes."""
        reached: list[float] = []
        with self.run.progress.task("clean models", len(found)) as advance:
            for place, reference in enumerate(found):
                before = time.monotonic()
                reached.append(accuracy(answers(reference.network(), self.test, self.quiet), self.test).value)
                took = time.monotonic() - before
                advance(1)
                if took * (len(found) - place - 1) > self.left():
                    self.problems.append(f"the budget of {self.settings.minutes:g} minutes does not suffice for "
                                         f"{len(found)} clean models of {took:.0f} s each; those that are finished "
                                         "are kept")
                    return False
        mean, own = sum(reached) / len(reached), self.accuracy.value if self.accuracy else 0.0
        if mean < own - SHORTFALL:
            self.problems.append(f"the clean models reach an accuracy of {mean:.1%} and the suspect {own:.1%}: they "
                                 "are not models like it; give more images, or its recipe")
        return mean >= own - SHORTFALL

    def left(self) -> float:
        """Seconds of the budget."""
        return 60 * self.settings.minutes - (time.monotonic() - self.start)

    @functools.cached_property
    def pass_seconds(self) -> float:
        """How long the network takes for one image and the gradient there, in a batch of a usual size."""
        frozen = self.run.frozen(self.suspect.model)
        x = torch.zeros(16, *self.test.shape, device=self.run.device, requires_grad=True)
        taken = []
        for _ in range(3):
            before = time.monotonic()
            torch.autograd.grad(frozen(x).sum(), x)
            taken.append(time.monotonic() - before)
        return min(taken) / len(x)

    def audited(self, step: Step, others: list[Reference]) -> Audited:
        """One audit of the suspect and of its references, by that of its settings which suits the data."""
        needs = registry.make("defense", step.audits[0]).needs
        if needs.clean != "none" and not self.labelled:
            return Audited(step.name, step.audits[0], step.role, None, reason="it needs images")
        unknown = sum(not self.notebook.knows(audit, self.suspect.key) for audit in step.audits)
        if (estimate := unknown * step.passes * self.task.classes * self.pass_seconds) > self.left():
            return Audited(step.name, step.audits[0], step.role, None, reason=_beyond(estimate))
        own = [self.notebook.told(audit, self.suspect.key, lambda: self.suspect.model) for audit in step.audits]
        usual = len(own) // 2
        mine = Audited(step.name, step.audits[usual], step.role, own[usual], reason=own[usual].reason)
        if not others or not any(told.finding for told in own):
            return replace(mine, reason=mine.reason or "no clean models to compare with")
        missing = sum(not self.notebook.knows(audit, other.key) for audit in step.audits for other in others)
        estimate = missing * sum(told.seconds for told in own) / len(own)
        if estimate > self.left():
            return replace(mine, reason=_beyond(estimate))
        return _compared(step, own, [[self.notebook.told(audit, other.key, other.network) for other in others]
                                     for audit in step.audits], mine)

    def demonstrations(self, audits: list[Audited], others: list[Reference]) -> tuple[Demonstration, ...]:
        """What triggers do that audits recovered which see something in the suspect."""
        found = []
        for each in audits:
            if each.p is not None and each.p <= self.settings.alpha and each.told:
                theirs = [(self.notebook.told(each.audit, other.key, other.network), other.network())
                          for other in others]
                shown = demonstrated(each.audit, each.told, self.suspect.model, theirs, self.held_out, self.quiet)
                found += [shown] if shown else []
        return tuple(found)

    def verdict(self, audits: list[Audited], p: float | None, shown: tuple[Demonstration, ...]) \
            -> tuple[Verdict, tuple[str, ...]]:
        if p is not None and p <= self.settings.alpha:
            if any(each.confirmed for each in shown):
                return "finding", tuple(f"{each.audit} demonstrates it" for each in shown if each.confirmed)
            return "suspicious", tuple(_doubt(each) for each in shown) or ("no trigger was recovered",)
        lacking = [f"{a.name} {a.reason}" for a in audits if a.role == "required" and not a.compared]
        if self.problems or lacking:
            return "inconclusive", (*self.problems, *(lacking if not self.problems else ()))
        return "no finding", (f"the model-level p-value is {p:.3f}",)

    def calibration(self, others: list[Reference]) -> str:
        if not others:
            return "not compared with clean models"
        kind = "trusted" if isinstance(self.settings.references, Path) else "trained on the same images"
        return f"ranked among {len(others)} clean models, {kind}"

    def about_model(self) -> dict[str, Any]:
        suspect = self.suspect
        return {"name": suspect.name, "sha256": suspect.sha256,
                "architecture": network_in_words(suspect.architecture), "how": suspect.how,
                "classes": self.task.classes, "shape": list(self.test.shape), "normalization": suspect.normalization}

    def about_data(self) -> dict[str, Any]:
        if not self.labelled:
            return {"name": "no images", "n": 0, "classes": [], "fingerprint": ""}
        counts = torch.bincount(self.test.targets, minlength=self.task.classes).tolist()
        return {"name": self.name, "n": len(self.test), "classes": list(self.test.classes), "per_class": counts,
                "fingerprint": self.test.fingerprint()}

    def pictures(self, audits: tuple[Audited, ...], shown: tuple[Demonstration, ...]) -> tuple[Tensor, ...]:
        """A few held-out images, the same with the trigger of the best demonstration, and where the model looks."""
        best = next((each for each in shown if each.confirmed), next(iter(shown), None))
        told = next((a for a in audits if best and a.name == best.audit), None)
        found = trigger(told.audit, told.told) if told and told.told else None
        if best is None or found is None:
            return ()
        label, stamp, _ = found
        x = self.held_out.fetch(torch.arange(min(64, len(self.held_out))), self.run.device).x
        x = x[self.suspect.model(x).argmax(1) != label][:SHOWN].detach()
        stamped = stamp(x)
        try:
            network = cut(self.suspect.model, self.test.shape)
            labels = torch.full((len(x),), label, device=x.device)
            return x.cpu(), stamped.cpu(), grad_cam(network, stamped, labels)[:, None].cpu()
        except (NotApplicable, ConfigError):
            return x.cpu(), stamped.cpu()


def _compared(step: Step, own: list[Told], theirs: list[list[Told]], mine: Audited) -> Audited:
    """The setting of an audit whose median over all models is nearest what the step aims at, with its p-value."""
    found: list[tuple[float, int, list[Finding]]] = []
    for place, (told, others) in enumerate(zip(own, theirs, strict=True)):
        findings = [each.finding for each in (told, *others) if each.finding]
        if len(findings) == 1 + len(others):
            middle = float(np.median([finding.score for finding in findings]))
            found.append((abs(middle - step.aim), place, findings))
    if not found:
        return replace(mine, reason="it tells nothing of the model, or of a clean one")
    _, place, (suspect, *clean) = min(found, key=lambda each: each[:2])
    scores = tuple(finding.score for finding in clean)
    per_class = list(zip(*(finding.per_class for finding in clean), strict=True))
    spread = tuple((min(values), max(values)) for values in per_class)
    return replace(mine, audit=step.audits[place], told=own[place], references=scores, clean_per_class=spread,
                   p=conformal_p(suspect.score, scores), reason="")


def _beyond(seconds: float) -> str:
    return f"left out: about {max(seconds / 60, 0.1):.1f} minutes, beyond the budget"


def _model_p(audits: list[Audited]) -> float:
    own = [a.told.finding.score for a in audits if a.told and a.told.finding]
    return combined_p(own, list(zip(*(a.references for a in audits), strict=True)))


def _doubt(shown: Demonstration) -> str:
    """Why a demonstration does not demonstrate a backdoor."""
    if shown.natural:
        return f"{shown.audit}: clean models take its trigger, too, so it is a natural feature of the class"
    if not shown.works:
        return f"{shown.audit}: its trigger works no better than those of clean models" if shown.pixels is None else \
            f"{shown.audit}: its trigger does not work on images that it was not recovered from"
    return f"{shown.audit}: its trigger is no smaller than those of clean models"


def _images(data: str | Path | Dataset | Splits | None, root: str | Path | None, download: bool,
            settings: ScanSettings) -> tuple[Splits, str]:
    """Training and test part of what was given, and its name; a black image of each class where nothing was."""
    if isinstance(data, Splits):
        return data, "given as an object"
    if isinstance(data, Dataset):
        return Splits(data, data), "given as an object"
    if data is None:
        if settings.image is None or settings.classes < 2:
            raise ConfigError("no images given; then the size of images (--size) and the number of classes (--classes) "
                              "are needed")
        none = ArrayDataset(torch.zeros(settings.classes, *settings.image, dtype=torch.uint8),
                            torch.arange(settings.classes), settings.classes, "none")
        return Splits(none, none), "none"
    return parts_of(data, settings.image and settings.image[1], root, download), str(data)
