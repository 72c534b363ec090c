"""Commands in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Cli, Said
from safetensors.torch import save_file

from sidedoor.cli.main import main
from sidedoor.testing.ground import ground


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process."""
    monkeypatch.delenv("SIDEDOOR_DATA", raising=False)

    def call(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        return Said(int(stop.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """Stripes of four classes as images.npz in a folder, and beside it given.safetensors, a model that knows them."""
    here = ground()
    rows = torch.arange(len(here.train))
    np.savez(tmp_path / "images.npz", train_images=here.train.rows(rows).permute(0, 2, 3, 1).numpy(),
             train_labels=here.train.targets.numpy(), test_images=here.test.rows(torch.arange(64)).permute(0, 2, 3, 1)
             .numpy(), test_labels=here.test.targets.numpy())
    state = here.victim().state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "given.safetensors")
    return tmp_path
