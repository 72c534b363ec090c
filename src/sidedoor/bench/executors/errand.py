"""What travels to where a cell is run: its specification as JSON, its key and the address of the store."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sidedoor.bench.executors.base import THREADS, Cell
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import planned
from sidedoor.bench.run import attempt
from sidedoor.bench.spec import Spec, cells
from sidedoor.bench.store import Locks, Store
from sidedoor.errors import CannotComplete


@dataclass(frozen=True)
class Errand:
    """A cell for a process on another machine, which shares the store's folder and has the data in the same place.

    Args:
        spec: as JSON.
        store: its folder, from the root of the file system.
        data: the data root, from there, too.
    """

    spec: dict[str, Any]
    key: str
    store: str
    locks: Locks
    data: str | None = None
    download: bool = False
    device: str = "auto"

    @classmethod
    def of(cls, cell: Cell, store: Store, machine: Machine) -> Errand:
        """The errand of a cell."""
        root = str(machine.root.absolute()) if machine.root else None
        return cls(cell.spec.to_json(), cell.key, str(store.root.absolute()), store.locks, root, machine.download,
                   machine.device)

    def to_json(self) -> dict[str, Any]:
        """As it travels."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Errand:
        """What has travelled."""
        return cls(**value)

    def check(self) -> None:
        """Fail unless this machine can do it.

        Raises:
            CannotComplete: the store's folder, data or a device are missing here, or the data are others.
        """
        if not Path(self.store).is_dir():
            raise CannotComplete(f"the folder of results {self.store} is not there; all machines have to share it")
        (cell,) = planned([self.cell()], self.machine())
        if cell.key != self.key:
            raise CannotComplete(f"the cell {self.key} is {cell.key} here: data, weights or the version of sidedoor "
                                 "differ from those of the machine that started the sweep")

    def run(self) -> None:
        """Run the cell in this process; it writes its own record."""
        torch.set_num_threads(THREADS)
        attempt(self.cell(), self.place(), self.machine(), self.key)

    def cell(self) -> Spec:
        """Its specification."""
        return cells(self.spec)[0]

    def place(self) -> Store:
        """The store."""
        return Store(Path(self.store), locks=self.locks)

    def machine(self) -> Machine:
        """This machine, as it computes the cell."""
        return Machine(Path(self.data) if self.data else None, self.download, self.device)
