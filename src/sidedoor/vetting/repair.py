"""A model of unknown origin repaired with a few clean images, and written with what was done to it.

The repair gets one part of the images, clean accuracy is measured on another. Neither says whether there was a backdoor
or whether it is gone: audit the model before and after.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.core.foreign_weights import read_weights
from sidedoor.core.model_file import write_model
from sidedoor.core.progress import Progress, Silent
from sidedoor.data.augment import augmentation
from sidedoor.data.base import Dataset, Splits, split
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run, fabric
from sidedoor.errors import CannotComplete, ConfigError, Diverged
from sidedoor.models.base import Classifier
from sidedoor.tasks.classification import Classification
from sidedoor.vetting.images import few, parts_of
from sidedoor.vetting.suspect import (
    USUAL,
    Accuracy,
    Suspect,
    accuracy,
    answers,
    in_models_order,
    labels_among,
    object_suspect,
    open_suspect,
    relabelled,
    reverse,
)

HELD_OUT = 0.2
"""Share of a single data set that a repair does not see."""
Table = dict[str, Tensor]


@dataclass(frozen=True)
class RepairSettings:
    """How a model is opened and repaired.

    Args:
        augment: of the images that the repair trains on, such as "crop" and "flip".
        normalization: behind which the weights were trained; "auto" to look for it.
        weights_key: the key inside the file, where several lead to tensors.
        labels: names of the model's outputs in their order, where these are not the classes of the images.
        size: pixels a side that images of a folder are resized to.
        seed: of the repair.
    """

    augment: tuple[str, ...] = ()
    normalization: str = "auto"
    weights_key: str = ""
    labels: tuple[str, ...] = ()
    size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.normalization not in (*USUAL, "auto"):
            raise ConfigError(f"normalisation {self.normalization!r} given; expected one of {', '.join(USUAL)}, auto")


@dataclass(frozen=True)
class Repaired:
    """A repaired model.

    Args:
        weights: by the names of the file that was given, or of the model's state.
        manifest: what was done, to which model, with which images, and what it cost.
        before: clean accuracy of the model that was given, on images that the repair did not see.
        after: that of the repaired one.
    """

    model: nn.Module
    weights: Table
    manifest: dict[str, Any]
    before: Accuracy
    after: Accuracy

    def __str__(self) -> str:
        return (f"clean accuracy {self.before.value:.1%} before and {self.after.value:.1%} after "
                f"(95 %: {self.after.low:.1%} to {self.after.high:.1%}), on {self.after.n} images that the repair did "
                "not see")

    def save(self, path: str | Path) -> Path:
        """Write the weights as safetensors with the manifest in their header, and beside them the manifest as JSON with
        the sha256 of the file; the latter's path.

        Raises:
            CannotComplete: it cannot be written.
            ConfigError: another name than NAME.safetensors, or one of the two files exists.
        """
        return write_model(path, self.weights, self.manifest)


def repair_model(model: str | Path | nn.Module, data: str | Path | Dataset | Splits,
                 method: str | Mapping[str, Any] | Repair, *, architecture: str | Mapping[str, Any] | None = None,
                 settings: RepairSettings | None = None, root: str | Path | None = None, download: bool = False,
                 device: str = "auto", progress: Progress | None = None) -> Repaired:
    """Repair a model of unknown origin.

    Args:
        model: a weights file, which is read without running code from it, or a classifier of inputs in [0, 1].
        data: clean images of the model's task with their labels: a folder of class folders, an .npz file, the name of
            a registered set, a data set, or training and test part. The repair gets the clean part of those that have
            one, else the training part, and accuracy is measured on the test part; of a single set a fifth is that.
        method: a repair, or the name of one, or name and parameters.
        architecture: a registered network; None to look for one that fits.
        root: where registered data sets lie.

    Raises:
        CannotComplete: a file cannot be read, the model does not run on the images as it should, or training diverged.
        ConfigError: settings that cannot mean anything, or no known architecture fits.
        NotApplicable: the repair has nothing to work on.
    """
    settings, chosen = settings or RepairSettings(), _method(method)
    run = Run(fabric(device), seed=settings.seed, augment=augmentation(settings.augment), progress=progress or Silent())
    splits, name = _splits(data, settings, root, download)
    clean = few(splits.clean or splits.train, run, "clean images")
    held_out = few(splits.test, run, "held out")
    if settings.labels:
        places = labels_among(clean, settings.labels)
        clean, held_out = (relabelled(part, places, settings.labels) for part in (clean, held_out))
    if isinstance(model, nn.Module):
        suspect = object_suspect(model, type(model).__name__)
    else:
        suspect = open_suspect(Path(model), architecture, clean, settings.normalization, settings.weights_key, run)
    if ordered := in_models_order(answers(suspect.model, clean, run), clean, held_out):
        clean, held_out = ordered
    before = accuracy(answers(suspect.model, held_out, run), held_out)
    if not before.enough:
        raise CannotComplete(
            f"an accuracy of {before.value:.1%} on {before.n} images does not show that the network was put together "
            "rightly, so it was not repaired: its architecture (--arch), the normalisation of its inputs "
            "(--normalize), the size of images (--size) or the order of classes (--labels) may be others")
    repaired = _repaired(chosen, suspect, clean, run)
    after = accuracy(answers(repaired, held_out, run), held_out)
    given = None if isinstance(model, nn.Module) else read_weights(Path(model), settings.weights_key)
    manifest = {
        "repaired": True, **_about_method(chosen, settings, run), "input": _about_input(suspect, settings),
        "data": {"name": name, "classes": list(clean.classes), "repair": _about(clean), "held_out": _about(held_out)},
        "accuracy": {"before": vars(before) | {"on": "held_out"}, "after": vars(after) | {"on": "held_out"}}}
    return Repaired(repaired, _written(repaired, suspect, given), manifest, before, after)


def _method(given: str | Mapping[str, Any] | Repair) -> Repair:
    method = given if isinstance(given, Repair) else registry.make("defense", given)
    if not isinstance(method, Repair):
        repairs = [e.name for e in registry.entries() if e.kind == "defense" and e.stage == "repair"]
        raise ConfigError(f"{registry.name_of(method)} is no repair; expected one of {', '.join(repairs)}")
    return method


def _splits(data: str | Path | Dataset | Splits, settings: RepairSettings, root: str | Path | None, download: bool) \
        -> tuple[Splits, str]:
    if isinstance(data, Splits):
        return data, "given as an object"
    if isinstance(data, Dataset):
        return Splits(*split(data, HELD_OUT, settings.seed)), "given as an object"
    return parts_of(data, settings.size, root, download), str(data)


def _repaired(method: Repair, suspect: Suspect, clean: Dataset, run: Run) -> nn.Module:
    task = Classification(len(clean.classes))
    if not isinstance(task, method.tasks):
        raise ConfigError(f"{registry.name_of(method)} does not repair classifiers")
    given = method.needs.model_for(suspect.model, task), method.needs.clean_for(clean)
    try:
        return method.repair(*given, task, run).eval()
    except Diverged as error:  # whose exit code is that of a finding
        raise CannotComplete(f"the repair did not come to its end: {error}") from error


def _written(model: nn.Module, suspect: Suspect, given: Table | None) -> Table:
    """The weights by the names and types of the file that the model came from, so that its user can load them; what
    the file has beside the network is passed on.
    """
    if suspect.reversed:
        reverse(model)
    try:
        own, rest = model.state_dict(), dict(given or {})
        for part in [model, *([model.body] if isinstance(model, Classifier) else [])]:
            own = _named_as(part.state_dict(), rest) if given else own
            if own:
                break
        if not own:
            raise CannotComplete(f"the tensors of {suspect.name} have no names under which they could be written")
        return {name: tensor.detach().clone().to(rest[name].dtype if name in rest else tensor.dtype)
                for name, tensor in (rest | own).items()}
    finally:
        if suspect.reversed:
            reverse(model)


def _named_as(state: Table, given: Table) -> Table:
    """A state behind the prefix that its names have in a file; empty if they are not there."""
    needed = [name for name in state if not name.endswith("num_batches_tracked")]
    for prefix in (name.removesuffix(needed[0]) for name in given if name.endswith(needed[0])):
        if all(prefix + name in given for name in needed):
            return {prefix + name: tensor for name, tensor in state.items() if prefix + name in given}
    return {}


def _about_method(method: Repair, settings: RepairSettings, run: Run) -> dict[str, Any]:
    return {"method": registry.plain(method), "method_version": method.version, "seed": settings.seed,
            "augment": list(settings.augment), "sidedoor": importlib.metadata.version("sidedoor"),
            "torch": torch.__version__, "device": str(run.device), "threads": torch.get_num_threads()}


def _about_input(suspect: Suspect, settings: RepairSettings) -> dict[str, Any]:
    return {"name": suspect.name, "sha256": suspect.sha256, "architecture": suspect.architecture, "how": suspect.how,
            "normalization": suspect.normalization, "weights_key": settings.weights_key, "notes": list(suspect.notes)}


def _about(data: Dataset) -> dict[str, Any]:
    return {"n": len(data), "fingerprint": data.fingerprint()}
