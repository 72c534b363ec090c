"""Weights files of unknown origin, read without running code from them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sidedoor.errors import CannotComplete

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
