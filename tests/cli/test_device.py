"""Devices by name."""

from __future__ import annotations

from typing import Any

import pytest
from lightning_fabric import Fabric

from sidedoor import engine
from sidedoor.errors import CannotComplete, ConfigError


class Asked(Fabric):
    """Keeps what it is asked for, and looks for no device."""

    def __init__(self, **given: Any):
        self.given = given


@pytest.mark.parametrize(("device", "devices", "asked"), [
    ("cpu", 1, {"accelerator": "cpu", "devices": 1, "strategy": "auto"}),
    ("cpu", 2, {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}),
    ("cuda", 2, {"accelerator": "cuda", "devices": 2, "strategy": "ddp"}),
    ("cuda:1", 1, {"accelerator": "cuda", "devices": [1], "strategy": "auto"}),
    ("mps", 1, {"accelerator": "mps", "devices": 1, "strategy": "auto"}),
])
def test_a_name_says_which_devices(monkeypatch: pytest.MonkeyPatch, device: str, devices: int,
                                   asked: dict[str, Any]) -> None:
    """The list [1] is the second GPU alone, the number 1 any one."""
    monkeypatch.setattr(engine, "Fabric", Asked)
    made: Any = engine.fabric(device, devices)
    assert made.given == asked


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_takes_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(engine, "Fabric", Asked)
    monkeypatch.setattr(engine.torch.cuda, "is_available", lambda: gpu)
    made: Any = engine.fabric("auto")
    assert made.given["accelerator"] == ("cuda" if gpu else "cpu")


@pytest.mark.parametrize("device", ["cuda:77", "cuda:x", "cpu:1", "abacus"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(CannotComplete, match=f"cannot compute on 1 × {device}: .*`sidedoor doctor` lists devices"):
        engine.fabric(device)


def test_one_device_cannot_be_several() -> None:
    with pytest.raises(ConfigError, match="2 devices given with 'cuda:1', which is one; expected 'cuda'"):
        engine.fabric("cuda:1", 2)
