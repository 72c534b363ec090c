"""torchvision: any classifier of the library, as `torchvision:resnet50`, untrained or with its weights of ImageNet.

Inputs are normalised by the mean and standard deviation of ImageNet; grey images become three equal channels. The last
layer of pretrained weights is left out where the data have another number of classes than ImageNet's 1000.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from sidedoor.core.checkpoint import load_weights
from sidedoor.errors import CannotComplete, unknown
from sidedoor.method import LATER
from sidedoor.models.base import Classifier, Shape, adapt, head_names

_SINGLE_OUTPUT = {"aux_logits": False, "init_weights": True}


def torchvision(classes: int, shape: Shape, architecture: str, pretrained: Annotated[bool, LATER] = False,
                download: bool = False) -> Classifier:
    """A network by torchvision's name for it.

    Args:
        pretrained: whether it starts from the weights that torchvision names as the architecture's default.

    Raises:
        CannotComplete: the weights are not there or could not be fetched.
        ConfigError: unknown name, images that the network cannot take, or that its weights cannot.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if architecture not in names:
        raise unknown("torchvision network", architecture, names)

    def build(height: int, width: int) -> Any:
        options: dict[str, Any] = {}
        if architecture in ("googlenet", "inception_v3"):
            options = _SINGLE_OUTPUT | {"transform_input": pretrained}  # how their weights of ImageNet were trained
        elif architecture.startswith("vit_"):
            options = {"image_size": height}
        elif architecture.startswith("maxvit_"):
            options = {"input_size": (height, width)}
        return models.get_model(architecture, weights=None, num_classes=classes, **options)

    model = adapt(f"torchvision:{architecture}", build, classes, shape)
    if pretrained:
        own, state = model.body.state_dict(), _weights(architecture, download)
        last = {name: own[name] for name in head_names(model, model.body) if own[name].shape != state[name].shape}
        load_weights(model.body, state | last, f"the published state of torchvision:{architecture}")
    return model


def _weights(architecture: str, download: bool) -> dict[str, Tensor]:
    """The published state, without the classifiers beside the network that only training uses."""
    from torch import hub
    from torchvision import models

    published = models.get_model_weights(architecture).DEFAULT
    place = Path(hub.get_dir(), "checkpoints", published.url.rpartition("/")[2])
    if not place.exists() and not download:
        raise CannotComplete(f"the weights of torchvision:{architecture} are not at {place}; let them be fetched with "
                             "--download")
    try:
        state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise CannotComplete(f"the weights of torchvision:{architecture} cannot be had from {published.url}: "
                             f"{error}") from error
    return {name: tensor for name, tensor in state.items() if not name.startswith(("aux", "AuxLogits."))}
