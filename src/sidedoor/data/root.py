"""Where loaders look for files, and what they say when nothing is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from sidedoor.core.opening import identified
from sidedoor.data.base import Splits, dataset_root
from sidedoor.errors import CannotComplete
from sidedoor.method import Content

Load = TypeVar("Load", bound=Callable[..., Splits])
DOWNLOAD = "fetch it with `sidedoor run SPEC.toml --download`"


@dataclass(frozen=True)
class Where:
    """What the house hands to every loader.

    Args:
        root: the data root, laid out as torchvision does; None where none was given.
        download: whether a missing set may be fetched (by torchvision, with its checksums).
        seed: cuts the test part of sets that come without one.
    """

    root: Path | None
    download: bool = False
    seed: int = 0

    def folder(
        self,
        name: str,
        needs: Sequence[str] = (),
        fetch: Callable[[Path], object] | None = None,
        advice: str = DOWNLOAD,
    ) -> Path:
        """The folder `name` of the data root, once everything it needs is in it.

        Args:
            needs: glob patterns inside the folder; each must match something.
            fetch: downloads the set into the data root; called only if `download` is on and something is missing.
            advice: how to get the set, for the error.

        Raises:
            CannotComplete: the set is missing or could not be fetched.
        """
        root = dataset_root(self.root)
        folder = root / name
        if self.download and fetch and _missing(folder, needs):
            try:
                fetch(root)
            except (OSError, RuntimeError) as error:
                raise CannotComplete(f"the download of {name} into {root} failed: {error}") from error
        missing = _missing(folder, needs)
        if missing:
            raise CannotComplete(f"the data set is not at {folder} ({', '.join(missing)}); {advice}, or point "
                                 f"--data-root (or SIDEDOOR_DATA) at the folder that has {name}/")
        return folder

    def locate(self, path: str) -> Path:
        """A path given by a person: absolute, or below the current folder, or below the data root, in this order.

        Raises:
            CannotComplete: it is in neither place.
        """
        given = Path(path).expanduser()
        places = [given] if given.is_absolute() or self.root is None else [given, self.root / given]
        for place in places:
            if place.exists():
                return place.resolve()
        raise CannotComplete(f"{path!r} does not exist; looked for {' and '.join(str(p.absolute()) for p in places)}")


FileName = Annotated[str, Content(lambda given, root: given and identified(Where(root).locate(given)))]
"""A file, see `Where.locate`; empty for none."""


def self_contained(load: Load) -> Load:
    """Mark a data set that needs no data root: it is generated, or comes with a package that sidedoor needs."""
    vars(load)["needs_root"] = False
    return load


def needs_root(load: object) -> bool:
    """Whether a data set lies in the data root."""
    return bool(getattr(load, "needs_root", True))


def _missing(folder: Path, needs: Sequence[str]) -> list[str]:
    if not folder.is_dir():
        return ["no such folder"]
    return [f"no {pattern}" for pattern in needs if not any(folder.glob(pattern))]


def download(root: Path, name: str, **options: str) -> None:
    """Let torchvision's class `name` fetch its files, checked against its checksums, into the data root."""
    import torchvision

    getattr(torchvision.datasets, name)(root, download=True, **options)
