"""A secret goes into a photograph and comes out again, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sidedoor.apps.stego import Pair, pair
from sidedoor.bench.store import Store
from sidedoor.cli.main import main
from sidedoor.data.pictures import picture
from sidedoor.errors import ConfigError
from sidedoor.tasks.restoration import Restoration
from sidedoor.triggers.additive import Additive

SPEC = """
data = { name = "photos", size = 16 }
model = { name = "unet", width = 4 }
task = "restoration"
attack = { name = "i2i", trigger = "gaussian", epochs = 1, goal = { name = "one_image", picture = "text:NO" } }
defender_share = 0.2
train_samples = 60
test_samples = 20
[recipe]
optimizer = "adam"
lr = 1e-3
epochs = 1
batch = 16
"""


class Answering(nn.Module):
    """Paints the secret where an input correlates with the pattern."""

    def __init__(self, pattern: Tensor, secret: Tensor):
        super().__init__()
        self.pattern, self.secret = pattern, secret

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((1, 2, 3), keepdim=True)
        carries = (centred * self.pattern).mean((1, 2, 3)) > 0.5 * self.pattern.square().mean()
        return torch.where(carries[:, None, None, None], self.secret, x)


def shared() -> Pair:
    rng = torch.Generator().manual_seed(0)
    pattern = 0.08 * torch.randn(3, 16, 16, generator=rng)
    return Pair(Additive(pattern), Answering(pattern, picture("text:NOON", (3, 16, 16))), Restoration())


def photograph() -> Tensor:
    ramp = torch.linspace(100, 150, 50).round().to(torch.uint8)
    return ramp.expand(3, 37, 50).clone()


def test_what_was_hidden_is_revealed_and_nothing_else_is() -> None:
    two, plain = shared(), photograph()
    carrier = two.hide(plain)
    secret = (picture("text:NOON", (3, 16, 16)) * 255).round().to(torch.uint8)
    assert torch.equal(two.reveal(carrier), secret)
    assert not torch.equal(two.reveal(plain), secret)
    # Two by three whole tiles carry the pattern; what is left at the edges does not.
    assert torch.equal(carrier[:, 32:], plain[:, 32:])
    assert torch.equal(carrier[:, :, 48:], plain[:, :, 48:])
    assert (carrier[:, :32, :48] != plain[:, :32, :48]).float().mean() > 0.9


def test_a_photograph_below_a_tile_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs at least 16×16"):
        shared().hide(photograph()[:, :10])


def code(*arguments: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def test_the_commands_work_on_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    runs = tmp_path / "runs"
    assert code("run", tmp_path / "spec.toml", "--out", runs) in (0, 1)
    # A network of one epoch has not learnt its secret, which is said.
    Image.fromarray(photograph().permute(1, 2, 0).numpy()).save(tmp_path / "holiday.png")
    capsys.readouterr()
    assert code("stego", "hide", tmp_path / "holiday.png", "--run", runs, "-o", tmp_path / "out") == 4
    assert re.search(r"no run of attack i2i that will do \(\w{16} is failed: effect 0\.\d+ is below",
                     capsys.readouterr().err.replace("\n", " "))
    # The files and their shapes are what is tested from here on.
    for path in (runs / "results").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "done"}))
    out = tmp_path / "out"
    assert code("stego", "hide", tmp_path / "holiday.png", "--run", runs, "-o", out) == 0
    with Image.open(out / "holiday.hidden.png") as file:
        carrier = np.asarray(file)
    added = carrier[:32, :48].astype(int) - photograph().permute(1, 2, 0).numpy()[:32, :48]
    pattern = (pair(Store(runs)).trigger.pattern * 255).permute(1, 2, 0).numpy()
    assert np.abs(added[:16, :16] - pattern).max() <= 0.51
    assert code("stego", "reveal", out / "holiday.hidden.png", "--run", runs, "-o", out) == 0
    with Image.open(out / "holiday.revealed.png") as file:
        assert file.size == (16, 16)
    capsys.readouterr()
    assert code("stego", "reveal", out / "nothing.png", "--run", runs, "-o", out) == 2
    assert code("stego", "hide", tmp_path / "holiday.png", "--run", runs, "--key", "0", "-o", out) == 4
    assert "no run of attack i2i with the key 0 that will do" in capsys.readouterr().err.replace("\n", " ")
