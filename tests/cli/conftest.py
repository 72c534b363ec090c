"""Commands in this process."""

from __future__ import annotations

import pytest
from command_line import Cli, Said

from sidedoor.cli.main import main


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process."""
    monkeypatch.delenv("SIDEDOOR_DATA", raising=False)

    def call(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        return Said(int(stop.value.code or 0), *capsys.readouterr())

    return call
