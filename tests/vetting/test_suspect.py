"""A weights file made to run: architecture, classes, normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from sidedoor import registry, zoo
from sidedoor.data.base import ArrayDataset, Dataset, Subset
from sidedoor.engine import Run
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.models.base import Classifier
from sidedoor.vetting import suspect
from sidedoor.vetting.suspect import (
    USUAL,
    accuracy,
    answers,
    in_models_order,
    labels_among,
    object_suspect,
    open_suspect,
    relabelled,
)

RUN = Run.local(device="cpu")


def images(shape: tuple[int, int, int], classes: int = 10, count: int = 60) -> ArrayDataset:
    """Each image as bright as its class is high."""
    labels = np.arange(count) % classes
    levels = np.linspace(20, 235, classes).astype(np.uint8)[labels]
    return ArrayDataset(np.broadcast_to(levels[:, None, None, None], (count, *shape)).copy(), labels, classes)


def saved(model: nn.Module, file: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    return file


NETWORKS = [{"name": "cifar_resnet", "depth": 32}, {"name": "resnet18", "width": 4},
            {"name": "torchvision", "architecture": "squeezenet1_1"}]


@pytest.mark.parametrize("reference", NETWORKS, ids=lambda reference: reference["name"])
def test_networks_are_found_by_the_names_and_shapes_of_their_tensors(
        reference: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "list_models", lambda module: ["alexnet", "squeezenet1_1"])  # all take half a minute
    data = images((3, 32, 32))
    model = zoo.network(reference, data)().eval()
    assert isinstance(model, Classifier)
    if reference["name"] == "torchvision":
        few = [entry for entry in registry.entries() if entry.name in ("small_cnn", "torchvision")]
        monkeypatch.setattr(registry, "entries", lambda: few)
    for part in (model, model.body):
        found = open_suspect(saved(part, tmp_path / "model.safetensors"), None, data, "none", "", RUN)
        assert {key: found.architecture[key] for key in reference} == reference
        assert found.how.startswith("found")
        x = data.fetch(torch.arange(2)).x
        assert torch.allclose(found.model.body(x), model.body(x), atol=1e-5)  # type: ignore[operator]


def test_what_fits_no_known_network_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspect, "_candidates", lambda data, widths: iter([]))
    file = saved(nn.Linear(3, 4), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="--arch"):
        open_suspect(file, None, images((1, 8, 8)), "auto", "", RUN)


def test_another_number_of_classes_is_named(tmp_path: Path) -> None:
    file = saved(registry.make("model", "small_cnn", classes=7, shape=(1, 16, 16))(), tmp_path / "model.safetensors")
    with pytest.raises(CannotComplete, match="another number of classes"):
        open_suspect(file, "small_cnn", images((1, 16, 16)), "auto", "", RUN)


class Bright(nn.Module):
    """Logits by the mean of a normalised image: class k is nearest to the k-th of the means that it was made for."""

    def __init__(self, means: list[float], spread: float):
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Linear(1, len(means))
        levels = torch.tensor(means)
        with torch.no_grad():
            self.conv.weight.fill_(1)
            self.conv.bias.fill_(0)  # type: ignore[union-attr]
            self.bn.running_mean.fill_(levels.mean())  # type: ignore[union-attr]
            self.bn.running_var.fill_(spread**2)  # type: ignore[union-attr]
            normalised = (levels - levels.mean()) / spread
            self.linear.weight.copy_(40 * normalised[:, None])
            self.linear.bias.copy_(-20 * normalised.square())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.bn(self.conv(x)).mean((2, 3)))
        return logits


@pytest.mark.parametrize("truth", ["none", "half", "0..255"])
@pytest.mark.parametrize("by_statistics", [True, False])
def test_the_normalisation_is_found_by_kept_statistics_or_by_the_loss(truth: str, by_statistics: bool,
                                                                      monkeypatch: pytest.MonkeyPatch,
                                                                      tmp_path: Path) -> None:
    data = images((1, 8, 8))
    levels = data.fetch(torch.arange(10)).x.mean((1, 2, 3))
    (mean,), (std,) = USUAL[truth]
    seen = (levels - mean) / std
    body = Bright(seen.tolist(), seen.std().item())
    if not by_statistics:
        body.bn = nn.Identity()  # type: ignore[assignment]
        body.linear.weight.data /= seen.std()
        body.linear.bias.data -= body.linear.weight.data[:, 0] * seen.mean()

    def network(classes: int, shape: Any, **_: Any) -> Any:
        return lambda: Classifier(Bright([0.0] * classes, 1.0) if by_statistics else _plain(classes), classes,
                                  (0.5,), (0.25,))

    monkeypatch.setattr(registry, "make", lambda kind, reference, **given: network(**given))
    monkeypatch.setattr(registry, "reference", lambda kind, given: {"name": given})
    found = open_suspect(saved(body, tmp_path / "model.safetensors"), "bright", data, "auto", "", RUN)
    assert found.normalization.startswith(truth), found.normalization
    assert accuracy(answers(found.model, data, RUN), data).value == 1


def _plain(classes: int) -> Bright:
    body = Bright([0.0] * classes, 1.0)
    body.bn = nn.Identity()  # type: ignore[assignment]
    return body


def test_a_file_that_carries_its_normalisation_is_believed(tmp_path: Path) -> None:
    data = images((1, 16, 16))
    model = registry.make("model", "small_cnn", classes=10, shape=(1, 16, 16))()
    zoo.normalize(model, ((0.1,), (0.7,)), "it")
    found = open_suspect(saved(model, tmp_path / "model.safetensors"), "small_cnn", data, "auto", "", RUN)
    assert found.normalization == "as the file says"
    assert isinstance(found.model, Classifier)
    assert found.model.normalize.mean.item() == pytest.approx(0.1)
    assert open_suspect(saved(model, tmp_path / "model.safetensors"), "small_cnn", data, "none", "", RUN) \
        .normalization == "none, as given"


def test_blue_before_red_is_found_and_put_right(tmp_path: Path) -> None:
    class Colour(nn.Module):
        """Looks at what it takes for red, less what it takes for blue, in levels from their usual means."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1, bias=False)
            self.linear = nn.Linear(2, 2, bias=False)
            with torch.no_grad():
                self.conv.weight.copy_(torch.tensor([[-1.0, 0, 1], [1, 0, -1]])[..., None, None] / 255)  # blue first
                self.linear.weight.copy_(20 * torch.eye(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.linear(self.conv(x).mean((2, 3)))
            return logits

    pixels = torch.full((40, 3, 8, 8), 110, dtype=torch.uint8)
    pixels[:20, 0] += 60
    pixels[20:, 2] += 60
    data = ArrayDataset(pixels, torch.arange(40) // 20, 2)
    model = Classifier(Colour(), 2, (0.5,) * 3, (0.25,) * 3)
    file = saved(model.body, tmp_path / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "make", lambda *_, **__: lambda: Classifier(Colour(), 2, (0.5,) * 3, (0.25,) * 3))
        patch.setattr(registry, "reference", lambda kind, given: {"name": given})
        found = open_suspect(file, "colour", data, "auto", "", RUN)
        given = open_suspect(file, "colour", data, "caffe", "", RUN)
        other = open_suspect(file, "colour", data, "0..255", "", RUN)
    assert found.normalization.startswith("caffe")
    assert found.reversed
    assert given.reversed
    assert not other.reversed
    assert [accuracy(answers(each.model, data, RUN), data).value for each in (found, given, other)] == [1, 1, 0]
    assert found.key == given.key != other.key  # what was measured of one is not taken for the other's


class Permuted(nn.Module):
    """Says class (k + 3) % K of an image of class k."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = (x.mean((1, 2, 3)) * 255 - 20) / (215 / 9)
        return nn.functional.one_hot((level.round().long() + 3) % 10, 10).float()


def test_another_order_of_classes_is_found_and_undone() -> None:
    data = images((1, 8, 8))
    given = answers(Permuted(), data, RUN)
    ordered = in_models_order(given, data, Subset(data, torch.tensor([0, 9])))
    assert ordered is not None
    mapped, other = ordered
    assert mapped.targets.tolist() == ((data.targets + 3) % 10).tolist()
    assert other.targets.tolist() == ((data.targets[[0, 9]] + 3) % 10).tolist()
    assert mapped.classes[3] == data.classes[0]
    assert accuracy(given, mapped).value == 1
    assert in_models_order(given, mapped) is None
    assert not accuracy(given, data).enough


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[0].expand(len(x), 10)


def test_a_constant_model_has_no_order_and_not_enough_accuracy() -> None:
    data = images((1, 8, 8))
    given = answers(Constant(), data, RUN)
    assert in_models_order(given, data) is None
    found = accuracy(given, data)
    assert found.value == pytest.approx(0.1)
    assert not found.enough


def test_classes_are_looked_up_among_the_names_of_outputs() -> None:
    data: Dataset = ArrayDataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), [0, 1, 1, 0], ("cat", "dog"))
    places = labels_among(data, ("fox", "dog", "cat"))
    assert relabelled(data, places, ("fox", "dog", "cat")).targets.tolist() == [2, 1, 1, 2]
    with pytest.raises(ConfigError, match="dog"):
        labels_among(data, ("cat", "wolf"))
    with pytest.raises(ConfigError, match="twice"):
        labels_among(data, ("cat", "cat", "dog"))


def test_an_object_is_copied_and_its_references_start_afresh() -> None:
    model = registry.make("model", "small_cnn", classes=10, shape=(1, 16, 16))().train()
    found = object_suspect(model, "mine")
    assert model.training
    assert not found.model.training
    fresh = found.build()
    first = next(iter(dict(fresh.named_parameters()).values()))
    assert not torch.equal(first, next(iter(dict(model.named_parameters()).values())))
    assert found.sha256 == object_suspect(model, "mine").sha256
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert found.sha256 != object_suspect(model, "mine").sha256
