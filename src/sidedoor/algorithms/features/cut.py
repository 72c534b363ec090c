"""Networks cut in two behind one of their stages, without changes to the architecture: maps, and what follows them.

A stage is a block, or a convolution with the normalisation, activation and pooling behind it. Stages are looked for
among the modules that a network calls itself, and those in its sequences; what is found is tried out.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.errors import NotApplicable
from sidedoor.models.base import Classifier, Shape, head
from sidedoor.types import Images

Maps = Float[Tensor, "b channels rows columns"]


@dataclass(frozen=True)
class Cut:
    """A network in two: `tail(maps(x))` is `model(x)`.

    Args:
        model: the whole network.
        name: of the module whose output the maps are.
        shape: of one image.
    """

    model: nn.Module
    name: str
    shape: Shape

    def maps(self, x: Images) -> Maps:
        """What the module gives, with its graph."""
        return self.both(x)[0]

    def both(self, x: Images) -> tuple[Maps, Float[Tensor, "b k"]]:
        """The maps, and the output, by one forward pass."""
        with recorded(self.model, [self.name]) as seen:
            output = self.model(x)
        return seen[self.name], output

    def tail(self, maps: Maps) -> Float[Tensor, "b k"]:
        """What the network makes of such maps; up to the cut it runs on a single empty image."""
        handle = self._module.register_forward_hook(lambda _module, _given, _out: maps)
        try:
            output: Tensor = _inner(self.model)(self._empty)
        finally:
            handle.remove()
        return output

    @functools.cached_property
    def _empty(self) -> Images:
        like = next(self.model.parameters())
        image = torch.zeros(1, *self.shape, device=like.device, dtype=like.dtype)
        return self.model.normalize(image) if isinstance(self.model, Classifier) else image

    @property
    def _module(self) -> nn.Module:
        return self.model.get_submodule(self.name)


def cut(model: nn.Module, shape: Shape, place: int = -1) -> Cut:
    """A network in evaluation mode, cut behind one of its stages whose maps have more than one pixel.

    Args:
        shape: of one image.
        place: of the stage among these; -1 is the last.

    Raises:
        NotApplicable: there is no such stage, or the output depends on more than its maps.
    """
    probe = _probe(model, shape)
    names = _stages(model, probe)
    if not -len(names) <= place < len(names):
        raise NotApplicable(f"{type(model).__name__} has {len(names)} stages that give maps; there is no stage {place}")
    found = Cut(model, names[place], shape)
    if not _complete(found, probe):
        raise NotApplicable(f"what {type(model).__name__} gives does not depend on the maps of {found.name} alone, so "
                            "it cannot be cut there")
    return found


def stages(model: nn.Module, shape: Shape) -> list[str]:
    """Names of the modules that end a stage whose maps have more than one pixel, in the order of their calls.

    Raises:
        NotApplicable: there are none.
    """
    if names := _stages(model, _probe(model, shape)):
        return names
    raise NotApplicable(f"{type(model).__name__} has no stage that gives maps")


@contextlib.contextmanager
def recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What the named modules gave last within the block, with its graph."""
    seen: dict[str, Tensor] = {}
    handles = [model.get_submodule(name).register_forward_hook(
        lambda _module, _given, out, name=name: seen.__setitem__(name, out)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _probe(model: nn.Module, shape: Shape) -> Images:
    """Two images unlike each other."""
    like = next(model.parameters())
    values = torch.linspace(0, 1, 2 * shape[0] * shape[1] * shape[2], device=like.device, dtype=like.dtype)
    return values.reshape(2, *shape)


@torch.no_grad()
def _complete(found: Cut, probe: Images) -> bool:
    try:
        maps, output = found.both(probe)
        return torch.allclose(found.tail(maps), output, rtol=1e-3, atol=1e-4)
    except RuntimeError:  # shapes that took the size of the batch from the image
        return False


@torch.no_grad()
def _stages(model: nn.Module, probe: Images) -> list[str]:
    """Names of the modules before the head that end a stage, in the order in which they are called."""
    called: list[tuple[str, nn.Module, bool]] = []
    handles = [module.register_forward_hook(
        lambda module, _given, out, name=name: called.append((name, module, _is_map(out))))
        for name, module in _links(model)]
    try:
        model(probe)
    finally:
        for handle in handles:
            handle.remove()
    last = head(model)
    called = list(itertools.takewhile(lambda each: each[1] is not last, called))
    names = [name for name, _, _ in called]
    following = [*(module for _, module, _ in called[1:]), None]
    return [name for (name, _, is_map), after in zip(called, following, strict=True)
            if is_map and names.count(name) == 1 and _opens(after)]


def _links(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a network calls itself, and those in its sequences."""
    prefix = "body." if isinstance(model, Classifier) else ""
    for name, module in _inner(model).named_children():
        if isinstance(module, nn.Sequential):
            yield from ((f"{prefix}{name}.{rest}", part) for rest, part in _links(module))
        else:
            yield prefix + name, module


def _inner(model: nn.Module) -> nn.Module:
    """The network behind the normalisation."""
    return model.body if isinstance(model, Classifier) else model


def _opens(module: nn.Module | None) -> bool:
    """Whether a module, or None for the output, opens a stage rather than belonging to the one before."""
    return module is None or isinstance(module, nn.Conv2d | nn.Linear | nn.AdaptiveAvgPool2d | nn.Flatten) \
        or any(True for _ in module.children())


def _is_map(output: object) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2] * output.shape[-1] > 1
