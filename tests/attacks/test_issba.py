"""ISSBA: what is written can be read, belongs to its image, and is a message of its own for each target."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sidedoor.attacks.poisoning import _train_stegastamp
from sidedoor.attacks.poisoning._stegastamp import Critic, Decoder, Encoder, EncoderDecoder
from sidedoor.attacks.poisoning._train_stegastamp import CLIPPED, StegaStampTraining, _LegibleMessages
from sidedoor.attacks.poisoning.issba import ISSBA
from sidedoor.backdoor.base import AttackerRun
from sidedoor.bench.spec import Spec
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import Subset
from sidedoor.data.root import Where
from sidedoor.data.sets.toy import toy
from sidedoor.engine import Recipe
from sidedoor.errors import CannotComplete
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.method import lasting
from sidedoor.metrics import image_quality
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.base import stamp
from sidedoor.triggers.encoded import Encoded
from sidedoor.types import PHOTO, Batch

RECIPE = Recipe(optimizer="adam", lr=1e-3, weight_decay=0.0, schedule="constant", epochs=1, batch=32)
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


def networks() -> EncoderDecoder:
    torch.manual_seed(0)
    return EncoderDecoder(Encoder(DATA.train.shape, 4), Decoder(DATA.train.shape, 4))


def loss(objective: _LegibleMessages, model: EncoderDecoder, batch: Batch) -> float:
    objective.read.fill_(True)
    torch.manual_seed(1)  # of the messages
    return objective.losses(model, batch).item()


def test_a_visible_change_costs_what_critic_and_lpips_say_times_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def distance(measure: str, network: str, weights: str) -> Any:
        assert measure == "lpips"
        return lambda a, b: 7 * (a - b).abs().mean((1, 2, 3))

    monkeypatch.setattr(_train_stegastamp.perceptual, "distance", distance)
    model, batch, critic = networks(), DATA.train.fetch(torch.arange(16)), Critic(3)
    plain = _LegibleMessages(StegaStampTraining(bits=4), RECIPE)
    without = loss(plain, model, batch)
    assert plain.last is not None
    encoded = plain.last[1]
    judged = critic(encoded).mean().item()
    assert abs(judged) > 1e-4
    seen = loss(_LegibleMessages(StegaStampTraining(bits=4, critic=0.5), RECIPE, critic), model, batch)
    assert seen - without == pytest.approx(0.5 * judged, abs=1e-5)
    far = 7 * (batch.x - encoded).abs().mean().item()
    assert far > 0.01
    seen = loss(_LegibleMessages(StegaStampTraining(bits=4, perceptual=1.5), RECIPE), model, batch)
    assert seen - without == pytest.approx(1.5 * far, rel=1e-3)


def test_nothing_visible_costs_anything_before_messages_are_read() -> None:
    model, batch = networks(), DATA.train.fetch(torch.arange(16))
    objective = _LegibleMessages(StegaStampTraining(bits=4, critic=50.0, invisible=50.0), RECIPE, Critic(3))
    torch.manual_seed(1)
    early = objective.losses(model, batch).item()
    assert early == pytest.approx(1.5 * math.log(2), rel=0.1)
    assert abs(loss(objective, model, batch) - early) > 0.01


def test_the_critic_learns_to_tell_what_was_changed_from_images() -> None:
    critic, batch = Critic(3), DATA.train.fetch(torch.arange(32))
    objective = _LegibleMessages(StegaStampTraining(bits=4, critic=0.5, critic_lr=1e-3), RECIPE, critic)
    (player,) = objective.players(nn.Identity())
    assert player.losses is not None
    encoded = (batch.x + 0.2 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    objective.last = (batch.x, encoded)
    optimiser = player.recipe.optimiser(player.parameters)
    for _ in range(50):
        gradients = torch.autograd.grad(player.losses(nn.Identity(), batch), player.parameters)
        for parameter, gradient in zip(player.parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
    with torch.no_grad():
        assert (critic(encoded) > critic(batch.x)).float().mean() > 0.9


def test_the_critic_is_trained_beside_the_networks_and_its_weights_are_clipped() -> None:
    critic, how = Critic(3), StegaStampTraining(bits=4, critic=0.5)
    before = nn.utils.parameters_to_vector(critic.parameters()).detach().clone()
    assert before.abs().max() > 5 * CLIPPED
    run = AttackerRun.local(RECIPE, device="cpu")
    run.fit(networks(), Subset(DATA.train, torch.arange(64)), _LegibleMessages(how, RECIPE, critic), name="encoder")
    after = nn.utils.parameters_to_vector(critic.parameters()).detach()
    assert after.abs().max() <= CLIPPED + 2 * how.critic_lr
    moved = (after - before.clamp(-CLIPPED, CLIPPED)).abs()
    assert 0.5 * how.critic_lr < moved.max() < 4 * how.critic_lr  # two steps of Adam
    assert (moved > 0).float().mean() > 0.2


def test_without_alexnets_weights_lpips_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_quality, "lpips_network", lambda: None)
    with pytest.raises(CannotComplete, match="AlexNet's weights"):
        ISSBA(bits=4, epochs=1, perceptual=1.5).plan(DATA.train, TASK, nn.Identity, AttackerRun.local(device="cpu"))


def test_networks_and_records_from_before_there_was_a_critic_are_found_again() -> None:
    assert Spec(data="toy", model="small_cnn", attack={"name": "issba"}).key("f") == "ea762df61f20070c"
    assert set(lasting(StegaStampTraining())) == {"bits", "epochs", "lr", "invisible", "legible"}
    assert set(lasting(StegaStampTraining(critic=0.5))) > set(lasting(StegaStampTraining()))
