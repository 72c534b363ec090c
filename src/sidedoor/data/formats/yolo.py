"""The layouts of YOLO's tools: where the images of each part lie, which file has the boxes of an image, and the names.

`data.yaml` says it, as exports of annotation tools do; without one it is told from the folders: `images/train` and
`images/val`, or `train/images` and `valid/images`. Whatever is said, nothing outside the folder is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sidedoor.core import opening
from sidedoor.data.base import CLASS_LIMIT
from sidedoor.data.formats.images import SUFFIXES, entries
from sidedoor.errors import ConfigError

TEXT_LIMIT = 2**22
"""Bytes of the largest file of labels or names."""
YAML_LIMIT = 2**17
"""Bytes of the largest `data.yaml`, which is parsed slowly."""
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")
TRAIN, TEST = ("train",), ("val", "valid", "test")
"""What parts are called; of several, the first counts."""


@dataclass(frozen=True)
class Layout:
    """Where things lie.

    Args:
        top: the folder of the whole set.
        train, test: folders of images.
        names: of classes; None if no file says them.
        source: of the names.
    """

    top: Path
    train: tuple[Path, ...]
    test: tuple[Path, ...]
    names: tuple[str, ...] | None
    source: str = ""

    def images(self, folders: Iterable[Path]) -> list[Path]:
        """The image files of a part."""
        return [Path(entry) for folder in folders for entry in entries(self._inside(folder), self.top)
                if Path(entry).suffix.lower() in SUFFIXES]

    def labels(self, image: Path) -> Path:
        """The text file that has the boxes of an image: below `labels` in the place of `images`, else beside it."""
        *above, name = image.relative_to(self.top).parts
        if "images" in above:
            above[len(above) - 1 - above[::-1].index("images")] = "labels"
        return self._inside(self.top.joinpath(*above, name).with_suffix(".txt"))

    def _inside(self, path: Path) -> Path:
        if not path.resolve().is_relative_to(self.top.resolve()):
            raise ConfigError(f"{path} is a link out of {self.top}; copy what it points to")
        return path


def layout(path: Path) -> Layout:
    """The layout of a folder, or of the folder that a `data.yaml` lies in.

    Raises:
        ConfigError: a part or a name is missing, or a file that should say it is broken.
    """
    if not path.is_dir() and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path} is a file; expected a folder, or its data.yaml")
    top = path if path.is_dir() else path.parent
    here = [path] if top != path else [top / name for name in DESCRIPTIONS if (top / name).exists()]
    file = here[0] if here else None
    said = _description(file) if file else {}
    train, test = (_named(top, said, part) or _found(top, part) for part in (TRAIN, TEST))
    names, source = _names(said, str(file)) if "names" in said or "nc" in said else _listed(top)
    return Layout(top, train, test, names, source)


def _description(file: Path) -> dict[str, Any]:
    """The table in a `data.yaml`, every scalar as text: no name of a class is a truth value."""
    try:
        table = yaml.load(opening.text(file, YAML_LIMIT), Loader=yaml.BaseLoader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{file} has no table; expected keys such as train, val and names")
    return table


def _named(top: Path, said: Mapping[str, Any], part: tuple[str, ...]) -> tuple[Path, ...]:
    """The folders that a description gives for a part; none if it gives none that are there."""
    given: Any = next((said[name] for name in part if said.get(name)), [])
    places = given if isinstance(given, list) else [given]
    found = []
    for place in places:
        folder = next(filter(Path.is_dir, _candidates(top, said.get("path"), str(place))), None)
        if folder is None:
            return ()
        found.append(folder if not (folder / "images").is_dir() else folder / "images")
    return tuple(found)


def _candidates(top: Path, base: Any, place: str) -> Iterator[Path]:
    """Where a place may be, inside the folder only. Exports write `../train/images` for `train/images`."""
    inner = [part for part in Path(place).parts if part != ".."]
    for path in (top / str(base or "") / place, top / place, *([top.joinpath(*inner)] if inner else [])):
        if path.resolve().is_relative_to(top.resolve()):
            yield top / path.resolve().relative_to(top.resolve())


def _found(top: Path, part: tuple[str, ...]) -> tuple[Path, ...]:
    """The folder of a part by its name."""
    for name in part:
        beside = sorted(folder for folder in (top / "images").glob(f"{name}*") if folder.is_dir())
        within = sorted(folder for folder in top.glob(f"{name}*/images") if folder.is_dir())
        if beside or within:
            return (*beside, *within)[:1]
    raise ConfigError(f"{top} has no images for {part[0]}; expected images/{part[0]} beside labels/{part[0]}, or "
                      f"{part[0]}/images beside {part[0]}/labels, or a data.yaml that says where they are")


def _names(said: Mapping[str, Any], source: str) -> tuple[tuple[str, ...], str]:
    """The names in a description, or as many numbers as it says."""
    count = str(said.get("nc", ""))
    if "nc" in said and not (count.isascii() and count.isdecimal() and 0 < int(count[:9]) <= CLASS_LIMIT):
        raise ConfigError(f"{source} has nc = {count[:60]}; expected a number of classes up to {CLASS_LIMIT:,}")
    names = _list_of(said["names"], source) if "names" in said else tuple(map(str, range(int(count))))
    if "nc" in said and int(count) != len(names):
        raise ConfigError(f"{source} has nc = {count} but {len(names)} names; expected one for each class")
    return names, source


def _list_of(given: Any, source: str) -> tuple[str, ...]:
    """Names from a list, or from a table by number."""
    if isinstance(given, dict):
        given = [given.get(str(k)) for k in range(len(given))]
    if not isinstance(given, list) or not all(type(name) in (str, int) for name in given):
        raise ConfigError(f"{source} cannot be used; expected a list of names, or a table of them from 0 upwards")
    return tuple(map(str, given))


def _listed(top: Path) -> tuple[tuple[str, ...] | None, str]:
    """The names in `names.json` or `classes.txt`, and the file."""
    listed, lines = top / "names.json", top / "classes.txt"
    if listed.exists():
        content = text(listed)
        try:
            given = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{listed} is not JSON: {error}") from error
        return _list_of(given, str(listed)), str(listed)
    if lines.exists():
        return tuple(line.strip() for line in text(lines).splitlines() if line.strip()), str(lines)
    return None, ""


def text(file: Path) -> str:
    """The content of a file of labels or names.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return opening.text(file, TEXT_LIMIT)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
