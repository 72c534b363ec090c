"""Folders and archives of data: odd layouts, links, pipes, bombs, labels that are no labels."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sidedoor import registry, zoo
from tests.corpus.base import MARKER, Item

Make = Callable[[Path], Path]


def loaded(name: str, **parameters: Any) -> Callable[[Path], object]:
    """Load a data set from a path, hash it and show some of its rows."""
    def read(path: Path) -> object:
        splits = zoo.load({"name": name, "path": str(path)} | parameters)
        return splits.fingerprint(), [part.fetch(torch.arange(min(8, len(part)))) for part in splits]
    return read


def below(name: str) -> Callable[[Path], object]:
    """Load a data set that lies in the data root."""
    return lambda path: zoo.load(name, path).fingerprint()


def images(top: Path, classes: tuple[str, ...] = ("a", "b"), count: int = 5, size: int = 8) -> Path:
    for k, name in enumerate(classes):
        (top / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((size, size, 3), 20 * k + i, np.uint8)).save(top / name / f"{i}.png")
    return top


def plus(change: Callable[[Path], object], *classes: str) -> Make:
    """A folder of classes, changed."""
    def make(folder: Path) -> Path:
        top = images(folder / "set", classes or ("a", "b"))
        change(top)
        return top
    return make


def parts(*names: str) -> Make:
    def make(folder: Path) -> Path:
        for name in names:
            images(folder / "set" / name)
        return folder / "set"
    return make


def mixed(top: Path) -> None:
    Image.fromarray(np.zeros((30, 9, 3), np.uint8)).save(top / "a" / "x.png")


def folders() -> Iterator[tuple[str, Make, bool]]:
    yield "plain", plus(lambda top: None), True
    yield "train and test", parts("train", "test"), True
    yield "Training and Testing", parts("Training", "Testing"), True
    yield "a folder around it", parts("inner"), True
    yield "what systems add", plus(lambda top: images(top, ("__MACOSX", "@eaDir", "$RECYCLE.BIN"))), True
    yield "numbers", plus(lambda top: None, *map(str, range(12))), True
    yield "mixed sizes", plus(mixed), True
    yield "names in bytes", plus(lambda top: os.rename(top / "a", os.fsencode(top) + b"/\xe7\x8c")), True
    yield "names with markup", plus(lambda top: os.rename(top / "a", top / "<b>\n\x1b[31m")), True
    yield "train alone", parts("train"), False
    yield "two trainings", parts("train", "Training", "test"), False
    yield "same folders twice", parts("one", "other"), False
    yield "no class", lambda folder: folder, False
    yield "empty class", plus(lambda top: (top / "c").mkdir()), False
    yield "class of text", plus(lambda top: (images(top, ("c",), 0), (top / "c" / "a.png").write_text("x"))), False
    yield "pipe among images", plus(lambda top: os.mkfifo(top / "a" / "p.png")), True
    yield "link to a device", plus(lambda top: (top / "a" / "z.png").symlink_to("/dev/zero")), False
    yield "link out of it", plus(lambda top: (top / "a" / "z.png").symlink_to("/etc/passwd")), False
    yield "link to itself", plus(lambda top: (top / "a" / "up").symlink_to("..")), False
    yield "link to nothing", plus(lambda top: (top / "a" / "z.png").symlink_to("nowhere.png")), False
    yield "large sparse image", plus(lambda top: os.truncate(top / "a" / "0.png", 2**36)), True
    yield "deep folders", plus(lambda top: images(top / "a" / "/".join("d" * 100), ("x",))), True
    yield "a file", lambda folder: Path(os.fspath(images(folder / "s") / "a" / "0.png")), False
    yield "a pipe", piped, False
    yield "nothing", lambda folder: folder / "nothing", False


def piped(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def arrays() -> dict[str, np.ndarray]:
    y = np.arange(24) % 3
    return {"train_images": np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3)).astype(np.uint8),
            "train_labels": y, "test_images": np.zeros((6, 8, 8, 3), np.uint8), "test_labels": y[:6]}


def archive(packed: bool = False, **changes: Any) -> Make:
    def make(folder: Path) -> Path:
        content = {k: v() if callable(v) else v for k, v in (arrays() | changes).items() if v is not None}
        (np.savez_compressed if packed else np.savez)(folder / "a.npz", **content)
        return folder / "a.npz"
    return make


def declared(name: str, shape: tuple[int, ...], kind: str = "|u1", body: bytes = b"") -> Make:
    """An archive one of whose members has another header than content."""
    def make(folder: Path) -> Path:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
        return member(folder, name, header.getvalue() + body)
    return make


def member(folder: Path, name: str, content: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w", method) as file:
        for key, array in arrays().items():
            if key != name:
                with file.open(f"{key}.npy", "w") as out:
                    np.save(out, array)
        file.writestr(f"{name}.npy", content)
    return folder / "a.npz"


class Touch:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def pickled(name: str) -> Make:
    def make(folder: Path) -> Path:
        return archive(**{name: np.array([Touch(folder / MARKER)] * 24, dtype=object)})(folder)
    return make


def spoiled(change: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path) -> Path:
        path = archive()(folder)
        path.write_bytes(change(path.read_bytes()))
        return path
    return make


def header_of(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def archives() -> Iterator[tuple[str, Make, bool]]:
    y = np.arange(24) % 3
    yield "npz", archive(), True
    yield "npz packed", archive(packed=True), True
    yield "npz, labels in a column", archive(train_labels=y[:, None]), True
    yield "npz, labels from 1", archive(train_labels=y + 1, test_labels=y[:6] + 1), False
    yield "npz, label of a billion", archive(train_labels=y * 10**9), False
    yield "npz, negative labels", archive(train_labels=y - 1), False
    yield "npz, one-hot", archive(train_labels=np.eye(3, dtype=int)[y]), False
    yield "npz, float labels", archive(train_labels=y / 2), False
    yield "npz, channels first", archive(train_images=np.zeros((24, 3, 8, 8), np.uint8)), False
    yield "npz, Fortran order", archive(train_images=np.asfortranarray(np.zeros((24, 8, 8, 3), np.uint8))), False
    yield "npz, floats", archive(train_images=np.zeros((24, 8, 8, 3))), False
    yield "npz, no images", archive(train_images=None), False
    yield "npz, black bomb", archive(True, train_images=lambda: np.zeros((24, 6000, 6000), np.uint8)), False
    yield "npz, images of a terabyte declared", declared("train_images", (24, 2**18, 2**18)), False
    yield "npz, rows of a terabyte declared", declared("train_images", (2**40, 8, 8, 3), body=bytes(5000)), False
    yield "npz, labels of a terabyte declared", declared("train_labels", (2**40,)), False
    yield "npz, names of a terabyte declared", declared("classes", (3,), "<U99999999999"), False
    yield "npz, shape that overflows", declared("train_images", (2**62, 2**62, 3, 3)), False
    yield "npz, nested header", lambda f: member(f, "train_labels", header_of(b"(" * 9000)), False
    yield "npz, code as header", lambda f: member(
        f, "train_labels", header_of(b"__import__('os').mkdir('" + MARKER.encode() + b"')\n")), False
    yield "npz, no header", lambda f: member(f, "train_labels", b""), False
    yield "npz, lzma", lambda f: member(f, "train_labels", b"x" * 99, zipfile.ZIP_LZMA), False
    for name in ("train_images", "train_labels", "classes"):
        yield f"npz, code in {name}", pickled(name), False
    yield "npz, cut", spoiled(lambda data: data[: len(data) // 2]), False
    yield "npz, zeros inside", spoiled(lambda data: data[:2000] + bytes(500) + data[2500:]), False
    yield "npz, wrong directory", spoiled(lambda data: data[:-22] + data[-22:].replace(b"\4\0", b"\xff\xff")), False
    yield "npz, text", spoiled(lambda data: b"no archive"), False
    yield "npz, pipe", piped, False
    yield "npz, device", lambda folder: Path("/dev/zero"), False


def yolo(label: bytes | Callable[[Path], object], **more: bytes) -> Make:
    def make(folder: Path) -> Path:
        for part in ("train", "val"):
            for what in ("images", "labels"):
                (folder / "set" / what / part).mkdir(parents=True)
            Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "set" / "images" / part / "0.png")
        file = folder / "set" / "labels" / "train" / "0.txt"
        file.write_bytes(label) if isinstance(label, bytes) else label(file)
        for name, content in more.items():
            (folder / "set" / name.replace("_", ".")).write_bytes(content)
        return folder / "set"
    return make


def labels() -> Iterator[tuple[str, Make, bool]]:
    yield "yolo", yolo(b"0 .5 .5 .2 .2\n"), True
    yield "yolo, mark of byte order", yolo(b"\xef\xbb\xbf0 .5 .5 .2 .2\r\n"), True
    yield "yolo, class of a billion", yolo(b"999999999 .5 .5 .2 .2\n"), False
    yield "yolo, class of 1e300", yolo(b"1e300 .5 .5 .2 .2\n"), False
    yield "yolo, a million boxes", yolo(b"0 .5 .5 .2 .2\n" * 250_000), False
    yield "yolo, a file of 50 MB", yolo(b"0 .5 .5 .2 .2\n" * 3_500_000), False
    yield "yolo, one long line", yolo(b"0" * 4_000_000), False
    yield "yolo, Latin-1", yolo(b"0 .5 .5 .2 .2 # \xe9"), False
    yield "yolo, pipe", yolo(os.mkfifo), False
    yield "yolo, device", yolo(lambda file: file.symlink_to("/dev/zero")), False
    yield "yolo, nested names", yolo(b"0 .5 .5 .2 .2", names_json=b"[" * 100_000), False
    yield "yolo, names that are none", yolo(b"0 .5 .5 .2 .2", names_json=b'"abc"'), False
    yield "yolo, table without 0", yolo(b"0 .5 .5 .2 .2", names_json=json.dumps({"1": "b"}).encode()), False
    for name, text, good in descriptions():
        yield f"yolo, {name}", yolo(b"0 .5 .5 .2 .2", data_yaml=text), good


def descriptions() -> Iterator[tuple[str, bytes, bool]]:
    """Of what a `data.yaml` may hold."""
    yield "described", b"train: images/train\nval: ../images/val\nnames: {0: a, 1: b}\n", True
    yield "described elsewhere", b"train: /etc\nval: ../../..\nnames: [a]\n", True
    yield "names that grow", b"a: &a [x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (97 + k, 97 + k, b", ".join([b"*%c" % (96 + k)] * 9)) for k in range(1, 12)) + \
        b"names: *l\n", False
    yield "names that are commands", b"names: !!python/object/apply:os.system ['touch executed']\n", False
    yield "nested lists in YAML", b"names: " + b"[" * 50_000, False
    yield "a billion classes", b"nc: 1000000000\n", False
    yield "a long YAML", b"names: [" + b"a, " * 40_000 + b"a]", False


def mnist(content: Callable[[], bytes]) -> Make:
    def make(folder: Path) -> Path:
        raw = folder / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
                     "t10k-labels-idx1-ubyte"):
            (raw / f"{name}.gz").write_bytes(content())
        return folder
    return make


def cifar(content: Callable[[Path], bytes]) -> Make:
    def make(folder: Path) -> Path:
        top = folder / "cifar-10-batches-py"
        top.mkdir()
        for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
            (top / name).write_bytes(content(folder))
        return folder
    return make


def nested_key() -> bytes:
    code = b"\x80\x02})q\x000"
    for k in range(1, 80):
        code += b"h" + bytes([k - 1]) + b"h" + bytes([k - 1]) + b"\x86q" + bytes([k]) + b"0"
    return code + b"hOK\x01s."


def roots() -> Iterator[tuple[str, str, Make]]:
    idx = b"\0\0\x08\x03"
    yield "mnist", "gz bomb", mnist(lambda: gzip.compress(idx + b"\0\0\0\1" * 3 + bytes(2**29), 1))
    yield "mnist", "gz bomb that says so", mnist(
        lambda: gzip.compress(idx + b"".join(n.to_bytes(4, "big") for n in (2**15, 128, 128)) + bytes(2**29), 1))
    yield "mnist", "header of a terabyte", mnist(lambda: gzip.compress(idx + b"\0\1\0\0" * 3))
    yield "mnist", "255 axes", mnist(lambda: gzip.compress(b"\0\0\x08\xff" + b"\xff" * 1020))
    yield "mnist", "no gz", mnist(lambda: b"text")
    yield "cifar10", "code", cifar(lambda folder: pickle.dumps({b"data": Touch(folder / MARKER)}, 2))
    yield "cifar10", "tuples in tuples", cifar(lambda _: nested_key())
    yield "cifar10", "table of memos", cifar(lambda _: b"\x80\x02}r\xff\xff\xff\x7f.")
    yield "cifar10", "long bytes announced", cifar(lambda _: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.")
    yield "cifar10", "lists in lists", cifar(lambda _: b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".")


def items() -> Iterator[Item]:
    for name in ("folder", "npz", "yolo", "mnist", "cifar10"):
        registry.load("data", name)  # once, rather than in each child
    for name, make, good in folders():
        yield Item("folder", f"folder, {name}", make, loaded("folder"), good)
    for name, make, good in archives():
        yield Item("folder", name, make, loaded("npz"), good)
    for name, make, good in labels():
        yield Item("folder", name, make, loaded("yolo", size=40), good)
    for data, name, make in roots():
        yield Item("folder", f"{data}, {name}", make, below(data))
