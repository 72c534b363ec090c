"""From a specification to a printed sheet, and from photographs of it, which are rendered here, to attack success."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sidedoor.cli.main import main
from sidedoor.data.pictures import save_png
from sidedoor.data.print_capture import blurred, noisy
from sidedoor.image.geometry import projected

SPEC = """
data = { name = "toy", train = 400, test = 80 }
model = { name = "small_cnn", width = 8 }
attack = { name = "badnets", rate = 0.2, margin = 2 }
recipe = { epochs = 4, batch = 32 }
"""


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with spec.toml, a sheet of 14 images on two pages, and the model."""
    torch.set_num_threads(1)
    here = tmp_path_factory.mktemp("physical")
    (here / "spec.toml").write_text(SPEC)
    assert command("physical", "print", here / "spec.toml", "-o", here / "sheet.pdf", "--count", 14, "--runs",
                   here / "runs") == 0
    return here


def pages(pdf: bytes) -> list[Tensor]:
    """The pictures in a PDF."""
    starts = [match.start() for match in re.finditer(b"\xff\xd8\xff", pdf)]
    return [torch.from_numpy(np.array(Image.open(io.BytesIO(pdf[k:])).reduce(2))) for k in starts]


def photograph(page: Tensor, path: Path) -> None:
    x = page.permute(2, 0, 1)[None] / 255
    x = projected(x, torch.tensor([[[-0.95, -1], [1, -0.92], [0.96, 0.95], [-1, 0.9]]]))
    x = noisy(blurred(x, torch.tensor([0.7])), torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    save_png((255 * x[0]).round().to(torch.uint8), path)


def test_what_is_printed_is_read_again(printed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about: dict[str, Any] = json.loads((printed / "sheet.json").read_text())
    first, second = pages((printed / "sheet.pdf").read_bytes())
    assert [len(page) for page in about["pages"]] == [24, 4]
    photograph(second, printed / "two.png")
    photograph(first, printed / "one.png")
    photograph(torch.full((400, 300, 3), 200), printed / "table.png")
    capsys.readouterr()
    photographs = [printed / name for name in ("two.png", "table.png", "one.png", "none", "two.png")]
    assert command("physical", "read", *photographs, "--sheet", printed / "sheet.json", "--runs", printed / "runs",
                   "--crops", printed / "crops", "--json") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["digital"]["share"] > 0.9
    assert found["attack"]["share"] == pytest.approx(found["digital"]["share"], abs=0.15)
    assert found["attack"]["images"] == found["clean"]["images"] == 14
    assert found["attack"]["low"] < found["attack"]["share"] <= found["attack"]["high"]
    assert found["idle"]["share"] < 0.2
    assert found["clean"]["share"] > 0.8
    assert len(list((printed / "crops").glob("*-stamped.png"))) == 14 + 2  # page two twice, whose images count once
    assert "table.png: 0 of the 4 corner marks found" in said.err
    assert "none" in said.err
    assert len(found["read"]) == 3


def test_what_cannot_be_read_is_said(printed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = ("--sheet", printed / "sheet.json", "--runs", printed / "runs")
    assert command("physical", "read", printed / "spec.toml", *sheet) == 2
    assert "none of 1 photographs can be read" in capsys.readouterr().err
    (printed / "other.json").write_text("{}")
    assert command("physical", "read", printed / "two.png", "--sheet", printed / "other.json") == 4
    assert "describes no sheet" in capsys.readouterr().err
    assert command("physical", "print", printed / "spec.toml", "-o", printed / "sheet.pdf") == 4
    assert "exists and is left as it is" in capsys.readouterr().err
