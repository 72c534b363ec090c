"""Archives of arrays: what was written comes back, and what is damaged, hostile or huge is refused by its name."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sidedoor.core.arrays import read
from sidedoor.errors import CannotComplete


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def test_arrays_come_back(tmp_path: Path) -> None:
    given = {"a": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
             "names": np.array(["x", "Å"]), "scalar": np.array(3), "none": np.zeros((0, 4), np.float32)}
    np.savez_compressed(tmp_path / "a.npz", **given)
    found = read(tmp_path / "a.npz")
    assert found.keys() == given.keys()
    assert all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in given.items())


@pytest.mark.parametrize("content", [
    b"", b"PK", npy(np.array([{}], dtype=object), allow_pickle=True), npy(np.arange(9))[:-8],
    npy(np.arange(9)).replace(b"(9,)", b"(-9)"), npy(np.arange(9)).replace(b"(9,), }  ", b"(10**9,)}"),
    npy(np.zeros(9)).replace(b"(9,), }       ", b"(900000000,)}"),
])
def test_a_damaged_array_is_refused(tmp_path: Path, content: bytes) -> None:
    path = archive(tmp_path / "a.npz", good=npy(np.arange(3)), bad=content)
    with pytest.raises(CannotComplete, match=r"cannot read the arrays in .*a\.npz: bad"):
        read(path)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.npz", good=npy(np.arange(1000))).read_bytes()
    for content in (b"", b"text", whole[:200], whole[:500] + b"\1" + whole[501:]):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(CannotComplete, match=r"cannot read the arrays in .*a\.npz"):
            read(tmp_path / "a.npz")
    (tmp_path / "b.npz").mkdir()
    with pytest.raises(CannotComplete, match="it is a folder"):
        read(tmp_path / "b.npz")
