"""Watermark a data set before its release.

The rows of a release are in a random order, and the images that a suspect will be asked about are kept out of it: the
number of a file must not tell which class an image had before it was marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import urandom
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidedoor import registry
from sidedoor.attacks.poisoning.key_watermark import KeyWatermark
from sidedoor.attacks.poisoning.ubw_p import UbwP
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.backdoor.export import WATERMARKED, Form, write
from sidedoor.claims.preview import save_preview
from sidedoor.claims.result import Released, Trial
from sidedoor.claims.secret import Claim, Plan, save
from sidedoor.claims.trial import tried
from sidedoor.core.progress import Progress, Silent
from sidedoor.data.base import ArrayDataset, Dataset, Subset
from sidedoor.engine import Recipe, Run, fabric
from sidedoor.errors import ConfigError
from sidedoor.goals.secret_labels import SecretLabels
from sidedoor.metrics import chance
from sidedoor.metrics.hypothesis import needed
from sidedoor.ownership.base import Verifier
from sidedoor.ownership.decoys import Decoys
from sidedoor.ownership.dvbw import Dvbw
from sidedoor.ownership.dvbw_label_only import DvbwLabelOnly
from sidedoor.ownership.keys import Keys
from sidedoor.ownership.keys_sequential import KeysSequential
from sidedoor.ownership.keys_soft import KeysSoft
from sidedoor.ownership.ubw import Ubw
from sidedoor.tasks.classification import Classification
from sidedoor.vetting.filter.reading import read

A_KEY, UNTARGETED = 0.02, 0.1
"""Share of the rows that a key marks, and that an untargeted watermark marks, where nobody says otherwise."""
SMALLEST = 10
"""A patch is a tenth of an image's shorter side, of three pixels at least."""


@dataclass(frozen=True)
class WatermarkSettings:
    """How a data set is marked, and how a suspect will be tested.

    Args:
        keys: secret triggers with a label each.
        rate: share of the rows that all keys together mark; None: 2 % a key, or 10 % of an untargeted watermark.
        harmless: mark by one trigger whose labels are random, so that nobody who learns it can steer a model; the test
            ranks it among decoys and asks more.
        alpha: the level of the test.
        images: that a suspect is asked about with each trigger; they are kept out of the release.
        sequential: ask key by key, and stop when it is decided.
        patch: pixels a side of a trigger; None: a tenth of the image.
        trial: the network that is trained on the marked data, and on the same without marks, to see what the mark costs
            and whether it takes; None: none.
        recipe: by which it is trained.
        size: pixels a side that images of a folder are resized to; None: as they are, or 32 if their sizes differ.
        form: of the release, class folders of PNG or one archive.

    Raises:
        ConfigError: numbers that cannot mean anything.
    """

    keys: int = 8
    rate: float | None = None
    harmless: bool = False
    alpha: float = 0.01
    images: int = 25
    sequential: bool = False
    patch: int | None = None
    trial: str | Mapping[str, Any] | None = "small_cnn"
    recipe: Recipe = field(default_factory=Recipe)
    size: int | None = None
    form: Form = "folder"

    def __post_init__(self) -> None:
        if self.keys < 1 or self.images < 1 or not 0 < self.alpha < 1 or not 0 < self.marked <= 1:
            raise ConfigError(f"keys = {self.keys}, images = {self.images}, alpha = {self.alpha} and rate = {self.rate}"
                              " given; expected at least one key and image, alpha above 0 and below 1, and a rate "
                              "above 0 of at most 1")
        if self.harmless and self.sequential:
            raise ConfigError("a harmless watermark has no keys to ask about one after the other; leave one of the two")
        if self.form not in ("folder", "npz"):
            raise ConfigError(f"form = {self.form!r} given; expected folder or npz")

    @property
    def marked(self) -> float:
        """The share of the rows that are marked."""
        if self.rate is not None:
            return self.rate
        return UNTARGETED if self.harmless else min(1.0, A_KEY * self.keys)


def watermark(data: str | Path | Dataset, out: str | Path, secret: str | Path, *,
              settings: WatermarkSettings | None = None, root: str | Path | None = None, download: bool = False,
              device: str = "auto", progress: Progress | None = None) -> Released:
    """Mark a data set and write the release, the secret, and a picture of marked images beside the secret.

    Args:
        data: images with labels: a folder of class folders, an .npz file, the name of a registered set, or a data set.
            Nothing is written there. Of data with a test part only the training part is released.
        out: the folder of the release, to be made.
        secret: the file of the secret, to be made; whoever has it can find and remove the watermark.
        root: where registered data sets lie.

    Raises:
        CannotComplete: a file cannot be read or written.
        ConfigError: settings that cannot mean anything here, or files that exist.
    """
    settings, folder, file = settings or WatermarkSettings(), Path(out), Path(secret)
    _check(folder, file)
    given = read(data, settings.size, root, download)
    run = AttackerRun.of(Run(fabric(device), settings.recipe, int.from_bytes(urandom(8), "big") >> 1,
                             progress=progress or Silent()))
    task = Classification(len(given.data.classes))
    plan = _plan(settings, task, run)
    held, base = _parts(given.data, settings, run)
    mark = _mark(settings, base)
    backdoor = mark.plan(base, task, _no_surrogate, run)
    marked = PoisonedDataset(base, backdoor, task)
    kept = mark.secret(backdoor, base, task, needed(settings.alpha) if settings.harmless else 0, run)
    trial = None if settings.trial is None else tried(settings.trial, base, marked, kept, held, plan.test, run)
    met = None if trial is None else trial.hits
    power = None if met is None else _power(settings, task, met / settings.keys)
    plan = Plan(plan.test, plan.beside, plan.order, power)
    claim = Claim(urandom(32), registry.plain(mark), kept, held, plan, tuple(backdoor.poison.index.tolist()),
                  marked.fingerprint())
    save(claim, file)
    manifest = {"watermark": "This data set carries an ownership watermark.", "scheme": registry.name_of(mark),
                "commitment": claim.commitment, "rows": len(marked)}
    write({"train": marked}, folder, manifest, settings.form, WATERMARKED)
    preview = save_preview(base, marked, backdoor, file)
    return _released(claim, settings, marked, trial, (folder, file, preview),
                     (*given.notes, *(f"left out, since it cannot be used: {name} ({reason})"
                                      for name, reason in given.quarantined)))


def _check(folder: Path, file: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; give another, or delete it")
    if file.exists():
        raise ConfigError(f"{file} exists and may be the secret of another release; give another file")
    if file.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"the secret {file} would lie in the release {folder}; give a file elsewhere")


def _no_surrogate() -> torch.nn.Module:
    raise ConfigError("a watermark asked for a network of its own, and none is given")


def _plan(settings: WatermarkSettings, task: Classification, run: Run) -> Plan:
    """The test, if so many keys can reach the level at all."""
    order = int(torch.randint(2**62, (), generator=run.rng("order of questions")))
    if settings.harmless:
        return Plan(Decoys(settings.alpha), (Ubw(),), order, None)
    if _power(settings, task, 1.0) == 0:
        fewest = next(k for k in range(1, 10_000) if _power(replace(settings, keys=k), task, 1.0))
        raise ConfigError(f"{settings.keys} keys of {task.classes} classes given; even if a model meets all of them, "
                          f"that is no evidence at a level of {settings.alpha:g}: give {fewest} or more")
    test: Verifier = KeysSequential(settings.alpha) if settings.sequential else Keys(settings.alpha)
    beside = () if settings.sequential else (KeysSoft(settings.alpha), Dvbw(), DvbwLabelOnly())
    return Plan(test, beside, order, None)


def _parts(data: Dataset, settings: WatermarkSettings, run: Run) -> tuple[ArrayDataset, Dataset]:
    """The images for the test, and the others in a random order."""
    if len(data) < 2 * settings.images:
        raise ConfigError(f"{settings.images} images for the test given, of {len(data)} in all; they are kept out of "
                          "the release, so give fewer, or more data")
    order = torch.randperm(len(data), generator=run.rng("order of rows"))
    chosen, rest = order[:settings.images], order[settings.images:]
    return ArrayDataset(data.rows(chosen), data.targets[chosen], data.classes, "images of the secret"), \
        Subset(data, rest)


def _mark(settings: WatermarkSettings, base: Dataset) -> KeyWatermark | UbwP:
    patch = settings.patch or max(3, min(base.shape[1:]) // SMALLEST)
    if settings.harmless:
        return UbwP(rate=settings.marked, size=patch)
    return KeyWatermark(SecretLabels(settings.keys), rate=settings.marked, size=patch)


def _power(settings: WatermarkSettings, task: Classification, rate: float) -> float:
    """Against a model that meets each key with a probability."""
    if settings.sequential:
        return chance.sequential_power(settings.keys, task.classes, settings.alpha, rate, KeysSequential().rate)
    return chance.power(settings.keys, task.classes, settings.alpha, rate)


def _needed(settings: WatermarkSettings, classes: int) -> tuple[int | None, float | None]:
    """Hits that a suspect is accused of, and how probable one must be for a power of 95 %; None where not counted."""
    if settings.harmless:
        return None, None
    if settings.sequential:
        staked = KeysSequential().rate
        return None, chance.needed_sequential_rate(settings.keys, classes, settings.alpha, staked)
    return (chance.needed_hits(settings.keys, classes, settings.alpha),
            chance.needed_rate(settings.keys, classes, settings.alpha))


def _released(claim: Claim, settings: WatermarkSettings, marked: PoisonedDataset, trial: Trial | None,
              files: tuple[Path, Path, Path], notes: tuple[str, ...]) -> Released:
    classes, asked = len(marked.classes), len(claim.images)
    keys, (hits, rate) = len(claim.secret.labels), _needed(settings, classes)
    triggers = len(claim.secret.triggers) + len(claim.secret.decoys)
    counts = Tensor.tolist(torch.bincount(marked.poison.door, minlength=len(claim.secret.triggers)))
    return Released(
        commitment=claim.commitment, folder=str(files[0]), secret=str(files[1]), preview=str(files[2]),
        scheme=claim.watermark["name"], rows=len(marked), marked=len(claim.rows), a_key=(min(counts), max(counts)),
        keys=keys, classes=classes, alpha=settings.alpha, test=registry.name_of(claim.plan.test),
        needed_hits=hits, needed_rate=rate,
        queries=(triggers + 1) * asked, power=claim.plan.power, trial=trial, notes=notes)
