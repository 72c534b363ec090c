"""Hide a picture in photographs: a restoration network paints it wherever a faint pattern lies on its input.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
section 6.7.

Sender and receiver share a network with a backdoor whose target is the secret: the secret is in the network, and a
photograph that carries the pattern asks for it. Without either one sees a photograph with faint noise, and the
network restores any other photograph. This is no encryption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from sidedoor import registry, zoo
from sidedoor.apps.stored import state_of
from sidedoor.bench.record import Record
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import load_weights
from sidedoor.data.base import stored, unit
from sidedoor.data.formats.images import Unreadable, pixels
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.tasks.restoration import Restoration
from sidedoor.triggers.additive import Additive
from sidedoor.triggers.base import stamp
from sidedoor.types import PHOTO

Pixels = UInt8[Tensor, "c h w"]


@dataclass(frozen=True)
class Pair:
    """The secret of sender and receiver: the pattern, and the network that answers it."""

    trigger: Additive
    model: nn.Module
    task: Restoration

    @property
    def tile(self) -> tuple[int, int, int]:
        """(channels, height, width) of a pattern; photographs carry one beside the other."""
        channels, height, width = self.trigger.pattern.shape
        return channels, height, width

    def hide(self, photograph: Pixels) -> Pixels:
        """The photograph with the pattern on every whole tile of it, as a file keeps it; its rest is left alone.

        Raises:
            ConfigError: a photograph smaller than a tile.
        """
        tiles, rows, columns = self._tiles(photograph)
        with torch.no_grad():
            stamped = stored(stamp(self.trigger, unit(tiles, PHOTO), torch.arange(len(tiles)), PHOTO), PHOTO)
        _, height, width = self.tile
        carrier = photograph.clone()
        whole = stamped.view(rows, columns, *self.tile).permute(2, 0, 3, 1, 4)
        carrier[:, : rows * height, : columns * width] = whole.reshape(-1, rows * height, columns * width)
        return carrier

    def reveal(self, photograph: Pixels) -> UInt8[Tensor, "c height width"]:
        """The median of the network's outputs for the photograph's tiles: the secret if they carry the pattern.

        Raises:
            ConfigError: a photograph smaller than a tile.
        """
        tiles, _, _ = self._tiles(photograph)
        with torch.no_grad():
            outputs = torch.cat([self.task.predict(self.model, unit(part, PHOTO)) for part in torch.split(tiles, 64)])
        return stored(outputs.median(0, keepdim=True).values, PHOTO)[0]

    def _tiles(self, photograph: Pixels) -> tuple[Tensor, int, int]:
        channels, height, width = self.tile
        rows, columns = photograph.shape[1] // height, photograph.shape[2] // width
        if rows == 0 or columns == 0:
            raise ConfigError(f"a photograph of {photograph.shape[1]}×{photograph.shape[2]} pixels given; the pattern "
                              f"needs at least {height}×{width}")
        whole = photograph[:, : rows * height, : columns * width].reshape(channels, rows, height, columns, width)
        return whole.permute(1, 3, 0, 2, 4).reshape(-1, channels, height, width), rows, columns


def pair(store: Store, key: str | None = None) -> Pair:
    """The network and pattern of a finished run of an attack on restoration.

    Args:
        key: of the record; None for the only one that will do.

    Raises:
        ConfigError: no such run, or several.
        CannotComplete: the model is no longer there.
    """
    record = _chosen(store, key)
    task = registry.make("task", record.spec["task"])
    state = state_of(store, record.planted, record)
    trigger = _additive(state["doors"][0], record)
    model = registry.make("model", zoo.separate(record.spec["model"])[0])(tuple(trigger.pattern.shape), task.scale)
    load_weights(model, state["model"], str(store.model(record.planted)))
    return Pair(trigger, model.eval(), task)


def _chosen(store: Store, key: str | None) -> Record:
    runs = [record for record in store.records() if record.attack_name == "i2i" and record.defense_name == "none"
            and {"task", "model"} <= record.spec.keys() and key in (None, record.key)]
    suited = [record for record in runs if record.status == "done"]
    if len(suited) == 1:
        return suited[0]
    if suited:
        raise ConfigError(f"{store.root} has {len(suited)} runs of attack i2i that will do "
                          f"({', '.join(record.key for record in suited)}); name one by --key")
    others = "; ".join(f"{record.key} is {record.status}: {record.error}" for record in runs)
    named = "" if key is None else f" with the key {key}"
    raise ConfigError(f"{store.root} has no run of attack i2i{named} that will do"
                      f"{f' ({others})' if others else ''}; run a specification whose attack is i2i and succeeds")


def _additive(state: dict[str, Tensor], record: Record) -> Additive:
    if set(state) != {"pattern"} or record.spec["task"].get("scale", 1) != 1:
        raise ConfigError(f"run {record.key} has trigger {record.spec['attack']['trigger']['name']} at scale "
                          f"{record.spec['task'].get('scale', 1)}; hiding needs one that adds a pattern, such as uap "
                          "or gaussian, at scale 1")
    return Additive(state["pattern"])


def read(path: Path, channels: int) -> Pixels:
    """A photograph from a file.

    Raises:
        CannotComplete: it cannot be read.
    """
    try:
        return torch.from_numpy(np.array(pixels(path, channels)))
    except Unreadable as error:
        raise CannotComplete(f"{path} cannot be read: {error}") from error
