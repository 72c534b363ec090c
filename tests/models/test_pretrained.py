"""Weights that torchvision and timm publish, from files where the libraries would have put them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import hub, nn
from torchvision import models

from sidedoor import registry
from sidedoor.bench.spec import Spec
from sidedoor.errors import CannotComplete
from sidedoor.models.base import head_names

SHAPE = (3, 32, 32)


def made(name: str, classes: int = 10, **given: Any) -> nn.Module:
    return registry.make("model", {"name": name, **given}, download=False)(classes, SHAPE)


def filled(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state that no seed leads to."""
    return {name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The state of SqueezeNet, whose head is a convolution, in the folder of torch's hub."""
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path))
    url = models.get_model_weights("squeezenet1_1").DEFAULT.url
    state = filled(models.squeezenet1_1(num_classes=1000))
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / url.rpartition("/")[2])
    return state


def test_all_but_another_last_layer_is_taken_from_torchvisions_file(published: dict[str, torch.Tensor]) -> None:
    model: Any = made("torchvision:squeezenet1_1", pretrained=True)
    last = head_names(model, model.body)
    assert len(last) == 2
    for name, value in model.body.state_dict().items():
        assert torch.equal(value, published[name]) == (name not in last), name
    whole: Any = made("torchvision:squeezenet1_1", 1000, pretrained=True)
    assert all(torch.equal(value, published[name]) for name, value in whole.body.state_dict().items())


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18.a1_in1k"])
def test_nothing_is_fetched_without_permission(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CannotComplete, match=f"the weights of {name}.* fetched with --download"):
        made(name, pretrained=True)


def test_timms_file_is_looked_for_on_the_hub_and_fitted_by_timm(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    state = filled(timm.create_model("resnet10t", num_classes=1000))
    torch.save(state, tmp_path / "pytorch_model.bin")
    asked = []

    def find(repository: str, name: str, local_files_only: bool) -> str:
        asked.append((repository, name, local_files_only))
        if name == "model.safetensors":
            raise OSError("no such entry")
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", find)
    model: Any = made("timm:resnet10t", pretrained=True)
    assert asked == [("timm/resnet10t.c3_in1k", "model.safetensors", True),
                     ("timm/resnet10t.c3_in1k", "pytorch_model.bin", True)]
    last = head_names(model, model.body)
    for name, value in model.body.state_dict().items():
        assert torch.equal(value, state[name]) == (name not in last), name


def test_published_weights_stay_in_clean_siblings_and_out_of_older_keys() -> None:
    def spec(**more: Any) -> Spec:
        return Spec(data={"name": "toy"}, model={"name": "torchvision", "architecture": "resnet18", **more},
                    attack={"name": "badnets"})

    assert spec(pretrained=False).key("f") == spec().key("f") != spec(pretrained=True).key("f")
    assert spec(pretrained=True).clean_models()[0].model["pretrained"] is True
