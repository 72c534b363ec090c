"""The machine that runs happen on; nothing of it decides a result."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidedoor.core.progress import Progress, Silent
from sidedoor.engine import fabric


@dataclass(frozen=True)
class Machine:
    """Data root (a path or its text), device and progress reports. Nothing here changes the key of a result."""

    root: Path | None = None
    download: bool = False
    device: str = "auto"
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        if self.root is not None:
            object.__setattr__(self, "root", Path(self.root))

    def check(self, devices: int = 1) -> None:
        """Fail before anything is run.

        Raises:
            CannotComplete: so many devices are not there.
        """
        fabric(self.device, devices)


@functools.cache
def launched(device: str, devices: int) -> Any:
    """Devices to compute on; for several, a process for each of the others, once."""
    launched = fabric(device, devices)
    launched.launch()
    return launched
