"""The contract of explainers."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.defenses.base import ModelAccess, Needs
from sidedoor.explain.base import Explainer
from sidedoor.testing.ground import (
    CLASSES,
    Ground,
    check_stateless,
    check_value,
    drawing,
    equal_states,
    failing,
    ground,
    images,
    require,
    same,
)
from sidedoor.types import Images

FEWER: dict[ModelAccess, ModelAccess] = {"probabilities": "labels", "gradients": "probabilities"}
"""The next step down from what an explainer declares. One that declares weights may reach them through its answers."""


def check_explainer(explainer: Explainer) -> None:
    """An explainer is a value that gives each image a map of its size, and leaves the model as it was.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"explainer {type(explainer).__name__}"
    require(isinstance(explainer, Explainer), who, "is no Explainer")
    needs = getattr(explainer, "needs", None)
    require(isinstance(needs, Needs), who, "declares no `needs`: what of the model it must be given")
    require(explainer.needs.model in ("probabilities", "gradients", "weights"), who, "needs no answer of the model")
    check_value(who, explainer)
    for channels in (3, 1):
        _check_maps(who, explainer, ground(channels))
        check_stateless(who, explainer)


def _check_maps(who: str, explainer: Explainer, here: Ground) -> None:
    model, untouched = here.victim(), here.victim()
    x, target = images(here.train.shape, 3), torch.arange(3) % CLASSES
    given, kept = explainer.needs.model_for(model, here.task), x.clone()

    def maps(x: Images, target: Int[Tensor, "b"], given: nn.Module = given) -> Float[Tensor, "b h w"]:
        with failing(who, "cannot explain"):
            return explainer.saliency(given, x, target)

    with drawing(1):
        found = maps(x, target)
    require(found.shape == (3, *x.shape[2:]), who, f"gave maps of {tuple(found.shape)} for images of {tuple(x.shape)}")
    require(bool(found.isfinite().all()) and not found.requires_grad, who, "gave maps that are not finite, or a graph")
    require(torch.equal(x, kept) and not x.requires_grad, who, "wrote into its input")
    require(equal_states([model, untouched]) and not model.training, who, "changed the model")
    require(all(p.grad is None and p.requires_grad for p in model.parameters()), who, "left gradients in the model")
    with drawing(2):
        require(_alike(maps(x, target), found), who, "gave another map the second time; fix the seed of its draws")
    require(_alike(maps(x[:1], target[:1]), found[:1]), who, "treats an image by its neighbours")
    require(not _alike(maps(x, (target + 1) % CLASSES), found), who, "gives every class the same map")
    if fewer := FEWER.get(explainer.needs.model):
        less = replace(explainer.needs, model=fewer).model_for(model, here.task)
        try:
            other = explainer.saliency(less, x, target)
        except Exception:
            return
        require(not _alike(other, found), who, f"declares to need {explainer.needs}, and does the same with {fewer}")


def _alike(a: Float[Tensor, "b h w"], b: Float[Tensor, "b h w"]) -> bool:
    """Whether maps are equal up to the rounding of kernels, whatever their unit."""
    unit = b.abs().amax().clamp(min=1e-12)
    return same(a / unit, b / unit)
