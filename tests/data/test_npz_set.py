"""NumPy archives as data sets: layouts, memory maps, and what is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidedoor import registry
from sidedoor.data.base import ArrayDataset, Splits
from sidedoor.data.root import Where
from sidedoor.data.sets import npz
from sidedoor.errors import CannotComplete, ConfigError


def arrays(channels: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tail = (5, 7, channels) if channels > 1 else (5, 7)
    return {
        "train_images": rng.integers(0, 256, (12, *tail), np.uint8), "train_labels": np.arange(12) % 3,
        "test_images": rng.integers(0, 256, (4, *tail), np.uint8), "test_labels": np.array([0, 1, 2, 2]),
    }


def load(file: Path, content: dict[str, Any], **options: bool) -> Splits:
    (np.savez_compressed if options.get("compressed") else np.savez)(file, **content)
    return registry.make("data", f"npz:{file}")(Where(None))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("compressed", [False, True])
def test_archives_are_read_back(channels: int, compressed: bool, tmp_path: Path) -> None:
    content = arrays(channels)
    train, test = load(tmp_path / "a.npz", content, compressed=compressed)
    for part, name in ((train, "train"), (test, "test")):
        expected = content[f"{name}_images"].reshape(len(part), 5, 7, channels).transpose(0, 3, 1, 2)
        assert np.array_equal(part.rows(torch.arange(len(part))).numpy(), expected)
        assert part.targets.tolist() == content[f"{name}_labels"].tolist()
    assert train.shape == (channels, 5, 7)
    assert train.classes == ("0", "1", "2")


def test_a_large_archive_becomes_a_memory_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load(tmp_path / "a.npz", arrays())
    monkeypatch.setattr(npz, "CHUNK", 5 * 7 * 3 * 5)  # five images at a time, so that the last chunk is a short one
    mapped = npz.read(tmp_path / "a.npz", 0, limit=12 * 5 * 7 * 3 - 1)
    assert isinstance(mapped.train, ArrayDataset)
    assert isinstance(mapped.test, ArrayDataset)
    assert isinstance(mapped.train.images, np.memmap)
    assert isinstance(mapped.test.images, torch.Tensor)
    assert [part.fingerprint() for part in mapped] == [part.fingerprint() for part in held]


def test_names_of_classes_are_taken(tmp_path: Path) -> None:
    assert load(tmp_path / "a.npz", arrays() | {"classes": ["ant", "bee", "été"]}).test.classes == ("ant", "bee", "été")


def test_without_a_test_part_a_fifth_is_cut_off(tmp_path: Path) -> None:
    content = {"train_images": np.arange(30, dtype=np.uint8).reshape(30, 1, 1), "train_labels": np.arange(30) % 2}
    train, test = load(tmp_path / "a.npz", content)
    rows = [part.rows(torch.arange(len(part))).flatten().tolist() for part in (train, test)]
    assert sorted(rows[0] + rows[1]) == list(range(30))
    assert test.targets.bincount().tolist() == [3, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": None}, "test_labels missing; it has test_images, train_images, train_labels"),
        ({"train_images": None}, "train_images missing"),
        ({"train_images": np.zeros((12, 5, 7, 3))}, "train_images of type float64"),
        ({"train_images": np.zeros((12, 5), np.uint8)}, r"shape \(12, 5\)"),
        ({"train_images": np.zeros((0, 5, 7, 3), np.uint8)}, r"shape \(0, 5, 7, 3\)"),
        ({"train_images": np.asfortranarray(np.zeros((12, 5, 7, 3), np.uint8))}, "in Fortran order"),
        ({"train_images": np.zeros((11, 5, 7, 3), np.uint8)}, "11 images but 12 labels"),
        ({"test_images": np.zeros((4, 5, 7), np.uint8)}, "expected the same"),
        ({"train_labels": np.zeros((12, 2), int)}, r"train_labels .* expected one integer a row"),
        ({"train_labels": np.arange(12) % 3 + 1}, r"labels up to 3 given, but no training sample has 0; number the"),
        ({"train_labels": np.arange(12) * 10**8}, r"up to 1100000000 .* no training sample has 1, 2, 3, 4, 5 and"),
        ({"test_labels": np.array([0, 1, 2, 4])}, "no training sample has 3, 4;"),
        ({"train_images": np.zeros((12, 3, 8, 8), np.uint8)}, r"3×8 pixels with 8 channels; expected the axes"),
        ({"train_labels": np.zeros(12)}, "train_labels of type float64"),
        ({"train_labels": np.arange(12) - 1}, "labels from -1"),
        ({"classes": np.array(["a", "b"])}, "labels from 0 to 2 given; expected 0 to 1"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = {name: array for name, array in (arrays() | change).items() if array is not None}
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path / "a.npz", content)
    assert "a.npz" in str(caught.value)


def test_labels_in_a_column_are_labels(tmp_path: Path) -> None:
    content = arrays()
    flat = load(tmp_path / "a.npz", content)
    column = load(tmp_path / "b.npz", content | {"train_labels": content["train_labels"][:, None].astype(">i4")})
    assert column.fingerprint() == flat.fingerprint()


@pytest.mark.parametrize("name", ["train_images", "train_labels"])
def test_headers_that_declare_more_than_there_is_are_refused_at_once(name: str, tmp_path: Path) -> None:
    load(tmp_path / "a.npz", arrays())
    file = io.BytesIO()
    shape = (2**40, 5, 7, 3) if name == "train_images" else (2**40,)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    content = {f"{key}.npy": array for key, array in arrays().items() if key != name}
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr(f"{name}.npy", file.getvalue())
        for key, array in content.items():
            with archive.open(key, "w") as member:
                np.save(member, array)
    with pytest.raises((CannotComplete, ConfigError), match=r"declared as|1099511627776 images but 12 labels"):
        registry.make("data", f"npz:{tmp_path / 'b.npz'}")(Where(None))


def test_an_archive_that_is_packed_too_tightly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotComplete, match=r"train_images\.npy' in it has 134,"):
        load(tmp_path / "a.npz", {"train_images": np.zeros((2, 8192, 8192), np.uint8),
                                  "train_labels": np.arange(2)}, compressed=True)


class Tripwire:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.marker,)


@pytest.mark.parametrize("name", ["train_images", "train_labels", "classes"])
def test_pickled_members_are_refused_and_not_run(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    with pytest.raises(ConfigError, match=name):
        load(tmp_path / "a.npz", arrays() | {name: np.array([Tripwire(marker)], dtype=object)})
    assert not marker.exists()
    np.load(tmp_path / "a.npz", allow_pickle=True)[name]
    assert marker.is_dir()  # the premise: whoever allows pickles runs it


def test_files_that_are_no_archive_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"not a zip file")
    with pytest.raises(CannotComplete, match=r"a\.npz cannot be read"):
        registry.make("data", f"npz:{tmp_path / 'a.npz'}")(Where(None))
    with pytest.raises(CannotComplete, match="does not exist"):
        registry.make("data", f"npz:{tmp_path / 'b.npz'}")(Where(None))
