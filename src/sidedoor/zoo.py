"""Data sets, networks and detectors by name, and the weights that a network starts from."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.core.checkpoint import differing, load_weights
from sidedoor.core.foreign_weights import WRAPPERS, Table, identify, read_weights, unprefixed
from sidedoor.core.logs import warn_once
from sidedoor.core.opening import identified
from sidedoor.data.base import Dataset, Splits
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.method import Content, check, hints
from sidedoor.models.base import IMAGENET, Classifier, Statistics, head_names
from sidedoor.types import Build

log = logging.getLogger("sidedoor")

PRESETS: dict[str, Statistics] = {
    "none": ((0.0,), (1.0,)), "imagenet": IMAGENET,
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
_CARRIED = (("normalize.mean", "normalize.std"), ("normalizer.mean", "normalizer.std"),
            ("normalization.mean", "normalization.std"), ("0.mean", "0.std"), ("mean", "std"), ("mu", "sigma"))
"""Names under which published states carry the normalisation of their inputs."""


def load(name: str | Mapping[str, Any], root: str | Path | None = None, *, download: bool = False) -> Splits:
    """The training and test part of a registered data set, such as "digits", "cifar10" or "folder:DIR".

    Args:
        root: the data root, for sets that do not come with the package.

    Raises:
        CannotComplete: the set is not there; the message has the command that gets it.
        ConfigError: an unknown name, or parts that do not belong together.
    """
    splits: Splits = registry.make("data", name)(Where(Path(root) if root else None, download))
    for name, part in (("test", splits.test), ("clean", splits.clean)):
        if part is not None and (part.shape, part.classes) != (splits.train.shape, splits.train.classes):
            one, other = (f"shape {data.shape} with {len(data.classes)} classes" for data in (splits.train, part))
            raise ConfigError(f"training data of {one} and {name} data of {other} do not belong together")
    return splits


def network(name: str | Mapping[str, Any], data: Dataset, scale: int = 1, *, download: bool = False) -> Build:
    """A function that builds a registered network for a data set; the key `weights` names a file to start from: a state
    of the network, or of the bare one behind its normalisation, as published weights are. Further keys as `Weights`.

    Args:
        scale: height of the outputs over height of the inputs, for networks whose outputs are images.
        download: whether weights that a library publishes may be fetched.
    """
    return _builder("model", name, classes=len(data.classes), shape=data.shape, scale=scale,
                    crop=(data.shape[0] // 2, *data.shape[1:]), download=download)


def detector(name: str | Mapping[str, Any], data: Dataset) -> Build:
    """A function that builds a registered detector for a data set; the key `weights` names a file to start from."""
    return _builder("object_detector", name, classes=len(data.classes), shape=data.shape)


def _network_content(given: str, root: Path | None) -> str:
    name, weights = with_weights(given)
    return f"{name}@{identified(Where(root).locate(weights))}" if weights else name


def _data_content(given: str, root: Path | None) -> str:
    name, _, argument = given.partition(":")
    return f"{name}:{load(given, root).train.fingerprint()}" if argument else name


Network = Annotated[str, Content(_network_content)]
"""A network as written in a list, "NAME" or "NAME@FILE"."""
DataName = Annotated[str, Content(_data_content)]
"""A data set, "NAME" or "NAME:PATH"."""


def with_weights(given: str) -> tuple[str, str]:
    """A network as written in a list, "NAME" or "NAME@FILE", as its name and the file to start from, "" for none."""
    name, _, weights = given.partition("@")
    return name, weights


@dataclass(frozen=True)
class Weights:
    """The weights that a network starts from; each field is a key of a network's reference.

    Args:
        weights: the file: safetensors, or what `torch.save` writes, whatever its name.
        sha256: of the file; None for any.
        weights_key: the key inside the file, where several lead to tensors.
        mean: the normalisation that the weights were trained behind, one number per channel or one for all of them;
            empty: what the file carries, else the network's own.
        std: as `mean`.
        normalize: a usual normalisation by name, instead of `mean` and `std`.
        head: "new" drops the file's last layer, for data of other classes.
        frozen: the model is the file's as it is: it is evaluated, audited, repaired and put behind detectors and
            purifiers, and is not trained.
    """

    weights: str
    sha256: str | None = None
    weights_key: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    normalize: Literal["", "none", "imagenet", "cifar10"] = ""
    head: Literal["given", "new"] = "given"
    frozen: bool = False

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, hint in hints(cls).items():
            check(f"model.{name}", getattr(self, name), hint)
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ConfigError(f"model.mean = {self.mean} and model.std = {self.std} given; expected one number each "
                              "per channel (or one for all), and deviations above 0")
        if self.mean and self.normalize:
            raise ConfigError("model.normalize names a normalisation, and model.mean gives one; expected either")
        if self.frozen and self.head == "new":
            raise ConfigError("model.frozen = true and model.head = \"new\" given; a new last layer has to be trained, "
                              "so leave one of them out")

    @property
    def path(self) -> Path:
        return Path(self.weights).expanduser()

    @property
    def statistics(self) -> Statistics | None:
        """The normalisation that is asked for."""
        return (self.mean, self.std) if self.mean else PRESETS.get(self.normalize)

    def plain(self) -> dict[str, Any]:
        """As a specification writes it: what is not at its default, the file's hash always."""
        actual = identify(self.path)
        if self.sha256 not in (None, actual):
            raise CannotComplete(f"{self.weights} has the sha256 {actual}, the specification expects {self.sha256}")
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: registry.plain(value) for name, value in (values | {"sha256": actual}).items()}


def separate(given: Mapping[str, Any]) -> tuple[dict[str, Any], Weights | None]:
    """A network's reference without the keys that are about weights, and what these say.

    Raises:
        ConfigError: a hash without weights, or a value of the wrong kind.
    """
    rest = dict(given)
    if rest.get("weights") is None:
        rest.pop("weights", None)
        for name in ("sha256", "frozen"):
            if (value := rest.pop(name, None)) not in (None, False):
                raise ConfigError(f"model has {name} = {value!r} but no weights; expected both or only weights")
        return rest, None
    said = {f.name: rest.pop(f.name) for f in fields(Weights) if f.name in rest}
    if isinstance(said["weights"], Path):
        said["weights"] = str(said["weights"])
    for name in ("mean", "std"):
        value = said.get(name, ())
        numbers = value if isinstance(value, list | tuple) else (value,)
        said[name] = tuple(float(v) if type(v) is int else v for v in numbers)
    return rest, Weights(**said)


def fresh(reference: Mapping[str, Any]) -> dict[str, Any]:
    """A network's reference without the weights it starts from."""
    said = {f.name for f in fields(Weights)}
    return {name: value for name, value in reference.items() if name not in said}


def _builder(kind: str, name: str | Mapping[str, Any], **leading: Any) -> Build:
    bare, weights = separate({"name": name} if isinstance(name, str) else name)
    make: Build = registry.make(kind, bare, **leading)
    return functools.partial(_started, make, weights) if weights else make


def _started(make: Build, given: Weights) -> nn.Module:
    model, said = started(make, given)
    if not said:
        _say_default(given.weights, model)
    return model


def started(make: Build, given: Weights) -> tuple[nn.Module, bool]:
    """A network with the weights of a file, and whether the file or its reader says how inputs are normalised.

    Raises:
        CannotComplete: the file cannot be read, or is of another network.
    """
    model = make()
    table = read_weights(given.path, given.weights_key, given.sha256)
    target, fitting, carried = _placed(model, table)
    if given.head == "new":
        fitting = fitting | _own_head(model, target)
    elif _only_head(model, target, fitting):
        raise CannotComplete(f"{given.weights} is of a network with another number of classes: "
                             f"{differing(target.state_dict(), fitting)}; head = \"new\" starts the last layer afresh")
    load_weights(target, fitting, given.weights)
    if statistics := given.statistics or carried:
        normalize(model, statistics, given.weights)
    return model, bool(statistics) or target is model


def fits(model: nn.Module, table: Table) -> bool:
    """Whether the names and shapes of tensors are those of a network, or of the bare one behind its normalisation."""
    target, fitting, _ = _placed(model, table)
    state = target.state_dict()
    return _same(fitting, target) and all(state[name].shape == tensor.shape for name, tensor in fitting.items())


def _placed(model: nn.Module, table: Table) -> tuple[nn.Module, Table, Statistics | None]:
    """(the part of a network that a table is of, the table by that part's names, the normalisation it carries)."""
    for variant in _variants(table):
        if _same(variant, model):
            return model, variant, None
    if not isinstance(model, Classifier):
        return model, list(_variants(table))[-1], None
    for variant in _variants(table):
        if _same(variant, model.body):
            return model.body, variant, None
    rest, carried = _without_statistics(table)
    for variant in _variants(rest):
        if _same(variant, model.body):
            return model.body, variant, carried
    return model.body, list(_variants(rest))[-1], carried


def _variants(table: Table) -> Iterator[Table]:
    """A table as it is, then without the name of the attribute that held the network."""
    yield table
    yield unprefixed(table, (*WRAPPERS, "model."))
    yield unprefixed(table, (*WRAPPERS, "model.", "1."))


def _same(table: Table, module: nn.Module) -> bool:
    """Whether names are those of a module; older files lack the counts of batches."""
    one, other = ({k for k in names if not k.endswith("num_batches_tracked")} for names in (table, module.state_dict()))
    return one == other


def _without_statistics(table: Table) -> tuple[Table, Statistics | None]:
    for names in _CARRIED:
        if all(name in table and table[name].is_floating_point() for name in names):
            mean, std = (table[name].flatten().tolist() for name in names)
            return {k: v for k, v in table.items() if k not in names}, (mean, std)
    return table, None


def _own_head(model: nn.Module, target: nn.Module) -> Table:
    if not isinstance(model, Classifier):
        raise ConfigError("model.head = \"new\" is for classifiers; this network has no last layer of classes")
    state = target.state_dict()
    return {name: state[name] for name in head_names(model, target)}


def _only_head(model: nn.Module, target: nn.Module, table: Table) -> bool:
    """Whether a table fits a classifier but for the number of its classes."""
    if not isinstance(model, Classifier) or not _same(table, target):
        return False
    state, last = target.state_dict(), head_names(model, target)
    wrong = {name for name, tensor in table.items() if name in state and tensor.shape != state[name].shape}
    return bool(wrong) and wrong <= last


def normalize(model: nn.Module, statistics: Statistics, what: str) -> None:
    """Give a classifier the mean and standard deviation that its weights were trained behind, in place.

    Raises:
        ConfigError: it is no classifier.
        CannotComplete: it has another number of channels.
    """
    if not isinstance(model, Classifier):
        raise ConfigError("model.mean, std and normalize are for classifiers; this network takes images as they are")
    for buffer, values in zip((model.normalize.mean, model.normalize.std), statistics, strict=True):
        if len(values) not in (1, buffer.numel()):
            raise CannotComplete(f"the normalisation of {what} has {len(values)} channels, the network's "
                                 f"{buffer.numel()}")
        numbers: Tensor = torch.tensor(values, dtype=buffer.dtype)
        buffer.copy_(numbers.expand(buffer.numel()).reshape(buffer.shape))
    log.info("inputs of %s are normalised by mean %s and deviation %s", what, *statistics)


def _say_default(weights: str, model: nn.Module) -> None:
    assert isinstance(model, Classifier)
    mean, std = (sorted(set(buffer.flatten().tolist())) for buffer in (model.normalize.mean, model.normalize.std))
    if (mean, std) == ([0.5], [0.25]):  # no statistics of data, so hardly those of published weights
        warn_once(f"{weights} does not say how its inputs were normalised; mean 0.5 and deviation 0.25 are taken: "
                   "give mean and std, or normalize = \"imagenet\", \"cifar10\" or \"none\", if that is wrong")
