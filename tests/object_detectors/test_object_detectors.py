"""Detectors of libraries and with published weights: what they learn, what their losses are, and what they find."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sidedoor import registry, zoo
from sidedoor.data.root import Where
from sidedoor.data.sets.scenes import scenes
from sidedoor.engine import Run, seeded
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.metrics import detection
from sidedoor.object_detectors.base import Detector, targets
from sidedoor.object_detectors.fastestdet import fastestdet
from sidedoor.tasks.restored_detection import detector, recipe

WEIGHTS = "weights/fastestdet/weight_AP05_0.253207_280-epoch.pth"


@pytest.mark.parametrize("backbone", ["plain", "residual", "depthwise"])
def test_each_backbone_of_the_small_yolo_has_a_loss_for_each_scene(backbone: str) -> None:
    few, _ = scenes(Where(None), size=32, objects=2, train=4, test=2)
    assert few.boxes is not None
    model = zoo.detector({"name": "tiny_yolo", "backbone": backbone}, few)().train()
    loss = model(few.fetch(torch.arange(4)).x, few.boxes)
    assert loss.shape == (4,)
    assert loss.isfinite().all()


@pytest.mark.parametrize(("name", "steps"), [("ssdlite", 12), ("faster_rcnn", 8), ("fastestdet", 15)])
def test_steps_against_the_losses_lower_them(name: str, steps: int) -> None:
    few, _ = scenes(Where(None), size=64, objects=2, train=8, test=2)
    assert few.boxes is not None
    with seeded(0, torch.device("cpu")):
        model = zoo.detector(name, few)().train()
    x, optimiser = few.fetch(torch.arange(8)).x, torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(steps):
        loss = model(x, few.boxes).mean()
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "epochs"), [("ssdlite", 30), ("faster_rcnn", 12), ("fastestdet", 30)])
def test_unseen_scenes_are_understood(name: str, epochs: int) -> None:
    train, test = scenes(Where(None), size=64, train=1000, test=100)
    assert test.boxes is not None
    model = detector(name, train, Run.local(device="cpu"), recipe(epochs, 2e-3))
    with torch.no_grad():
        found = model.detect(test.fetch(torch.arange(100)).x)
    assert detection.average_precision(found, test.boxes) > 0.5


def test_background_is_class_zero_for_torchvision() -> None:
    target = targets(torch.tensor([[2.0, 1, 2, 3, 4], [-1, -1, -1, -1, -1], [0, 5, 6, 7, 8]]))
    assert target["labels"].tolist() == [3, 1]
    assert target["boxes"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("name", ["ssdlite", "faster_rcnn"])
def test_the_loss_of_an_image_is_torchvisions(name: str) -> None:
    """What torchvision's own forward pass in training mode gives for a batch of that image alone."""
    torch.manual_seed(0)
    model: Detector = zoo.detector(name, scenes(Where(None), size=64, train=2, test=2).train)()
    net = getattr(model, "ssd" if name == "ssdlite" else "net")
    x, truth = torch.rand(1, 3, 64, 64), torch.tensor([[[1.0, 8, 8, 30, 40], [2, 34, 4, 60, 20]]])
    net.transform.image_mean, net.transform.image_std = [0.5] * 3, [0.25] * 3
    for module in model.modules():  # so that two passes see the same statistics
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    net.training = True
    for part in net.children():
        part.training = True
    expected = sum(net(list(x), [targets(truth[0])]).values())
    for part in (net, *net.children()):
        part.training = False
    assert torch.allclose(model(x, truth)[0], expected, rtol=1e-4)


def test_fastestdet_is_as_large_as_published_and_finds_what_it_should() -> None:
    model = fastestdet(80, (3, 352, 352))
    assert sum(p.numel() for p in model.parameters()) == 244_490
    root = os.environ.get("SIDEDOOR_DATA")
    if root is None or not Path(root, WEIGHTS).is_file():
        pytest.skip("no weights of FastestDet below SIDEDOOR_DATA")
    test = zoo.load({"name": "yolo", "path": "coco256"}, root).test
    model = zoo.detector({"name": "fastestdet", "weights": str(Path(root, WEIGHTS))}, test)().eval()
    with torch.no_grad():
        found = torch.cat([model.detect(test.fetch(rows).x) for rows in torch.arange(len(test)).split(16)])
    assert test.boxes is not None
    assert detection.average_precision(found, test.boxes) == pytest.approx(0.33, abs=0.01)


def test_a_detector_with_weights_is_taken_as_it_is(tmp_path: Path) -> None:
    data = scenes(Where(None), size=64, train=8, test=2).train
    source = zoo.detector("fastestdet", data)()
    save_file(source.state_dict(), tmp_path / "kept.safetensors")
    run = replace(Run.local(device="cpu"), root=tmp_path)
    kept = detector("fastestdet@kept.safetensors", data, run, recipe(1, 1e-3))
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in kept.state_dict().items())
    task = registry.make("task", {"name": "restored_detection", "victims": ["fastestdet@kept.safetensors"]})
    assert [*task.setup(data, run).judges] == ["fastestdet"]
    with pytest.raises(CannotComplete, match=r"nothing\.pth"):
        detector("fastestdet@nothing.pth", data, run, recipe(1, 1e-3))


@pytest.mark.parametrize("name", ["ssdlite", "faster_rcnn", "fastestdet"])
def test_small_images_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="the smallest size is 64x64"):
        registry.make("object_detector", name, classes=3, shape=(3, 32, 32))()
