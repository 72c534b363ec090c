"""States of models, optimisers and objectives as safetensors: nothing that was written runs code when it is read."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sidedoor.core.files import replacing
from sidedoor.errors import CannotComplete


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, tensors and JSON values as one safetensors file, its structure in the header."""
    tensors: dict[str, Tensor] = {}
    structure = _flatten(state, "", tensors)
    with replacing(path) as temporary:
        save_file(tensors, str(temporary), metadata={"structure": json.dumps(structure)})


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        CannotComplete: the file is missing, damaged or not written by `save_state`.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            structure = json.loads((file.metadata() or {})["structure"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CannotComplete(f"cannot read the state in {path}: {error}; delete the file to start it afresh") from error
    return dict(_restore(structure, tensors))


FOREIGN = (".pt", ".pth", ".th", ".ckpt", ".bin")
"""Suffixes of pickled weights."""
_MEMORY, _SECONDS = 16 * 2**30, 120
_NESTED = ("state_dict", "params_ema", "params", "model")
_CONVERT = """
import pickle, sys, torch
from safetensors.torch import save_file
try:
    state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
except pickle.UnpicklingError:
    sys.exit("it is damaged or holds other objects than tensors")
for key in sys.argv[3:]:
    if isinstance(state, dict) and isinstance(state.get(key), dict):
        state = state[key]
if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
    sys.exit("it holds no table of tensors")
save_file({k.removeprefix("module."): v.detach().clone().contiguous() for k, v in state.items()}, sys.argv[2])
"""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file of unknown origin, without running code from it.

    Pickled files are read by `torch.load(weights_only=True)` in a process of its own that is limited in memory and
    time; a usual nesting ("state_dict", "params", ...) and the prefix "module." are taken off.

    Raises:
        CannotComplete: no such file, damaged, or more than weights.
    """
    if not path.is_file():
        raise CannotComplete(f"no weights at {path}")
    if path.suffix not in FOREIGN:
        try:
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        except (OSError, SafetensorError) as error:
            raise CannotComplete(f"{path} is no readable safetensors file: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "weights.safetensors"
        command = [sys.executable, "-I", "-c", _CONVERT, str(path.resolve()), str(target), *_NESTED]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False,
                                  env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"}, preexec_fn=_limited)
        except subprocess.TimeoutExpired as error:
            raise CannotComplete(f"{path} could not be read in {_SECONDS} s") from error
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
            raise CannotComplete(f"{path} is refused: {reason}; only files that hold nothing but weights are read")
        read: dict[str, Tensor] = load_file(target)
        return read


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A clone: safetensors refuses tensors that share memory.
        # The number keeps keys apart that read the same, such as 1 and "1".
        name = f"{path}#{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    return {"value": value}


def _restore(structure: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = structure.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _restore(item, tensors) for key, item in value}
    if kind == "list":
        return [_restore(item, tensors) for item in value]
    return value


def load_weights(module: torch.nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load a state dict, naming what does not fit.

    Raises:
        CannotComplete: keys or shapes differ from the module's.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CannotComplete(f"{what} does not fit the network: {error}") from error
