from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.purifiers.refine import REFINE, contrast, cycle
from sidedoor.engine import Run
from sidedoor.tasks.classification import Classification


def test_redrawn_images_have_other_classes_which_undo_turns_back() -> None:
    images = torch.randint(20, 60, (96, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[::3, :, :, :4] += 150
    images[1::3, :, :, 4:] += 150
    images[2::3, :, :4] += 150
    clean, task, run = ArrayDataset(images, [0, 1, 2] * 32, 3), Classification(3), Run.local(device="cpu")
    last = nn.Linear(64, 3, bias=False)
    means = torch.stack([clean.fetch(torch.arange(k, 96, 3)).x.mean(0).flatten() for k in range(3)])
    last.load_state_dict({"weight": 2 * (means - means.mean(0))})
    model = nn.Sequential(nn.Flatten(), last).eval()
    x, y, index = clean.fetch(torch.arange(96))
    assert (model(x).argmax(1) == y).all()  # the premise
    purify = REFINE(epochs=40).fit(REFINE.needs.model_for(model, task), clean, task, run)
    drawn, undo = purify(x, index)
    answer = task.predict(model, drawn)
    order = cycle(3, run.rng("classes"))
    assert (undo(answer).argmax(1) == y).float().mean() >= 0.9
    assert (answer.argmax(1) == order[y]).float().mean() >= 0.9
    assert (answer.argmax(1) == y).float().mean() <= 0.1


def test_no_class_keeps_its_place() -> None:
    for classes in (2, 3, 10):
        for seed in range(20):
            order = cycle(classes, torch.Generator().manual_seed(seed))
            assert order.sort().values.tolist() == list(range(classes))
            assert (order != torch.arange(classes)).all()


def test_contrast_is_that_of_khosla_et_al_by_hand() -> None:
    features = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    near, far = torch.tensor(1.0).exp(), torch.tensor(0.0).exp()
    expected = -2 * (near / (near + far)).log() / 3  # the third row has nobody of its class
    assert contrast(features, torch.tensor([0, 0, 1]), 1.0).item() == pytest.approx(expected.item(), abs=1e-6)
    assert contrast(features, torch.tensor([0, 1, 0]), 1.0) > contrast(features, torch.tensor([0, 0, 1]), 1.0)
