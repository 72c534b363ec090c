from __future__ import annotations

import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.purifiers.autoencoder_purifier import AutoencoderPurifier
from sidedoor.engine import Run
from sidedoor.tasks.classification import Classification


def test_clean_images_pass_and_what_none_of_them_has_does_not() -> None:
    images = torch.randint(20, 60, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[::2, :, :, :4] += 150
    images[1::2, :, :, 4:] += 150
    clean = ArrayDataset(images, [0, 1] * 32, 2)
    purify = AutoencoderPurifier(steps=80).fit(nn.Identity(), clean, Classification(2), Run.local(device="cpu"))
    x, _, index = clean.fetch(torch.arange(64))
    stamped = x.clone()
    stamped[::2, :, 5:7, 5:7] = 1  # in the dark half
    clean_out, stamped_out = (purify(given, index)[0] for given in (x, stamped))
    assert (clean_out - x).square().mean() < 0.2 * (x.mean(0) - x).square().mean()  # it draws more than the mean image
    changed = (stamped_out - clean_out)[::2, :, 5:7, 5:7].mean() / (stamped - x)[::2, :, 5:7, 5:7].mean()
    assert changed < 0.5
