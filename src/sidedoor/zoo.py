"""Data sets, networks and detectors by name, as the bench and short scripts want them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sidedoor import registry
from sidedoor.core.checkpoint import load_weights
from sidedoor.core.foreign_weights import read_weights
from sidedoor.data.base import Dataset, Splits
from sidedoor.data.root import Where
from sidedoor.errors import ConfigError
from sidedoor.models.base import Classifier
from sidedoor.types import Build


def load(name: str | Mapping[str, Any], root: str | Path | None = None, *, download: bool = False) -> Splits:
    """The training and test part of a registered data set, such as "digits", "cifar10" or "folder:DIR".

    Args:
        root: the data root, for sets that do not come with the package.

    Raises:
        CannotComplete: the set is not there; the message has the command that gets it.
        ConfigError: an unknown name, or parts that do not belong together.
    """
    splits: Splits = registry.make("data", name)(Where(Path(root) if root else None, download))
    if splits.train.shape != splits.test.shape or splits.train.classes != splits.test.classes:
        one, other = (f"shape {data.shape} with {len(data.classes)} classes" for data in splits)
        raise ConfigError(f"training data of {one} and test data of {other} do not belong together")
    return splits


def network(name: str | Mapping[str, Any], data: Dataset, scale: int = 1) -> Build:
    """A function that builds a registered network for a data set; the key `weights` names a file to start from: a state
    of the network, or of the bare one behind its normalisation, as published weights are.

    Args:
        scale: height of the outputs over height of the inputs, for networks whose outputs are images.
    """
    bare = name if isinstance(name, str) else {key: value for key, value in name.items() if key != "sha256"}
    return _builder("model", bare, classes=len(data.classes), shape=data.shape, scale=scale)


def detector(name: str | Mapping[str, Any], data: Dataset) -> Build:
    """A function that builds a registered detector for a data set; the key `weights` names a file to start from."""
    return _builder("object_detector", name, classes=len(data.classes), shape=data.shape)


def with_weights(given: str) -> tuple[str, str]:
    """A network as written in a list, "NAME" or "NAME@FILE", as its name and the file to start from, "" for none."""
    name, _, weights = given.partition("@")
    return name, weights


def _builder(kind: str, name: str | Mapping[str, Any], **leading: Any) -> Build:
    given = {"name": name} if isinstance(name, str) else dict(name)
    weights = given.pop("weights", None)
    make: Build = registry.make(kind, given, **leading)
    return functools.partial(_weighted, make, weights) if weights else make


def _weighted(make: Build, weights: str) -> nn.Module:
    model, state = make(), read_weights(Path(weights))
    # Published weights are those of the bare network, without the house's normalisation before it.
    bare = not any(key.startswith("normalize.") for key in state)
    load_weights(model.body if bare and isinstance(model, Classifier) else model, state, weights)
    return model
