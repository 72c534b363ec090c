"""The polarizer of NPD: where in a network it lies, and how it becomes a part of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from sidedoor.algorithms.optim.batch_norm import evaluating
from sidedoor.algorithms.pruning.pairs import convolutions_and_norms
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.models.base import Shape, head


class Polarizer(nn.Module):
    """A 1×1 convolution without bias, from the identity, and batch normalisation: c² + 2 c parameters."""

    def __init__(self, channels: int):
        super().__init__()
        # Made without random numbers, which a seeded run would draw no more.
        self.mix = skip_init(nn.Conv2d, channels, channels, 1, bias=False)  # type: ignore[no-untyped-call]
        self.norm = nn.BatchNorm2d(channels)
        nn.init.dirac_(self.mix.weight)

    def forward(self, maps: Tensor) -> Tensor:
        output: Tensor = self.norm(self.mix(maps))
        return output


@dataclass(frozen=True)
class Place:
    """Behind a convolution.

    Args:
        conv: its name.
        norm: the batch normalisation that takes its output; empty if it has a bias of its own.
    """

    conv: str
    norm: str

    def insert(self, model: nn.Module, clean: Dataset, run: Run) -> Polarizer:
        """A polarizer behind the convolution, in place; what the model gives stays what it was.

        Its batch normalisation gets the statistics of the clean images there, and undoes them.
        """
        conv = model.get_submodule(self.conv)
        polarizer = Polarizer(len(conv.get_parameter("weight"))).to(next(model.parameters()).device).eval()
        _replace(model, self.conv, nn.Sequential(conv, polarizer))
        norm = polarizer.norm
        norm.momentum = None  # the mean over all batches
        with torch.no_grad(), evaluating(model):
            norm.train()
            for part in run.chunks(len(clean), clean.fetch(torch.arange(1)).x.numel()):
                model(clean.fetch(torch.arange(part.start, part.stop), run.device).x)
            norm.eval()
            norm.momentum = 0.1
            norm.weight.copy_((norm.get_buffer("running_var") + norm.eps).sqrt())
            norm.bias.copy_(norm.get_buffer("running_mean"))
        return polarizer

    def polarizer_of(self, model: nn.Module) -> Polarizer:
        """The one that was inserted."""
        found = model.get_submodule(f"{self.conv}.1")
        assert isinstance(found, Polarizer)
        return found


def place_behind(model: nn.Module, shape: Shape) -> Place:
    """Behind the last convolution whose output a linear layer can be written into.

    Its channels must not be in groups, and it needs a bias, or batch normalisation with running statistics behind it.

    Raises:
        NotApplicable: there is none.
    """
    last, named = head(model), dict(model.named_modules())

    def mixes(name: str) -> bool:
        conv = named[name]
        return isinstance(conv, nn.Conv2d) and conv.groups == 1 and conv is not last

    try:
        pairs = convolutions_and_norms(model, shape)
    except NotApplicable:
        pairs = []
    places = [Place(name, "") for name, m in named.items() if isinstance(m, nn.Conv2d) and m.bias is not None
              and mixes(name)]
    places += [Place(conv, norm) for conv, norm in pairs if mixes(conv) and getattr(named[norm], "running_mean", None)
               is not None]
    if not places:
        raise NotApplicable(f"{type(model).__name__} has no convolution before its head, of one group and with a bias "
                            "or batch normalisation behind it, that a polarizer could become a part of")
    return places[-1]


@torch.no_grad()
def write_in(model: nn.Module, place: Place, polarizer: Polarizer) -> None:
    """Make the polarizer a part of the convolution, and of what comes next, in place; the state has its keys again."""
    conv, norm = model.get_submodule(f"{place.conv}.0"), polarizer.norm
    scale = norm.weight / (norm.get_buffer("running_var") + norm.eps).sqrt()
    mix = scale[:, None] * polarizer.mix.weight[:, :, 0, 0]
    shift = norm.bias - scale * norm.get_buffer("running_mean")
    weight, bias = conv.get_parameter("weight"), conv.bias
    weight.copy_(torch.einsum("oc,cihw->oihw", mix, weight))
    if isinstance(bias, nn.Parameter):
        bias.copy_(mix @ bias + shift)
    else:
        model.get_submodule(place.norm).get_buffer("running_mean").sub_(shift)
    _replace(model, place.conv, conv)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
