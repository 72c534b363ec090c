"""Every registered network, its published size, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sidedoor import registry
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.models.base import Classifier, bake, head, mask_inputs, penultimate

LIBRARY = {
    "torchvision": ["torchvision:resnet18", "torchvision:mobilenet_v3_small"],
    "timm": ["timm:resnet10t", "timm:vit_tiny_patch16_224"],
}
REFERENCES: list[Any] = []
for _entry in registry.entries():
    classifies = _entry.kind == "model" and "classes" in registry.leading("model", _entry.name)
    if classifies and _entry.origin == "sidedoor":
        REFERENCES += LIBRARY.get(_entry.name, [{"name": _entry.name} | registry.quick("model", _entry.name)])
EVERY = pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: r if isinstance(r, str) else r["name"])


def make(reference: Any, channels: int = 3, size: int = 32, classes: int = 10) -> Classifier:
    torch.manual_seed(0)
    model: Classifier = registry.make("model", reference)(classes, (channels, size, size))
    return model


def lively(reference: Any, channels: int = 3) -> Classifier:
    """A model in evaluation mode whose logits vary: no head at zero, and statistics of one batch."""
    model = make(reference, channels)
    nn.init.normal_(head(model).weight)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(torch.rand(16, channels, 32, 32))
    return model.eval()


def count(reference: Any, classes: int = 10, shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Trainable numbers; the network is built without memory."""
    with torch.device("meta"):
        model: nn.Module = registry.make("model", reference)(classes, shape)
    return sum(p.numel() for p in model.parameters())


def test_every_family_is_here() -> None:
    names = {r.partition(":")[0] if isinstance(r, str) else r["name"] for r in REFERENCES}
    assert names >= {"small_cnn", "torchvision", "timm", "resnet18", "vit"}


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_and_features(reference: Any, channels: int) -> None:
    model = lively(reference, channels)
    x = torch.rand(2, channels, 32, 32)
    with torch.no_grad():
        logits, features = penultimate(model, x)
        alone = model(x[1:])
    layer = head(model)
    assert logits.shape == (2, 10)
    assert (logits[0] - logits[1]).abs().max() > 0.1
    torch.testing.assert_close(features @ layer.weight.flatten(1).T + layer.bias, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone, logits[1:], atol=1e-4, rtol=1e-4)


@EVERY
def test_gradients_are_finite_and_reach_every_parameter(reference: Any) -> None:
    model = lively(reference).train()
    nn.functional.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@EVERY
def test_state_survives_safetensors(reference: Any, tmp_path: Path) -> None:
    model, x = lively(reference), torch.rand(2, 3, 32, 32)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = make(reference).eval()
    assert not torch.equal(fresh(x), model(x))
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(fresh(x), model(x))


@EVERY
def test_masks_cut_features_off_until_they_are_baked(reference: Any) -> None:
    model, x = lively(reference), torch.rand(2, 3, 32, 32)
    layer, keys = head(model), set(model.state_dict())
    keep = torch.arange(layer.weight.shape[1]) % 2 == 0
    whole = model(x)
    mask_inputs(layer, keep)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    nn.functional.cross_entropy(model(x), torch.arange(2)).backward()
    optimiser.step()
    with torch.no_grad():
        logits, features = penultimate(model, x)
        assert (whole - logits).abs().max() > 0.1
        kept = features[:, keep] @ layer.weight.flatten(1)[:, keep].T + layer.bias
        torch.testing.assert_close(kept, logits, atol=1e-4, rtol=1e-4)
        bake(model)
        assert torch.equal(model(x), logits)
    assert set(model.state_dict()) == keys


@EVERY
def test_normalisation_is_inside(reference: Any) -> None:
    """Adding a constant to images and mean alike changes nothing; to images alone, it does."""
    model, x = lively(reference), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before, shifted = model(x), model(x + 0.25)
        model.normalize.mean += 0.25
        torch.testing.assert_close(model(x + 0.25), before, atol=1e-3, rtol=1e-3)
    assert (shifted - before).abs().max() > 0.1


@pytest.mark.parametrize("size", [16, 28, 64])
@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "preact_resnet18", "resnext29", "densenet", "vit"])
def test_own_families_take_the_usual_sizes(name: str, size: int) -> None:
    model = make({"name": name} | registry.quick("model", name), channels=1, size=size).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 1, size, size)).isfinite().all()


def test_small_cnn_takes_images_of_eight_pixels() -> None:
    assert make("small_cnn", 1, 8).eval()(torch.rand(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "preact_resnet18", "vgg19_bn"])
def test_features_of_convolutional_families_are_rectified(name: str) -> None:
    """Pruning by mean activation needs what comes after the last ReLU."""
    _, features = penultimate(lively({"name": name} | registry.quick("model", name)), torch.rand(4, 3, 32, 32))
    assert (features >= 0).all()
    assert (features > 0).any()


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("resnet18", 11_173_962),  # the count usually given for CIFAR-10, one projection for each change of shape
        ("preact_resnet18", 11_171_146 + 2 * 512),  # the count usually given, plus the paper's last normalisation
        ("vgg19_bn", 20_040_522),  # configuration E with convolution biases and one linear layer, CIFAR-10
        ("densenet", 769_162),  # Huang et al. 2017, Table 2: 0.8 M for L=100, k=12; in full the count usually given
    ],
)
def test_sizes_are_the_known_ones(reference: Any, expected: int) -> None:
    assert count(reference) == expected


@pytest.mark.parametrize(
    ("reference", "millions"),
    [
        ({"name": "resnext29", "cardinality": 8}, 34.4),  # Xie et al. 2017, Table 7: ResNeXt-29, 8x64d
        ({"name": "resnext29", "cardinality": 16}, 68.1),  # the same, 16x64d (68.16: cut, not rounded)
        ({"name": "densenet", "depth": 250, "growth": 24}, 15.3),  # Huang et al. 2017, Table 2
        ({"name": "densenet", "depth": 190, "growth": 40}, 25.6),  # the same
    ],
)
def test_sizes_agree_with_the_papers(reference: Any, millions: float) -> None:
    assert count(reference) // 100_000 / 10 == millions


def test_vit_has_the_size_of_deit_tiny_at_its_setting() -> None:
    """Touvron et al. 2021, Table 1: DeiT-Ti, 5 M; 5,717,416 in the published weights."""
    assert count({"name": "vit", "patch": 16, "depth": 12}, 1000, (3, 224, 224)) == 5_717_416


def test_resnet18_of_torchvision_has_its_published_size() -> None:
    assert count("torchvision:resnet18", 1000, (3, 224, 224)) == 11_689_512  # torchvision's table of weights


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18", "vgg19_bn"])
def test_a_quarter_of_the_width_has_about_a_sixteenth_of_the_parameters(name: str) -> None:
    assert count({"name": name, "width": 16}) == pytest.approx(count(name) / 16, rel=0.01)


@pytest.mark.parametrize(
    ("reference", "shape", "message"),
    [
        ("small_cnn", (1, 7, 28), "small_cnn cannot take 7x28 images: the smallest size is 8x8"),
        ("vgg19_bn", (3, 28, 28), "vgg19_bn cannot take 28x28 images: the smallest size is 32x32"),
        ("densenet", (3, 3, 3), "densenet cannot take 3x3 images: the smallest size is 4x4"),
        ("vit", (3, 30, 30), "vit with patches of 4 cannot take 30x30 images; expected square ones"),
        ("vit", (3, 28, 32), "vit with patches of 4 cannot take 28x32 images; expected square ones"),
        ("vit", (2, 32, 32), "vit takes images of 1 or 3 channels, 2 given"),
        ({"name": "vit", "heads": 5}, (3, 32, 32), "expected a width that the heads divide"),
        ({"name": "densenet", "depth": 41}, (3, 32, 32), "depth = 41 given; expected 6 n"),
        ({"name": "densenet", "depth": 4}, (3, 32, 32), "depth = 4 given; expected 6 n"),
        ("torchvision:alexnet", (3, 32, 32), "alexnet cannot take 32x32 images .* resize them to 63x63"),
        ("torchvision:squeezenet1_1", (1, 16, 16), "squeezenet1_1 cannot take 16x16 images .* resize them to 17x17"),
        ("torchvision:vit_b_16", (3, 28, 32), "vit_b_16 cannot take 28x32 images .* resize them to 32x32"),
        ("torchvision:maxvit_t", (3, 350, 350), "no size up to 384x384 was found to work"),
        ("torchvision:resnet18", (4, 32, 32), "takes images of 1 or 3 channels, 4 given"),
        ("timm:vit_tiny_patch16_224", (3, 28, 28), "patches of 16x16 do not divide it.* resize them to 32x32"),
        ("torchvision:resnt18", (3, 32, 32), "unknown torchvision network 'resnt18'; did you mean resnet18"),
        ("torchvision", (3, 32, 32), "'torchvision' needs the parameter 'architecture'"),
        ("timm:resnet10", (3, 32, 32), "unknown timm network 'resnet10'; did you mean resnet10t"),
        ("timm:hf-hub:x/y", (3, 32, 32), "unknown timm network 'hf-hub:x/y'"),
    ],
)
def test_what_cannot_be_built_is_explained(reference: Any, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.make("model", reference)(10, shape)


def test_a_missing_timm_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CannotComplete, match=r"pip install 'sidedoor\[timm\]'"):
        registry.make("model", "timm:resnet10t")(10, (3, 32, 32))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_give_one_output_while_training(name: str) -> None:
    with torch.device("meta"):
        model = registry.make("model", f"torchvision:{name}")(10, (3, 80, 80)).train()
        assert model(torch.empty(4, 3, 80, 80)).shape == (4, 10)


def test_a_convolutional_head_is_found_in_squeezenet() -> None:
    model = make("torchvision:squeezenet1_1").eval()
    assert isinstance(head(model), nn.Conv2d)
    assert penultimate(model, torch.rand(2, 3, 32, 32))[1].shape == (2, 512)


def test_building_moves_no_statistic() -> None:
    """The trial image at build time must not leave a trace in the model that is trained."""
    model = make("torchvision:resnet18")
    assert model.body.training
    assert (model.body.bn1.running_mean == 0).all()
    assert model.body.bn1.num_batches_tracked == 0
