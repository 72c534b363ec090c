"""A package of somebody else adds an attack and a model without touching this one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

MODULE = '''
"""A plug-in: a white frame, and a network that looks at the average colour.

Paper: A. Nobody, "Frames", 2020.
"""

from dataclasses import dataclass

import torch
from sidedoor import Count, Door, PoisoningAttack, Share, Trigger, classifier
from torch import nn


class Frame(Trigger):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x, index):
        inside = torch.nn.functional.pad(torch.ones_like(x)[..., self.width:-self.width, self.width:-self.width],
                                         [self.width] * 4)
        return torch.where(inside > 0, x, 1.0)


@dataclass(frozen=True)
class WhiteFrame(PoisoningAttack):
    """Draw a white frame."""

    rate: Share = 0.2
    width: Count = 2

    def doors(self, train, task, surrogate, run):
        return tuple(Door(Frame(self.width + k), goal) for k, goal in enumerate(self.goal.parts()))


@dataclass(frozen=True)
class Careless(WhiteFrame):
    """Relabel a row of the set it was given."""

    def doors(self, train, task, surrogate, run):
        train.targets[0] = 1 - train.targets[0].clamp(max=1)
        return super().doors(train, task, surrogate, run)


def flat(classes, shape, width: Count = 16):
    """Two linear layers."""
    pixels = shape[0] * shape[1] * shape[2]
    body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes))
    return classifier(body, classes, shape[0])
'''
ENTRY_POINTS = """
[sidedoor.attack]
white_frame = frames:WhiteFrame
careless_frame = frames:Careless

[sidedoor.model]
flat = frames:flat
"""
SPEC = """
data = {name = "toy", train = 300, test = 100}
model = {name = "flat", width = 32}
attack = {name = "white_frame", width = 3}
defender_share = 0.1

[recipe]
epochs = 8
batch = 32
"""


CHECKS = """
import json
from sidedoor.cli.describe import describe
from sidedoor.testing import check

check("white_frame")
check("flat", width=8)
try:
    check("careless_frame")
except AssertionError as error:
    print(json.dumps({"shown": vars(describe("white_frame")), "broken": str(error)}))
"""


def wheel(folder: Path) -> Path:
    """A wheel made by hand: an archive of the module, its metadata and their hashes."""
    info = "frames-1.0.dist-info"
    files = {
        "frames.py": MODULE,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: frames\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(text.encode())}\n")
    path = folder / "frames-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(lines) + f"{info}/RECORD,,\n")
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip has installed the package into."""
    folder = tmp_path_factory.mktemp("plugin")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-warn-conflicts",
                    "--disable-pip-version-check", "--target", str(folder / "site"), str(wheel(folder))], check=True)
    return folder / "site"


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]),
                                "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def sidedoor(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(site, "-m", "sidedoor", *arguments)


def test_it_is_listed(site: Path) -> None:
    listed = {entry["name"]: entry for entry in json.loads(sidedoor(site, "list", "--json").stdout)}
    assert listed["white_frame"]["kind"] == "attack"
    assert listed["white_frame"]["origin"] == "frames"
    assert listed["white_frame"]["summary"] == "Draw a white frame."
    assert listed["white_frame"]["access"] == "data"
    assert listed["flat"]["summary"] == "Two linear layers."
    assert listed["flat"]["tasks"] == ["classification"]
    assert listed["flat"]["kind"] == "model"
    assert listed["badnets"]["origin"] == "sidedoor"


def test_it_is_described_and_checked_and_a_careless_one_is_caught(site: Path) -> None:
    done = python(site, "-c", CHECKS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shown"]["paper"] == 'A. Nobody, "Frames", 2020.'
    assert found["shown"]["parameters"]["width"]["default"] == 2
    assert "the attacker changes training data" in found["shown"]["threat_model"]
    assert found["broken"].startswith("attack Careless: changed the data set it was given")


def test_it_runs(site: Path, tmp_path: Path) -> None:
    (tmp_path / "frames.toml").write_text(SPEC)
    done = sidedoor(site, "run", str(tmp_path / "frames.toml"), "--out", str(tmp_path / "runs"), "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["status"] == "done"
    assert record["spec"]["attack"] == {"name": "white_frame", "goal": {"name": "all_to_one", "target_class": 0},
                                        "rate": 0.2, "width": 3}
    assert record["clean_means"]["clean"] > 0.9
    assert record["attack"] > 0.9
