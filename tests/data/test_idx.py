"""MNIST and its relatives from IDX files."""

from __future__ import annotations

import gzip
import os
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from sidedoor import registry
from sidedoor.data.formats import idx
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete

FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


def packed(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_set(raw: Path, suffix: str, write: Callable[[Path, bytes], object]) -> dict[str, np.ndarray]:
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    content = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (12, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": np.arange(12, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(5, dtype=np.uint8),
    }
    for name, array in content.items():
        write(raw / (name + suffix), packed(array))
    return content


def write_gz(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(("suffix", "write"), [("", Path.write_bytes), (".gz", write_gz)])
def test_a_set_is_read_gzipped_or_not(name: str, suffix: str, write: Callable[[Path, bytes], object],
                                      tmp_path: Path) -> None:
    content = write_set(tmp_path / FOLDERS[name] / "raw", suffix, write)
    train, test = registry.make("data", name)(Where(tmp_path))
    for part, prefix in ((train, "train"), (test, "t10k")):
        expected = content[f"{prefix}-images-idx3-ubyte"]
        assert torch.equal(part.rows(torch.arange(len(part)))[:, 0], torch.from_numpy(expected))
        assert part.targets.tolist() == content[f"{prefix}-labels-idx1-ubyte"].tolist()
        assert part.shape == (1, 28, 28)
        assert len(part.classes) == 10


def test_nothing_is_written_even_with_downloads_allowed(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_set(raw, ".gz", write_gz)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    for folder in (raw, raw.parent, tmp_path):
        os.chmod(folder, stat.S_IRUSR | stat.S_IXUSR)
    try:
        registry.make("data", "mnist")(Where(tmp_path, download=True))
    finally:
        for folder in (tmp_path, raw.parent, raw):
            os.chmod(folder, stat.S_IRWXU)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_a_missing_set_is_fetched_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    calls: list[tuple[Path, bool]] = []

    def fake(root: Path, download: bool) -> None:
        calls.append((root, download))
        write_set(root / "KMNIST" / "raw", ".gz", write_gz)

    monkeypatch.setattr(torchvision.datasets, "KMNIST", fake)
    assert len(registry.make("data", "kmnist")(Where(tmp_path, download=True)).train) == 12
    assert calls == [(tmp_path, True)]


@settings(max_examples=30, deadline=None)
@given(array=arrays(np.uint8, array_shapes(max_dims=4, max_side=5)))
def test_any_array_of_bytes_is_read_back(array: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes(packed(array))
    read = idx.read(path)
    assert np.array_equal(read, array)
    assert read.flags.writeable  # torch warns of arrays that are not


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x08",
        b"<html>not found</html>",
        packed(np.zeros((2, 3), np.uint8))[:-1],
        packed(np.zeros((2, 3), np.uint8)) + b"x",
        b"\x00\x00\x0d" + packed(np.zeros((2, 3), np.uint8))[3:],
    ],
    ids=["empty", "short", "page", "truncated", "too long", "floats"],
)
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(CannotComplete, match=r"labels.* is damaged"):
        idx.read(tmp_path / "labels")


@pytest.mark.parametrize("cut", [5, -5])
def test_a_damaged_gzip_file_is_named(cut: int, tmp_path: Path) -> None:
    (tmp_path / "labels.gz").write_bytes(gzip.compress(packed(np.zeros(100, np.uint8)))[:cut])
    with pytest.raises(CannotComplete, match=r"cannot read .*labels"):
        idx.read(tmp_path / "labels")


@pytest.mark.timeout(30)
def test_a_file_that_holds_more_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "labels.gz").write_bytes(gzip.compress(packed(np.zeros(10, np.uint8)) + bytes(2**28)))
    tracemalloc.start()
    with pytest.raises(CannotComplete, match="is damaged"):
        idx.read(tmp_path / "labels")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    header = packed(np.zeros((1, 1), np.uint8))[:4] + (2**31).to_bytes(4, "big") * 2
    (tmp_path / "labels").write_bytes(header)
    with pytest.raises(CannotComplete, match="is damaged"):
        idx.read(tmp_path / "labels")
