"""What models share: normalisation as the first layer, the head and its inputs, masks on them, checks of sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.types import Images

Shape = tuple[int, int, int]
"""(channels, height, width) of one image."""

Head = nn.Linear | nn.Conv2d

Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel."""

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_LARGEST = 384
_REFUSALS = (RuntimeError, ValueError, AssertionError)  # how library networks refuse a size


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel, so that inputs stay in [0, 1].

    Both are buffers and part of the state. Grey images come out with as many channels as the mean has.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, x: Images) -> Float[Tensor, "b channels h w"]:
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """A network behind its normalisation.

    In mixed precision the first layer of a sequence computes in full: bfloat16 has hardly more levels near 1 than the
    faintest triggers, so that a network would not be shown them.

    Args:
        body: (b, c, h, w) normalised images -> (b, classes) logits.
        classes: what `head` looks for.
        mean: one number a channel, or 3 for a network that takes grey images as three equal channels.
        std: as `mean`.
    """

    def __init__(self, body: nn.Module, classes: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.body = body
        self.classes = classes

    def forward(self, x: Images) -> Float[Tensor, "b k"]:
        x, layers, device = self.normalize(x), [self.body], x.device.type
        mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if mixed and isinstance(self.body, nn.Sequential):
            first, *layers = self.body
            with torch.autocast(device, enabled=False):
                x = first(x)
        for layer in layers:
            x = layer(x)
        return x


def classifier(body: nn.Module, classes: int, channels: int) -> Classifier:
    """A network behind the default normalisation: mean 0.5 and standard deviation 0.25 in every channel."""
    return Classifier(body, classes, (0.5,) * channels, (0.25,) * channels)


def convnet(layers: Sequence[nn.Module], width: int, classes: int, channels: int) -> Classifier:
    """Convolutions that end in `width` maps, their average over space, and a linear head."""
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    return classifier(body, classes, channels)


class Enlarged(nn.Module):
    """A network of images that keeps their size, behind bicubic enlargement.

    Args:
        body: (b, c, h, w) -> (b, c, h, w), or a tuple of such.
        scale: of both sides, before the body.
    """

    def __init__(self, body: nn.Module, scale: int):
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: Images) -> Any:
        return self.body(functional.interpolate(x, scale_factor=self.scale, mode="bicubic", align_corners=False))


def enlarged(body: nn.Module, scale: int) -> nn.Module:
    """A network that keeps the size of images as one that enlarges them; the network itself for a scale of 1."""
    return body if scale == 1 else Enlarged(body, scale)


def require_size(name: str, shape: Shape, smallest: int) -> None:
    """Check that no side of an image is below the smallest that an architecture takes.

    Raises:
        ConfigError: a side is.
    """
    _, height, width = shape
    if min(height, width) < smallest:
        raise ConfigError(f"{name} cannot take {height}x{width} images: the smallest size is {smallest}x{smallest}; "
                          "resize the images or choose another model")


def adapt(
    name: str, build: Callable[[int, int], nn.Module], classes: int, shape: Shape, statistics: Statistics = IMAGENET
) -> Classifier:
    """Wrap a library's three-channel network, once it has processed a sample; grey images become three channels.

    Args:
        name: for the message.
        build: (height, width) -> the network for images of that size.

    Raises:
        ConfigError: not 1 or 3 channels, or the network refuses the size; the next square one it takes is named.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise ConfigError(f"{name} takes images of 1 or 3 channels, {channels} given")
    try:
        body = build(height, width)
        _try(body, classes, height, width)
    except _REFUSALS as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{name} cannot take {height}x{width} images ({reason}); "
                          f"{_larger(build, classes, max(height, width) + (height == width))}") from error
    return Classifier(body, classes, *statistics)


def _try(body: nn.Module, classes: int, height: int, width: int) -> None:
    """Push one empty image through, in evaluation mode, where no random number is drawn and no statistic moves."""
    like = next(body.parameters())
    body.eval()
    with torch.no_grad():
        output = body(torch.zeros(1, 3, height, width, device=like.device))
    body.train()
    if not isinstance(output, Tensor) or output.shape != (1, classes):
        given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
        raise ValueError(f"its output has the {given}, expected (1, {classes})")


def _larger(build: Callable[[int, int], nn.Module], classes: int, smallest: int) -> str:
    """What to do about a refused size; sizes are tried on the meta device, which computes shapes only."""
    for side in range(smallest, _LARGEST + 1):
        try:
            with torch.device("meta"):
                _try(build(side, side), classes, side, side)
        except _REFUSALS:
            continue
        return f"resize them to {side}x{side}, the next size it takes, or choose another model"
    return f"no size up to {_LARGEST}x{_LARGEST} was found to work; choose another model"


def head(model: nn.Module) -> Head:
    """The layer that gives the logits: the last linear layer as wide as there are classes, else such a convolution.

    "Last" is by order of registration. For a network built elsewhere, whose number of classes is not known, the last
    linear layer, else the last convolution.

    Raises:
        NotApplicable: there is no such layer.
    """
    classes = next((m.classes for m in model.modules() if isinstance(m, Classifier)), None)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    conv = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    candidates: list[Head] = [*reversed(linear), *reversed(conv)]
    for layer in candidates:
        if classes in (None, _outputs(layer)):
            return layer
    last: list[Head] = [*linear[-1:], *conv[-1:]]
    found = " and ".join(f"{type(layer).__name__} with {_outputs(layer)} outputs" for layer in last)
    raise NotApplicable(f"{type(model).__name__} has no head: found {found or 'no Linear or Conv2d'} last; "
                        f"expected a Linear or Conv2d with {classes or 'any number of'} outputs")


def head_names(model: nn.Module, target: nn.Module) -> set[str]:
    """What a state of `target`, the model or a part of it, calls the tensors of the head."""
    layer = head(model)
    name = next(name for name, module in target.named_modules() if module is layer)
    return {f"{name}.{key}" if name else key for key in layer.state_dict()}


def _outputs(layer: Head) -> int:
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features


def penultimate(model: nn.Module, x: Images) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b d"]]:
    """Logits, and the features that the head made them from, by one forward pass.

    The maps before a convolutional head are averaged over space. Gradients flow through both where they are enabled.

    Raises:
        NotApplicable: the model has no head.
        ConfigError: it does not call it, or feeds it something else than vectors or maps.
    """
    layer = head(model)
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        logits = model(x)
    finally:
        handle.remove()
    if not inputs:
        raise ConfigError(f"{type(model).__name__} gives its output without calling its head {layer}")
    features = inputs[-1]
    if features.ndim not in (2, 4):
        raise ConfigError(f"the head's input has the shape {tuple(features.shape)}; expected (b, d) or (b, d, h, w)")
    return logits, features.mean((2, 3)) if features.ndim == 4 else features


class _InputMask(nn.Module):
    """Multiply a weight (out, in, ...) by a mask over its inputs."""

    keep: Tensor

    def __init__(self, keep: Bool[Tensor, "1 d ..."]):
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.keep


def mask_inputs(layer: Head, keep: Bool[Tensor, "d"]) -> None:
    """Cut inputs of a head off in place: their weights are zero and stay zero while the model is fine-tuned.

    Pruning the head's inputs prunes the last convolution: in a network that ends in global pooling they are that
    layer's channels after ReLU and pooling. The rule also fits a transformer, which has no last convolution. A
    parametrisation keeps it so under any optimiser, momentum and weight decay included. A second mask replaces the
    first, and an input that it keeps again gets its weight back. `bake` makes the masks permanent.

    Args:
        layer: what `head` returns.
        keep: True for the inputs to keep.

    Raises:
        ConfigError: the mask does not have one entry an input.
    """
    weight = layer.weight
    if keep.dtype != torch.bool or keep.shape != weight.shape[1:2]:
        raise ConfigError(f"a {keep.dtype} mask of shape {tuple(keep.shape)} given; "
                          f"expected one of torch.bool with {weight.shape[1]} entries")
    keep = keep.to(weight.device).reshape(1, -1, *[1] * (weight.ndim - 2))
    mask = _mask_of(layer)
    if mask is None:
        parametrize.register_parametrization(layer, "weight", _InputMask(keep.clone()))
    else:
        mask.keep.copy_(keep)


def bake(model: nn.Module) -> None:
    """Write the masks of `mask_inputs` into the weights in place; the state has its plain keys again."""
    for module in list(model.modules()):
        if _mask_of(module) is not None:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def _mask_of(module: nn.Module) -> _InputMask | None:
    if not parametrize.is_parametrized(module, "weight"):
        return None
    chain = getattr(module.parametrizations, "weight")  # noqa: B009 - not an attribute that type checkers know
    return next((m for m in chain if isinstance(m, _InputMask)), None)
