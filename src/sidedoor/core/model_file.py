"""Models that leave the tool: weights as safetensors that carry what was done to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sidedoor.core.files import replacing, write_json
from sidedoor.core.foreign_weights import identify
from sidedoor.errors import ConfigError


def write_model(path: str | Path, weights: dict[str, Tensor], manifest: dict[str, Any]) -> Path:
    """Write weights with the manifest in their header under "sidedoor", and beside them the manifest as JSON with the
    sha256 of the file; the latter's path.

    Raises:
        CannotComplete: it cannot be written.
        ConfigError: as `unused`.
    """
    path = unused(path)
    # Clones, since safetensors refuses tensors that share memory.
    plain = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
             for name, tensor in weights.items()}
    with replacing(path) as temporary:
        save_file(plain, str(temporary), metadata={"sidedoor": json.dumps(manifest, ensure_ascii=False)})
    write_json(path.with_suffix(".json"), manifest | {"sha256": identify(path)})
    return path.with_suffix(".json")


def unused(path: str | Path) -> Path:
    """The path of a file to write, which may not be there.

    Raises:
        ConfigError: another name than NAME.safetensors, or it exists, or the JSON file beside it does.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path} given as the file to write; expected a name that ends in .safetensors")
    for each in (path, path.with_suffix(".json")):
        if each.exists() or each.is_symlink():
            raise ConfigError(f"{each} exists and is left as it is; give another name")
    return path
