"""A model of unknown origin made to run: its architecture, its classes, and how its inputs are normalised.

A file of weights does not say strides, poolings or activations, nor how inputs were prepared, so what was found is
shown by its accuracy on labelled images; until then no audit of it means anything.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from sidedoor import registry, zoo
from sidedoor.core.foreign_weights import Table, identify, read_weights
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.engine import Run
from sidedoor.errors import CannotComplete, ConfigError, NotApplicable
from sidedoor.metrics.statistics import wilson
from sidedoor.models.base import Classifier, Statistics, classifier
from sidedoor.types import Batch, Build

log = logging.getLogger("sidedoor")

USUAL: dict[str, Statistics] = {
    **zoo.PRESETS, "half": ((0.5,), (0.5,)), "0..255": ((0.0,), (1 / 255,)),
    "caffe": ((123 / 255, 117 / 255, 104 / 255), (1 / 255,)),
}
"""Normalisations that are tried where neither the file nor its user says one."""
BGR = ("caffe",)
"""Those of networks that take blue before green and red; their first layer is put into the usual order."""
FEWEST, LARGEST = 96, 512 * 3 * 32 * 32
"""Images by which a normalisation is chosen, and values in them, beyond which there are fewer than 512."""
CLEAR = 2.0
"""By how many of its standard errors the best normalisation must beat the next to be clear."""
MISORDERED, REORDERED = 0.5, 0.8
"""Accuracy below which labels may be in another order, and from which on another order is believed."""
WIDTHS, DEPTHS = (4, 8, 16, 32, 64), (22, 32, 44, 56)
"""What networks are tried with, besides their defaults."""


@dataclass(frozen=True)
class Suspect:
    """A model that runs, and what was found out about it.

    Args:
        build: an untrained network of the same kind.
        architecture: as a specification writes it; empty for a model that was given as an object.
        how: it is known, in words.
        sha256: of the file; of the state for an object.
        normalization: in words.
        notes: what a reader should know.
        reversed: whether the channels of its first layer were put from blue, green, red into the usual order.
    """

    model: nn.Module
    build: Build
    architecture: dict[str, Any]
    how: str
    name: str
    sha256: str
    normalization: str
    notes: tuple[str, ...] = ()
    reversed: bool = False

    @functools.cached_property
    def key(self) -> str:
        """Identifies the model as it runs: with other strides, or behind another normalisation, it is another one."""
        return _digest(self.model)


@dataclass(frozen=True)
class Accuracy:
    """On labelled images, with its 95 % interval; `enough` where it shows that the model was put together rightly."""

    value: float
    low: float
    high: float
    n: int
    enough: bool


def open_suspect(path: Path, architecture: str | Mapping[str, Any] | None, data: Dataset, normalization: str,
                 weights_key: str, run: Run) -> Suspect:
    """The model of a weights file.

    Args:
        architecture: a registered network; None to look for one whose tensors have these names and shapes.
        data: labelled images, whose classes and shape are the model's.
        normalization: one of `USUAL`, or "auto".

    Raises:
        CannotComplete: the file cannot be read, or is of another network.
        ConfigError: no known architecture fits.
    """
    if architecture is None:
        reference = _only(_fitting(read_weights(path, weights_key), data), path)
        how = "found by the names and shapes of its tensors"
    else:
        reference, how = registry.reference("model", architecture), "given"
    weights = zoo.Weights(str(path), weights_key=weights_key)
    build: Build = registry.make("model", reference, classes=len(data.classes), shape=data.shape)
    model, said = zoo.started(build, weights)
    suspect = Suspect(run.placed(model).eval(), build, reference, how, path.name, identify(path), "as the file says")
    if normalization != "auto":
        zoo.normalize(model, USUAL[normalization], str(path))
        if normalization in BGR:
            reverse(model)
        return replace(suspect, normalization=f"{normalization}, as given", reversed=normalization in BGR)
    return suspect if said else _normalized(suspect, data, run)


def object_suspect(model: nn.Module, name: str) -> Suspect:
    """A model that is at hand as an object; its references are copies with fresh weights."""
    def build() -> nn.Module:
        fresh = copy.deepcopy(model).requires_grad_(True)
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        return fresh

    own = copy.deepcopy(model).eval()
    return Suspect(own, build, {}, "given as an object", name, _digest(own), "the model's own")


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256(str(model).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fitting(table: Table, data: Dataset) -> Iterator[dict[str, Any]]:
    """Registered networks, then torchvision's, whose tensors have the names and shapes of a table."""
    maps = {tensor.shape[0] for tensor in table.values() if tensor.ndim == 4}
    for reference, build in _candidates(data, tuple(width for width in WIDTHS if width in maps)):
        try:
            with torch.device("meta"):
                model = build()
        except (ConfigError, RuntimeError, NotImplementedError):  # a size it does not take; values asked of no tensor
            continue
        if zoo.fits(model, table):
            yield registry.reference("model", reference)


def _candidates(data: Dataset, widths: tuple[int, ...]) -> Iterator[tuple[dict[str, Any], Build]]:
    for entry in registry.entries():
        if entry.kind == "model" and "classification" in entry.tasks and entry.name not in ("torchvision", "timm"):
            known = registry.parameters("model", entry.name)
            for further in [{}, *({"width": width} for width in widths if "width" in known),
                            *({"depth": depth} for depth in DEPTHS if "depth" in known and entry.name != "vit")]:
                reference = {"name": entry.name, **further}
                yield reference, registry.make("model", reference, classes=len(data.classes), shape=data.shape)
    from torchvision import models

    for name in models.list_models(module=models):
        def build(name: str = name) -> nn.Module:
            with warnings.catch_warnings():  # about how fresh weights are drawn, and these are none
                warnings.simplefilter("ignore", FutureWarning)
                made = models.get_model(name, weights=None, num_classes=len(data.classes))
            return classifier(made, len(data.classes), 3)

        yield {"name": "torchvision", "architecture": name}, build


def _only(found: Iterator[dict[str, Any]], path: Path) -> dict[str, Any]:
    reference = next(found, None)
    if reference is None:
        raise ConfigError(f"no known network has the tensors of {path}; give --arch NAME, and check that the number of "
                          "classes and the size of the images are the model's (--labels, --size)")
    log.info("%s is taken for %s", path, reference)
    return reference


def _normalized(suspect: Suspect, data: Dataset, run: Run) -> Suspect:
    """With the usual normalisation behind which the network fits the images best: by the statistics that its first
    batch normalisation has kept, which notice more than its accuracy does, else by its loss.
    """
    model = suspect.model
    assert isinstance(model, Classifier)
    own = (model.normalize.mean.flatten().tolist(), model.normalize.std.flatten().tolist())
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    tried = {"the architecture's": own} | {name: pair for name, pair in USUAL.items()
                                           if len(pair[0]) in (1, model.normalize.mean.numel())
                                           and (convolves or name not in BGR)}
    most = max(FEWEST, min(512, LARGEST // math.prod(data.shape)))
    rows = torch.randperm(len(data), generator=run.rng("normalisation"))[:most]
    batch = data.fetch(rows, run.device)
    misfit: dict[str, Tensor] = {}
    with run.progress.task("normalisation", len(tried)) as advance:
        for name, statistics in tried.items():
            zoo.normalize(model, statistics, suspect.name)
            with _reversed(model, name in BGR):
                misfit[name] = _misfit(model, batch)
            advance(1, name)
    best, *others = sorted(misfit, key=lambda name: misfit[name].mean().item())
    zoo.normalize(model, tried[best], suspect.name)
    if best in BGR:
        reverse(model)
    same = [name for name in others if tried[name] != tried[best]]
    notes = suspect.notes
    if same and not _clear(misfit[best], misfit[same[0]]):
        notes = (*notes, f"the normalisation is ambiguous: {best} fits the images hardly better than {same[0]}")
    return replace(suspect, normalization=f"{best}, found by how well it fits the images", notes=notes,
                   reversed=best in BGR)


def reverse(model: nn.Module) -> None:
    """Put the channels of a network's first convolution into the opposite order, in place: blue, green, red into red,
    green, blue. The network then says of images what it said before of reversed ones.

    Raises:
        NotApplicable: it has no convolution.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise NotApplicable("the network has no convolution whose channels could be put into another order")
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1))


@contextlib.contextmanager
def _reversed(model: nn.Module, really: bool) -> Iterator[None]:
    if really:
        reverse(model)
    try:
        yield
    finally:
        if really:
            reverse(model)


def _clear(best: Tensor, other: Tensor) -> bool:
    """Whether the difference is beyond chance; misfits of channels are no sample, and any difference counts."""
    gain = other - best
    if len(gain) < 30:
        return bool(gain.mean() > 0)
    return bool(gain.mean() > CLEAR * gain.std() / len(gain) ** 0.5)


@torch.no_grad()
def _misfit(model: Classifier, batch: Batch) -> Tensor:
    """Of each channel of the first convolution, the divergence of its outputs' distribution from what the batch
    normalisation behind it has kept; without one, the loss of each image.
    """
    layers = [module for module in model.body.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)][:2]
    first = layers[1] if len(layers) == 2 and isinstance(layers[1], nn.BatchNorm2d) else None
    if first is None or first.running_mean is None or first.running_var is None:
        return functional.cross_entropy(model(batch.x).float(), batch.y, reduction="none")
    seen: list[Tensor] = []
    handle = first.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        model(batch.x)
    finally:
        handle.remove()
    return _divergence(seen[0], first.running_mean, first.running_var)


def _divergence(maps: Float[Tensor, "b c h w"], mean: Float[Tensor, "c"], variance: Float[Tensor, "c"]) \
        -> Float[Tensor, "c"]:
    """Kullback-Leibler divergence of two normal distributions, that of the maps and that which was kept."""
    found = maps.transpose(0, 1).flatten(1)
    ratio = found.var(1).clamp(min=1e-12) / variance.clamp(min=1e-12)
    return (ratio - 1 - ratio.log() + (found.mean(1) - mean).square() / variance.clamp(min=1e-12)) / 2


def accuracy(given: Int[Tensor, "n"], data: Dataset) -> Accuracy:
    """Of a model's answers to labelled images. It is enough where its lower bound is three times chance, or 60 % of few
    classes.
    """
    hits = (given == data.targets).float()
    low, high = wilson(hits.sum().item(), len(hits))
    classes = len(data.classes)
    return Accuracy(hits.mean().item(), low, high, len(hits), low > (3 / classes if classes > 5 else 0.6))


def in_models_order(given: Int[Tensor, "n"], data: Dataset, *others: Dataset) -> tuple[Dataset, ...] | None:
    """Data sets with the labels that the model has for their classes, where its answers to the first of them show that
    it has the classes in another order.
    """
    classes = len(data.classes)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    counts.index_put_((data.targets, given), torch.ones_like(given), accumulate=True)
    rows, columns = linear_sum_assignment(-counts.numpy())
    before, after = counts.diagonal().sum().item(), counts[rows, columns].sum().item()
    if before >= MISORDERED * len(given) or after < REORDERED * len(given):
        return None
    order = torch.as_tensor(columns)
    names = tuple(data.classes[k] for k in order.argsort().tolist())
    return tuple(relabelled(part, order, names) for part in (data, *others))


def relabelled(data: Dataset, labels: Int[Tensor, "k"], classes: tuple[str, ...]) -> Dataset:
    """Images with the labels that a model has for their classes.

    Args:
        labels: of each class of the data.
        classes: names of the model's.
    """
    pixels = data.rows(torch.arange(len(data)))
    return ArrayDataset(pixels, labels[data.targets], classes, "relabelled")


def labels_among(data: Dataset, names: tuple[str, ...]) -> Int[Tensor, "k"]:
    """The place of each class of the data among the names of a model's outputs.

    Raises:
        ConfigError: a class is not among them, or a name stands twice.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"the list of labels has {len(names) - len(set(names))} names twice; expected each once")
    if missing := [name for name in data.classes if name not in names]:
        raise ConfigError(f"classes {', '.join(missing[:5])} of the images are not in the list of labels; expected "
                          "one line for each output of the model, with the name of its class")
    return torch.tensor([names.index(name) for name in data.classes])


def answers(model: nn.Module, data: Dataset, run: Run) -> Int[Tensor, "n"]:
    """The label that a model gives each image.

    Raises:
        CannotComplete: it does not have one output for each class of the data.
    """
    def rows(batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.x)
        if logits.ndim != 2 or logits.shape[1] != len(data.classes):
            raise CannotComplete(f"the model's output has the shape {tuple(logits.shape[1:])}; expected one number for "
                                 f"each of {len(data.classes)} classes (--labels names those of the model)")
        return {"label": logits.argmax(1)}

    return run.per_sample(model, data, rows)["label"].long()
