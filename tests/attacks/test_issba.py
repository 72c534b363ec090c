"""ISSBA: what is written can be read, belongs to its image, and is a message of its own for each target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sidedoor.attacks.poisoning._stegastamp import StegaStampTraining
from sidedoor.attacks.poisoning.issba import ISSBA
from sidedoor.backdoor.base import AttackerRun
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.root import Where
from sidedoor.data.sets.toy import toy
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.base import stamp
from sidedoor.triggers.encoded import Encoded
from sidedoor.types import PHOTO

DATA, TASK = toy(Where(None), train=400, test=200), Classification(4)


@pytest.mark.slow
def test_messages_are_read_after_storage_and_belong_to_their_image() -> None:
    training = StegaStampTraining(bits=4, epochs=40, lr=3e-4)
    pair = training.train_or_load(DATA.train, AttackerRun.local(seed=0, device="cpu"))
    batch = DATA.test.fetch(torch.arange(200), torch.device("cpu"))
    message = torch.tensor([1.0, 0, 1, 1])
    stamped = stamp(Encoded(pair.encoder, message), batch.x, batch.index, PHOTO)
    with torch.no_grad():
        right = ((pair.decoder(stamped) > 0) == message.bool()).float().mean()
        before = ((pair.decoder(batch.x) > 0) == message.bool()).float().mean()
    assert right > 0.95
    assert before < 0.8
    changes = (stamped - batch.x).flatten(1)
    alike = torch.corrcoef(changes)[~torch.eye(len(changes), dtype=torch.bool)]
    assert alike.mean() < 0.98, "the trigger is the same for all images"


def test_targets_differ_in_message_and_share_kept_networks(tmp_path: Path) -> None:
    attack = ISSBA(goal=MultiTarget((1, 2)), bits=8, epochs=1, network_seed=0)
    run = replace(AttackerRun.local(device="cpu"), shelf=Shelf(tmp_path))
    one, two = (door.trigger for door in attack.plan(DATA.train, TASK, nn.Identity, run).doors)
    assert isinstance(one, Encoded)
    assert isinstance(two, Encoded)
    assert not torch.equal(one.message, two.message)
    other = attack.plan(DATA.train, TASK, nn.Identity,
                        replace(AttackerRun.local(seed=5, device="cpu"), shelf=Shelf(tmp_path))).doors[0].trigger
    assert len([*tmp_path.iterdir()]) == 1
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
