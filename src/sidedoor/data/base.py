"""What a data set is here: a fixed number of rows, fetched a batch at a time.

In-memory sets keep uint8 pixels and hand them to the device as they are; they become float32 there. A data set that is
larger than a limit stays on disk as a memory map, a folder of images is decoded when it is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import operator
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils import data as torch_data

from sidedoor.core.system import allocate
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.types import PHOTO, Batch, Images, Space, from_levels, to_levels

MEMORY_LIMIT = 4 * 2**30
"""Bytes of pixels kept in memory; larger sets become a memory map."""
CLASS_LIMIT = 10_000
"""The most classes of data whose classes are only numbered: a larger number is hardly one of a class."""


class Dataset(torch_data.Dataset[tuple[Tensor, Any]], ABC):
    """A fixed number of images of one shape with one integer label each.

    It is a data set of PyTorch, too: `data[k]` is (float image, label), and `DataLoader(data)` works.

    Attributes:
        shape: (channels, height, width).
        classes: class names; label k means `classes[k]`.
        targets: (n,) int64 labels as given.
        space: the values an image may take.
        lazy: rows are decoded when asked for, so the training loop fetches ahead.
        groups: (n,) int64, what each row was cut from, such as a photograph; None where rows stand alone. Rows of one
            group are never split, and count as one observation in intervals.
        boxes: (n, k, 5), the objects in each image as (class, left, top, right, bottom) in pixels, -1 in every column
            where an image has fewer than k; None where images as a whole are labelled.
        zoom: (n,), pixels of each row over pixels of the file, of frames that were brought to one canvas; None where
            rows are as large as their files.
        resized: from what the images were brought to one shape, in words; empty if they have it by themselves.
    """

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    targets: Int[Tensor, "n"]
    space: Space = PHOTO
    lazy: bool = False
    groups: Int[Tensor, "n"] | None = None
    boxes: Float[Tensor, "n k 5"] | None = None
    zoom: Float[Tensor, "n"] | None = None
    resized: str = ""

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """One sample: the image (c, h, w) as float32, and its label, or what else the targets are."""
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"sample {row} of {len(self)}")
        x, y, _ = self.fetch(torch.tensor([row % len(self)]))
        return x[0], int(y) if y.shape == (1,) else y[0]

    @abstractmethod
    def rows(self, index: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Pixels as stored, in the order asked for."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content, for the keys of results."""

    def position(self, index: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """Position of each row in the base data set, which keys per-sample randomness; a subset maps it."""
        return index

    def fetch(self, index: Int[Tensor, "b"], device: torch.device | str = "cpu") -> Batch:
        """Rows as a batch of float32 images on a device."""
        raw = self.rows(index).to(device, non_blocking=True)
        y = self.targets[index.to(self.targets.device)].to(device, non_blocking=True)
        return Batch(unit(raw, self.space), y, self.position(index).to(device, non_blocking=True))

    def staged(self, device: torch.device) -> Dataset:
        """The same data set, held on the device where its kind allows that and it fits."""
        return self

    def at(self, epoch: int) -> Dataset:
        """The same data set as an epoch of training sees it: one that draws noise draws it afresh."""
        return self


def unit(raw: Tensor, space: Space) -> Images:
    """Stored pixels as float32 in the space; floating-point storage is taken as it is."""
    if raw.dtype != torch.uint8:
        return raw.float()
    if space.levels is None:
        raise ConfigError("8-bit pixels given for a space without levels; store floating-point values instead")
    return from_levels(raw.float(), space)


def stored(x: Images, space: Space) -> UInt8[Tensor, "b c h w"]:
    """Images of a photograph space as the 8-bit values that a file keeps."""
    if space.levels is None:
        raise ConfigError(f"images in the space {tuple(space)} have no 8-bit form")
    return to_levels(x, space).round_().to(torch.uint8)


class ArrayDataset(Dataset):
    """Images in one uint8 array (n, c, h, w), in memory, on a device, or memory-mapped.

    Raises:
        ConfigError: wrong type or shape, labels that are not 0..classes-1, or lengths that differ.
    """

    def __init__(
        self, images: Tensor | np.ndarray, targets: Any, classes: tuple[str, ...] | int, name: str = "array",
        groups: Any = None, boxes: Float[Tensor, "n k 5"] | None = None, zoom: Float[Tensor, "n"] | None = None,
    ):
        if isinstance(images, np.ndarray) and not isinstance(images, np.memmap):
            images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        if str(images.dtype).removeprefix("torch.") != "uint8" or images.ndim != 4 or 0 in images.shape:
            raise ConfigError(f"{name}: images of type {images.dtype} and shape {tuple(images.shape)} given; "
                              "expected non-empty uint8 (n, channels, height, width)")
        labels = _labels(targets, name)
        if len(images) != len(labels):
            raise ConfigError(f"{name}: {len(images)} images but {len(labels)} labels")
        names = tuple(map(str, range(classes))) if isinstance(classes, int) else writable(classes)
        if labels.min() < 0 or labels.max() >= len(names):
            raise ConfigError(f"{name}: labels from {labels.min()} to {labels.max()} given; "
                              f"expected 0 to {len(names) - 1} for {len(names)} classes")
        self.images, self.targets, self.classes, self.name = images, labels, names, name
        self.groups = None if groups is None else _labels(groups, f"{name}: groups")
        if self.groups is not None and len(self.groups) != len(images):
            raise ConfigError(f"{name}: {len(images)} images but {len(self.groups)} groups")
        self.boxes, self.zoom = boxes, zoom
        if boxes is not None and (boxes.ndim != 3 or len(boxes) != len(images) or boxes.shape[2] != 5):
            raise ConfigError(f"{name}: boxes of shape {tuple(boxes.shape)} given; expected ({len(images)}, k, 5)")
        channels, height, width = map(int, images.shape[1:])
        self.shape = (channels, height, width)

    def rows(self, index: Tensor) -> Tensor:
        if isinstance(self.images, np.ndarray):
            return torch.from_numpy(self.images[index.cpu().numpy()])
        return self.images[index.to(self.images.device)]

    def staged(self, device: torch.device) -> Dataset:
        if device.type == "cpu" or isinstance(self.images, np.ndarray):
            return self
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        if self.images.nbytes > free // 4:
            return self
        return ArrayDataset(self.images.to(device), self.targets, self.classes, self.name, self.groups, self.boxes,
                            self.zoom)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.shape, self.classes)).encode())
        digest.update(self.targets.numpy().tobytes())
        if self.boxes is not None:
            digest.update(self.boxes.numpy().tobytes())
        if self.zoom is not None:
            digest.update(self.zoom.numpy().tobytes())
        for start in range(0, len(self.images), 8192):
            chunk = self.images[start : start + 8192]
            pixels = chunk if isinstance(chunk, np.ndarray) else chunk.cpu().numpy()
            digest.update(np.ascontiguousarray(pixels).data)
        return digest.hexdigest()


class Subset(Dataset):
    """Some rows of a data set, in a given order; positions are those of the base set.

    The base set is held by closures rather than attributes: who is handed a part does not get at the whole.
    """

    def __init__(self, base: Dataset, index: Int[Tensor, "k"]):
        self.shape, self.classes, self.space, self.lazy = base.shape, base.classes, base.space, base.lazy
        self.targets, self.resized = base.targets[index], base.resized
        self.groups = None if base.groups is None else base.groups[index]
        self.boxes = None if base.boxes is None else base.boxes[index]
        self.zoom = None if base.zoom is None else base.zoom[index]
        self._rows: Callable[[Tensor], Tensor] = lambda at: base.rows(index[at.cpu()])
        self._position: Callable[[Tensor], Tensor] = lambda at: base.position(index[at.cpu()])
        self._fetch: Callable[[Tensor, Any], Batch] = lambda at, device: base.fetch(index[at.cpu()], device)
        self._staged: Callable[[torch.device], Dataset] = lambda device: type(self)(base.staged(device), index)
        self._at: Callable[[int], Dataset] = lambda epoch: type(self)(base.at(epoch), index)
        self._fingerprint: Callable[[], str] = lambda: hashlib.sha256(
            base.fingerprint().encode() + index.numpy().tobytes()).hexdigest()

    def rows(self, index: Tensor) -> Tensor:
        return self._rows(index)

    def position(self, index: Tensor) -> Tensor:
        return self._position(index)

    def fetch(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        return self._fetch(index, device)._replace(index=self.position(index).to(device, non_blocking=True))

    def staged(self, device: torch.device) -> Dataset:
        return self._staged(device)

    def at(self, epoch: int) -> Dataset:
        return self._at(epoch)

    def fingerprint(self) -> str:
        return self._fingerprint()


@dataclass(frozen=True)
class Splits:
    """What a loader returns. All parts share shape and classes; iterating gives the first two.

    Args:
        clean: what a defender holds who trusts it, where a set brings that; None: it is cut from `train`.
    """

    train: Dataset
    test: Dataset
    clean: Dataset | None = None

    def __iter__(self) -> Iterator[Dataset]:
        return iter((self.train, self.test))

    def fingerprint(self) -> str:
        """A hash of all parts."""
        parts = (*self, self.clean) if self.clean is not None else tuple(self)
        return "-".join(part.fingerprint() for part in parts)


def split(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Cut a data set in two by seed, class by class: (the rest, about `share` of each class, at least one sample).

    A set of groups is cut by whole groups instead, at least one of them.

    Raises:
        ConfigError: the share is outside (0, 1), a class has a single sample, or there is a single group.
    """
    if not 0 < share < 1:
        raise ConfigError(f"a share of {share} given; expected one between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    if data.groups is not None:
        return _split_groups(data, data.groups, share, generator)
    cut = []
    for label in torch.unique(data.targets):
        members = torch.nonzero(data.targets == label)[:, 0]
        if len(members) < 2:
            raise ConfigError(f"class {data.classes[int(label)]!r} has one sample and cannot be split")
        count = min(max(1, round(share * len(members))), len(members) - 1)
        cut.append(members[torch.randperm(len(members), generator=generator)[:count]])
    chosen = torch.cat(cut).sort().values
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[chosen] = False
    return Subset(data, torch.nonzero(rest)[:, 0]), Subset(data, chosen)


def halves(data: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Two halves by seed, whatever their classes; groups stay whole.

    Raises:
        ConfigError: there is a single sample, or a single group.
    """
    generator = torch.Generator().manual_seed(seed)
    if data.groups is not None:
        return _split_groups(data, data.groups, 0.5, generator)
    if len(data) < 2:
        raise ConfigError("a single sample cannot be split; give more clean samples")
    order = torch.randperm(len(data), generator=generator)
    half = len(data) // 2
    return Subset(data, order[half:].sort().values), Subset(data, order[:half].sort().values)


def _split_groups(data: Dataset, groups: Tensor, share: float, generator: torch.Generator) -> tuple[Dataset, Dataset]:
    names = torch.unique(groups)
    if len(names) < 2:
        raise ConfigError("rows of a single group, such as a photograph or a clip, cannot be split; give more of them")
    count = min(max(1, round(share * len(names))), len(names) - 1)
    chosen = torch.isin(groups, names[torch.randperm(len(names), generator=generator)[:count]])
    return Subset(data, torch.nonzero(~chosen)[:, 0]), Subset(data, torch.nonzero(chosen)[:, 0])


def writable(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes as files can hold them: bytes of a folder's name that are not UTF-8 become escapes."""
    return tuple(name.encode("utf-8", "backslashreplace").decode() for name in names)


class MapStyle(Protocol):
    """Any data set in PyTorch's map style that yields (image, label)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def wrap(data: MapStyle, classes: tuple[str, ...] | int | None = None, *, limit: int = MEMORY_LIMIT,
         progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Read a map-style data set of (image, label) once into 8-bit rows, in memory or (above `limit` bytes) on disk.

    Args:
        data: yields PIL images of 8 bits a channel, arrays (h, w[, c]), or tensors (c, h, w): uint8, or float in
            [0, 1].
        classes: class names or their number; the default is `data.classes`, else one more than the largest label.
        progress: called with (rows done, rows in all).
    """
    if isinstance(data, Dataset):
        return data
    if len(data) == 0:
        raise ConfigError("an empty data set given; expected at least one sample")
    first = _pixels(_sample(data, 0)[0], 0)
    images = storage((len(data), *first.shape), limit)
    labels = np.empty(len(data), dtype=np.int64)
    for i in range(len(data)):
        image, labels[i] = _sample(data, i)
        row = _pixels(image, i)
        if row.shape != first.shape:
            raise ConfigError(f"sample {i} has the shape {row.shape}, sample 0 {first.shape}; resize them to one shape")
        images[i] = row
        if progress:
            progress(i + 1, len(data))
    names = classes or _class_names(data) or _count(labels)
    return ArrayDataset(images, labels, names if isinstance(names, int) else tuple(map(str, names)), "wrapped")


def _sample(data: MapStyle, i: int) -> tuple[Any, int]:
    """(image, label) of a sample.

    Raises:
        ConfigError: the sample is something else, or its label is.
    """
    sample = data[i]
    if isinstance(sample, Mapping):
        raise ConfigError(f"sample {i} is a table with the keys {', '.join(map(str, sample))[:200]}; expected (image, "
                          "label): give a data set that returns these two")
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        raise ConfigError(f"sample {i} is of type {type(sample).__name__}; expected (image, label)")
    label = sample[1].item() if getattr(sample[1], "size", None) == 1 or _single(sample[1]) else sample[1]
    if isinstance(label, float) and label.is_integer():
        return sample[0], int(label)
    try:
        return sample[0], operator.index(label)
    except TypeError as error:
        advice = "number the classes from 0" if isinstance(label, str) else "of one-hot labels, take argmax()"
        raise ConfigError(f"the label of sample {i} is {str(label)[:60]!r} of type {type(label).__name__}; expected "
                          f"the number of a class: {advice}") from error


def _single(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _class_names(data: Any) -> Any:
    """The names that a data set has, or the one that it is a part of."""
    while data is not None:
        if names := getattr(data, "classes", None):
            return names
        data = getattr(data, "dataset", None)
    return None


def numbered(train: np.ndarray, *others: np.ndarray) -> tuple[str, ...]:
    """Names of classes that are only numbered.

    Raises:
        ConfigError: negative labels, or a class without a training sample.
    """
    most = max(int(labels.max()) for labels in (train, *others))
    least = min(int(labels.min()) for labels in (train, *others))
    if least < 0:
        raise ConfigError(f"labels from {least} to {most} given; expected 0 and more")
    there = set(np.unique(train).tolist())
    if len(there) < most + 1:
        empty = itertools.islice((k for k in range(most + 1) if k not in there), 5)
        raise ConfigError(f"labels up to {most} given, but no training sample has {', '.join(map(str, empty))}"
                          f"{' and others' if most + 1 - len(there) > 5 else ''}; number the classes from 0 without a "
                          "gap, or name them all")
    return tuple(map(str, range(most + 1)))


def _count(labels: np.ndarray) -> int:
    if int(labels.min()) < 0:
        raise ConfigError(f"a label of {labels.min()} given; expected the number of a class, 0 or more")
    if int(labels.max()) >= CLASS_LIMIT:
        raise ConfigError(f"a label of {labels.max()} given; expected less than {CLASS_LIMIT:,}, or `classes`")
    return int(labels.max()) + 1


def check_axes(what: str, shape: tuple[int, int, int]) -> None:
    """Refuse images (height, width, channels) whose axes are hardly in this order.

    Raises:
        ConfigError: more channels than pixels a side.
    """
    height, width, channels = shape
    if channels > 4 and channels >= min(height, width):
        raise ConfigError(f"{what} would be images of {height}×{width} pixels with {channels} channels; expected the "
                          "axes (height, width, channels): transpose them if they are (channels, height, width)")


def storage(shape: tuple[int, ...], limit: int = MEMORY_LIMIT) -> np.ndarray:
    """An uninitialised uint8 array: in memory, or above `limit` bytes a temporary memory map deleted with the process.

    Raises:
        CannotComplete: the disk has no room for the map.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size <= limit:
        return np.empty(shape, dtype=np.uint8)
    handle, name = tempfile.mkstemp(prefix="sidedoor-", suffix=".u8")
    try:
        allocate(handle, size)
        return np.memmap(name, dtype=np.uint8, mode="r+", shape=shape)
    except OSError as error:
        raise CannotComplete(f"no room for {size / 2**30:.1f} GiB of pixels in {tempfile.gettempdir()}: {error}; "
                             "set TMPDIR to a larger disk") from error
    finally:
        os.close(handle)
        with contextlib.suppress(PermissionError):  # of Windows, where a mapped file stays until it is cleaned up
            os.unlink(name)  # the map keeps the file until the process ends


def _labels(targets: Any, name: str) -> Int[Tensor, "n"]:
    labels = np.asarray(targets)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ConfigError(f"{name}: labels of type {labels.dtype}, shape {labels.shape} given; expected integers (n,)")
    return torch.from_numpy(labels.astype(np.int64))


def _pixels(image: Any, i: int) -> np.ndarray:
    """One image of any usual kind as uint8 (c, h, w)."""
    mode = getattr(image, "mode", None)
    if isinstance(mode, str) and mode not in ("L", "RGB"):
        if mode[0] in "IF":
            raise ConfigError(f"sample {i} has pixels of mode {mode}, more than 8 bits a channel; convert them to 8")
        image = image.convert("L" if mode in ("1", "LA") else "RGB")
    if isinstance(image, Tensor):
        array = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
    else:
        array = np.asarray(image)
    if array.dtype.kind == "f" and array.size:
        # Written so that NaN fails, too.
        if not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):
            raise ConfigError(f"sample {i} has values from {array.min():.3g} to {array.max():.3g}; expected "
                              "[0, 1]: leave normalisation to the model")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ConfigError(f"sample {i} is {type(image).__name__} of type {array.dtype} and shape {array.shape}; "
                          "expected a PIL image, an array (h, w[, c]) or a tensor (c, h, w), uint8 or float in [0, 1]")
    if array.ndim == 2:
        return array[None]
    array = array if isinstance(image, Tensor) else array.transpose(2, 0, 1)
    check_axes(f"sample {i}", (array.shape[1], array.shape[2], array.shape[0]))
    return array


def dataset_root(path: str | Path | None) -> Path:
    """The data root as a path, or the error that says how to give one."""
    if path is None:
        raise CannotComplete("no data root given; pass --data-root DIR or set SIDEDOOR_DATA")
    return Path(path)
