"""CIFAR-10 and CIFAR-100, and pickles that are not what they claim."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidedoor import registry
from sidedoor.data.formats import cifar
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete


def batch(n: int, key: str, seed: int) -> dict[bytes, Any]:
    rng = np.random.default_rng(seed)
    return {b"data": rng.integers(0, 256, (n, 3072), np.uint8), key.encode(): rng.integers(0, 10, n).tolist(),
            b"filenames": [b"a.png"] * n}


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=2))


def write_cifar10(root: Path) -> list[dict[bytes, Any]]:
    folder = root / "cifar-10-batches-py"
    batches = [batch(4, "labels", k) for k in range(6)]
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        dump(folder / name, batches[k])
    dump(folder / "batches.meta", {b"label_names": [f"class {k}".encode() for k in range(10)]})
    return batches


def test_cifar10_is_read_batch_after_batch(tmp_path: Path) -> None:
    batches = write_cifar10(tmp_path)
    train, test = registry.make("data", "cifar10")(Where(tmp_path))
    expected = np.concatenate([b[b"data"] for b in batches[:5]]).reshape(-1, 3, 32, 32)
    assert torch.equal(train.rows(torch.arange(20)), torch.from_numpy(expected))
    assert train.targets.tolist() == [label for b in batches[:5] for label in b[b"labels"]]
    assert torch.equal(test.rows(torch.arange(4)), torch.from_numpy(batches[5][b"data"].reshape(-1, 3, 32, 32)))
    assert test.targets.tolist() == batches[5][b"labels"]
    assert train.classes == test.classes == tuple(f"class {k}" for k in range(10))


def test_cifar100_has_the_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    for k, name in enumerate(("train", "test")):
        dump(folder / name, batch(4, "fine_labels", k) | {b"coarse_labels": [1] * 4})
    dump(folder / "meta", {b"fine_label_names": [str(k).encode() for k in range(100)], b"coarse_label_names": []})
    train, _ = registry.make("data", "cifar100")(Where(tmp_path))
    assert train.targets.tolist() == batch(4, "fine_labels", 0)[b"fine_labels"]
    assert len(train.classes) == 100


def test_the_spelling_of_python_2_is_read(tmp_path: Path) -> None:
    """The released files: byte strings without an encoding, and names of NumPy 1."""
    raw = bytes(range(256)) * 12
    program = (b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
               b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
               b"J\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + raw + b"tbU\x06labels]K\x03au.")
    (tmp_path / "b").write_bytes(program)
    assert pickle.loads(program, encoding="latin1")["data"].tobytes() == raw  # the premise: NumPy reads it, too
    content = cifar.read(tmp_path / "b")
    assert content["data"].pixels(tmp_path / "b").tobytes() == raw
    assert content["labels"] == [3]


class Command:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_runs_a_command_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    marker = tmp_path / "owned"
    dump(tmp_path / "premise", Command(marker))
    pickle.loads((tmp_path / "premise").read_bytes())
    assert marker.is_dir()  # the premise: an ordinary unpickler runs it
    marker.rmdir()
    dump(tmp_path / "cifar-10-batches-py" / "data_batch_3", batch(4, "labels", 0) | {b"x": Command(marker)})
    with pytest.raises(CannotComplete, match=r"data_batch_3 asks to load \w+\.mkdir.* nothing of it was run"):
        registry.make("data", "cifar10")(Where(tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["builtins eval", "builtins getattr", "numpy load", "os system", "numpy.core x"])
def test_only_the_names_of_byte_arrays_are_known(name: str, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n.")
    with pytest.raises(CannotComplete, match="asks to load " + name.replace(" ", r"\.")):
        cifar.read(tmp_path / "b")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "no dictionary"),
        ({b"labels": [0]}, "no 'data'"),
        ({b"data": np.zeros((1, 3072), np.float32), b"labels": [0]}, "not rows of 3,072 bytes"),
        ({b"data": np.zeros((1, 10), np.uint8), b"labels": [0]}, "not rows of 3,072 bytes"),
        ({b"data": np.asfortranarray(np.zeros((2, 3072), np.uint8)), b"labels": [0, 1]}, "not rows of 3,072 bytes"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "2 images, 1 labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]}, "is damaged"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [0]}, "no 'labels'"),
    ],
)
def test_a_file_with_other_content_is_named(value: Any, message: str, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    dump(tmp_path / "cifar-10-batches-py" / "test_batch", value)
    with pytest.raises(CannotComplete, match=message) as caught:
        registry.make("data", "cifar10")(Where(tmp_path))
    assert "test_batch" in str(caught.value)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CannotComplete, match="test_batch is damaged"):
        registry.make("data", "cifar10")(Where(tmp_path))


def test_a_missing_set_is_fetched_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def fake(root: Path, download: bool) -> None:
        assert download
        write_cifar10(root)

    with pytest.raises(CannotComplete, match="--download"):
        registry.make("data", "cifar10")(Where(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake)
    assert len(registry.make("data", "cifar10")(Where(tmp_path, download=True)).train) == 20


def nested(levels: int) -> bytes:
    """A table whose key is a tuple of twice a tuple of twice a tuple..."""
    code = b"\x80\x02})q\x000"
    for k in range(1, levels + 1):
        code += b"h" + bytes([k - 1]) + b"h" + bytes([k - 1]) + b"\x86q" + bytes([k]) + b"0"
    return code + b"h" + bytes([levels]) + b"K\x01s."


@pytest.mark.timeout(20)
@pytest.mark.parametrize("content", [nested(60), b"\x80\x02}r\xff\xff\xff\x0f.",
                                     b"\x80\x02})" + b"2\x86" * 60 + b"Ns."])
def test_pickles_that_ask_for_much_are_refused_at_once(content: bytes, tmp_path: Path) -> None:
    assert isinstance(pickle.loads(nested(3)), dict)  # the premise: such a pickle is one
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CannotComplete, match="builds what a CIFAR file does not have"):
        cifar.read(tmp_path / "a")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    names: list[Any] = [b"a"]
    for _ in range(60):
        names = [names, names]
    dump(tmp_path / "cifar-10-batches-py" / "batches.meta", {b"label_names": names * 5})
    with pytest.raises(CannotComplete, match="something else where a CIFAR file has text"):
        registry.make("data", "cifar10")(Where(tmp_path))


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(CannotComplete, match="no regular file"):
        cifar.read(tmp_path / "a")
