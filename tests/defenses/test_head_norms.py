from __future__ import annotations

import pytest
import torch
from backdoored_digits import TARGET, Scene
from torch import nn

from sidedoor.data.restricted import Absent
from sidedoor.defenses.audits.head_norms import HeadNorms
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Finding
from sidedoor.models.base import head
from sidedoor.tasks.classification import Classification

RUN = Run.local(device="cpu")


def inspected(model: nn.Module, scene: Scene) -> Finding:
    return HeadNorms().inspect(model, Absent(scene.clean), Classification(10), RUN)


def drawn(classes: int = 10) -> nn.Linear:
    layer = nn.Linear(64, classes)
    rows = torch.randn(classes, 64, generator=torch.Generator().manual_seed(0))
    layer.weight.data = rows / rows.norm(dim=1, keepdim=True)
    return layer


def test_a_row_that_is_half_as_long_again_is_found(scene: Scene) -> None:
    layer = drawn()
    assert inspected(layer, scene).score < 1.1
    layer.weight.data[4] *= 1.5
    found = inspected(layer, scene)
    assert found.score == found.per_class[4] == pytest.approx(1.5, abs=0.2)
    assert (found.suspected, found.paper) == ((), None)


def test_what_is_added_to_all_rows_changes_nothing(scene: Scene) -> None:
    layer, shifted = drawn(), drawn()
    shifted.weight.data += torch.randn(64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.tensor(inspected(layer, scene).per_class),
                               torch.tensor(inspected(shifted, scene).per_class), rtol=1e-5, atol=1e-5)


def test_scales_of_the_normalisation_before_belong_to_the_rows(scene: Scene) -> None:
    """Feature 0 is nine times as large, which a ninth of a weight takes back."""
    layer, scaled, norm = drawn(), drawn(), nn.BatchNorm2d(64)
    norm.weight.data[0] = 9
    scaled.weight.data[:, 0] /= 9
    behind = nn.Sequential(norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), scaled)
    assert inspected(behind, scene).per_class == pytest.approx(inspected(layer, scene).per_class)
    apart = nn.Sequential(norm, nn.Sigmoid(), nn.Flatten(), scaled)
    assert inspected(apart, scene).per_class == pytest.approx(inspected(scaled, scene).per_class)


def test_a_convolution_is_a_head_too(scene: Scene) -> None:
    layer, conv = drawn(), nn.Conv2d(64, 10, 1)
    conv.weight.data = layer.weight.data[:, :, None, None]
    assert inspected(conv, scene).per_class == pytest.approx(inspected(layer, scene).per_class)


def test_equal_rows_are_refused(scene: Scene) -> None:
    layer = nn.Linear(8, 10)
    layer.weight.data = torch.ones(10, 8)
    with pytest.raises(NotApplicable, match="equal"):
        inspected(layer, scene)


def test_a_backdoored_model_scores_above_its_sibling(scene: Scene) -> None:
    found = inspected(scene.model, scene)
    assert found.score == found.per_class[TARGET]
    assert found.score > 1.05 * inspected(scene.sibling, scene).score
    assert head(scene.model).weight.shape[0] == 10
