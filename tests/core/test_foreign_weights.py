"""Weights of unknown origin are read, and what is more than weights is not run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sidedoor import zoo
from sidedoor.core.foreign_weights import read_weights
from sidedoor.data.base import ArrayDataset
from sidedoor.errors import CannotComplete
from sidedoor.models.base import Classifier

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"params_ema": s},
                                  lambda s: {"module." + k: v for k, v in s.items()}])
def test_usual_wrappings_are_taken_off(wrap: object, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(wrap(STATE), path)  # type: ignore[operator]
    read = read_weights(path)
    assert {key: value.tolist() for key, value in read.items()} == {k: v.tolist() for k, v in STATE.items()}


def test_safetensors_are_read_as_they_are(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert torch.equal(read_weights(tmp_path / "weights.safetensors")["weight"], STATE["weight"])


class Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_is_refused_and_not_run(save: object, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save({"weight": Malicious(tmp_path / "owned")}, path)  # type: ignore[operator]
    with pytest.raises(CannotComplete, match="is refused: it is damaged or holds other objects than tensors"):
        read_weights(path)
    assert not (tmp_path / "owned").exists()


def test_damaged_and_missing_files_are_said(tmp_path: Path) -> None:
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(CannotComplete, match=name):
            read_weights(tmp_path / name)
    with pytest.raises(CannotComplete, match="no weights at"):
        read_weights(tmp_path / "nothing.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(CannotComplete, match="no table of tensors"):
        read_weights(tmp_path / "list.pth")


def test_a_network_starts_from_published_weights(tmp_path: Path) -> None:
    data = ArrayDataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 1)
    given = {"name": "dncnn", "layers": 3, "width": 4}
    source = zoo.network(given, data)()
    nn.init.constant_(next(source.parameters()), 0.25)
    torch.save(source.state_dict(), tmp_path / "dncnn.pth")
    model = zoo.network(given | {"weights": str(tmp_path / "dncnn.pth")}, data)()
    assert bool((next(model.parameters()) == 0.25).all())
    with pytest.raises(CannotComplete, match="does not fit the network"):
        zoo.network(given | {"width": 5, "weights": str(tmp_path / "dncnn.pth")}, data)()


def test_published_weights_of_a_bare_classifier_go_behind_its_normalisation(tmp_path: Path) -> None:
    data = ArrayDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 2)
    given = {"name": "cifar_resnet", "depth": 8}
    source = zoo.network(given, data)()
    assert isinstance(source, Classifier)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.body.state_dict().items()}}, tmp_path / "bare.th")
    torch.save(source.state_dict(), tmp_path / "whole.pth")
    x = torch.rand(2, 3, 8, 8)
    for name in ("bare.th", "whole.pth"):
        model = zoo.network(given | {"weights": str(tmp_path / name)}, data)()
        assert torch.equal(model.eval()(x), source.eval()(x)), name


@pytest.mark.parametrize(("depth", "file", "parameters", "right"), [
    (20, "resnet20-12fca82f.th", 269_722, 0.917), (32, "resnet32-d509ac18.th", 464_154, 0.926)])
def test_published_cifar_networks_are_as_right_as_published(depth: int, file: str, parameters: int,
                                                            right: float) -> None:
    root = os.environ.get("SIDEDOOR_DATA")
    weights = Path(root or ".") / "weights" / "cifar_resnet" / file
    if root is None or not weights.is_file():
        pytest.skip(f"no {file} below SIDEDOOR_DATA")
    test = zoo.load({"name": "npz", "path": "cifar10-30k.npz"}, root).test
    model = zoo.network({"name": "cifar_resnet", "depth": depth, "weights": str(weights)}, test)().eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    batch = test.fetch(torch.arange(1000))
    with torch.no_grad():
        assert (model(batch.x).argmax(1) == batch.y).float().mean().item() == pytest.approx(right, abs=0.02)
