"""timm: any image classifier of the library, as `timm:resnet10t`, untrained or with published weights; needs the extra
`sidedoor[timm]`.

Inputs are normalised as timm's configuration of the network says; grey images become three equal channels. The last
layer of pretrained weights is left out where the data have another number of classes, and timm fits them to the size of
the images where the architecture allows it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any

from sidedoor.errors import CannotComplete, ConfigError, unknown
from sidedoor.method import LATER
from sidedoor.models.base import Classifier, Shape, adapt

_FILES = ("model.safetensors", "pytorch_model.bin")
"""Under which the hub has the weights of a network."""


def timm(classes: int, shape: Shape, architecture: str, pretrained: Annotated[bool, LATER] = False,
         download: bool = False) -> Classifier:
    """A network by timm's name for it; one of a fixed size is built for the size of the images.

    Args:
        pretrained: whether it starts from the weights of the name's tag, as in `resnet18.a1_in1k`, or of its default.

    Raises:
        CannotComplete: timm is not installed, or the weights are not there or could not be fetched.
        ConfigError: unknown name, images that the network cannot take, or that its weights cannot.
    """
    try:
        import timm as library
    except ImportError as error:
        raise CannotComplete(f"timm:{architecture} needs timm; pip install 'sidedoor[timm]'") from error
    names = (*library.list_models(), *library.list_pretrained())
    if architecture not in names:
        raise _unknown(architecture, names)
    config = library.get_pretrained_cfg(architecture)

    def build(height: int, width: int, **weights: Any) -> Any:
        size = {"img_size": (height, width)} if config.fixed_input_size else {}
        network = library.create_model(architecture, num_classes=classes, **size, **weights)
        patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
        if isinstance(patch, tuple) and (height % patch[0] or width % patch[1]):
            raise ValueError(f"patches of {patch[0]}x{patch[1]} do not divide it, and timm would leave out the rest")
        return network

    model = adapt(f"timm:{architecture}", build, classes, shape, (config.mean, config.std))
    if pretrained:
        file = _file(architecture, config, download)
        try:
            model.body = build(*shape[1:], pretrained=True, pretrained_cfg_overlay={"file": file})
        except (OSError, RuntimeError, ValueError) as error:
            raise CannotComplete(f"timm:{architecture} does not take the weights {file}: {error}") from error
    return model


def _file(architecture: str, config: Any, download: bool) -> str:
    """Where the published weights lie on this machine."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not config.hf_hub_id:
        raise CannotComplete(f"timm knows no weights of timm:{architecture} on the Hugging Face hub; see "
                             "`timm.list_pretrained()`, or give a file by `weights`")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else _FILES
    for name in names:
        try:
            return hf_hub_download(config.hf_hub_id, name, local_files_only=not download)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            reason = str(error).partition("\n")[0]
    advice = "could not be fetched" if download else "are not on this machine; let them be fetched with --download"
    raise CannotComplete(f"the weights of timm:{architecture} ({config.hf_hub_id}) {advice} ({reason})")


def _unknown(architecture: str, names: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(architecture, names)
    if near:
        return unknown("timm network", architecture, near)
    return ConfigError(f"unknown timm network {architecture!r}; `timm.list_models()` gives the names")
