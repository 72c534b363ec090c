"""Weights files: code in every place that a pickle has, tensors larger than their file, archives that are none."""

from __future__ import annotations

import argparse
import collections
import functools
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from sidedoor.core.checkpoint import save_state
from sidedoor.core.foreign_weights import read_weights
from tests.corpus.base import MARKER, Item

STATE = {"conv.weight": torch.ones(4, 3, 3, 3), "fc.bias": torch.zeros(4)}


class Call:
    """Pickled as a call: who builds it, makes the call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(marker: Path) -> dict[str, Any]:
    """Objects whose building leaves the marker."""
    touch, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    return {
        "system": Call(os.system, touch), "popen": Call(os.popen, touch), "run": Call(subprocess.run, touch, 0, None),
        "check_output": Call(subprocess.check_output, ["touch", str(marker)]),
        "call": Call(subprocess.call, ["touch", str(marker)]), "eval": Call(eval, code), "exec": Call(exec, code),
        "open": Call(open, str(marker), "w"), "mkdir": Call(os.mkdir, str(marker)),
        "partial": Call(functools.partial, os.system, touch),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "map": Call(list, Call(map, os.system, [touch])), "torch.load": Call(torch.load, str(marker)),
        "hub": Call(torch.hub.load, "a/b", "c"), "numpy": Call(np.load, str(marker)), "path": Call(Path.touch, marker),
        "import": Call(__import__, "antigravity"), "exit": Call(sys.exit, 0), "kill": Call(os.kill, os.getpid(), 9),
        "state": Call(collections.OrderedDict, state={"__class__": Call(os.system, touch)}),
        "bytes": Call(bytearray, 2**42), "jit": Call(torch.jit.load, str(marker)),
        "pickle in pickle": Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
    }


def malicious(name: str, form: str) -> Callable[[Path], Path]:
    """A file with one of `attacks`, as torch writes it today, as it did, or as a plain pickle."""
    def make(folder: Path) -> Path:
        value = {"state_dict": STATE, "args": attacks(folder / MARKER)[name]}
        path = folder / "model.pth"
        if form == "pickle":
            path.write_bytes(pickle.dumps(value, protocol=2))
        else:
            torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
        return path
    return make


def saved(value: Callable[[], Any], name: str = "model.pth", **options: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(value(), folder / name, **options)
        return folder / name
    return make


def written(content: Callable[[], bytes], name: str = "model.pth") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name
    return make


def changed(change: Callable[[bytearray], bytes | bytearray], value: Callable[[], Any] = lambda: STATE,
            **options: bool) -> Callable[[Path], Path]:
    """What torch writes, with other bytes."""
    def content() -> bytes:
        file = io.BytesIO()
        torch.save(value(), file, **options)
        return bytes(change(bytearray(file.getvalue())))
    return written(content)


def repacked(method: int, **more: bytes) -> Callable[[Path], Path]:
    """What torch writes as an archive, packed anew, with some members more or instead."""
    def make(folder: Path) -> Path:
        torch.save(STATE, folder / "plain")
        with zipfile.ZipFile(folder / "plain") as old, zipfile.ZipFile(folder / "model.pth", "w", method) as new:
            for info in old.infolist():
                name = info.filename.partition("/")[2]
                new.writestr(info.filename, more.pop(name, old.read(info.filename)))
            for name, content in more.items():
                new.writestr(f"plain/{name}", content)
        (folder / "plain").unlink()
        return folder / "model.pth"
    return make


def bombed(folder: Path) -> Path:
    """A storage of a gigabyte of zeros, deflated."""
    torch.save({"w": torch.zeros(2)}, folder / "plain")
    with zipfile.ZipFile(folder / "plain") as old, \
            zipfile.ZipFile(folder / "model.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for info in old.infolist():
            with new.open(info.filename, "w", force_zip64=True) as member:
                for _ in range(1024 if info.filename.endswith("data/0") else 0):
                    member.write(bytes(2**20))
                if not info.filename.endswith("data/0"):
                    member.write(old.read(info.filename))
    (folder / "plain").unlink()
    return folder / "model.pth"


def nested_key() -> bytes:
    code = b"\x80\x02})q\x000"
    for k in range(1, 80):
        code += b"h" + bytes([k - 1]) + b"h" + bytes([k - 1]) + b"\x86q" + bytes([k]) + b"0"
    return code + b"hOK\x01s."


def safetensors_file(header: Any, body: bytes = b"", length: int | None = None) -> Callable[[Path], Path]:
    def content() -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + body
    return written(content, "model.safetensors")


def tensor(shape: list[int], begin: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "model.pth")
    return folder / "model.pth"


def linked(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model.pth").symlink_to(target)
        return folder / "model.pth"
    return make


def sparse(folder: Path) -> Path:
    torch.save(STATE, folder / "model.pth")
    os.truncate(folder / "model.pth", 2**36)
    return folder / "model.pth"


def structured(folder: Path) -> Path:
    save_state(folder / "model.safetensors", {"model": STATE, "doors": [{"pattern": torch.zeros(2)}], "epoch": 3})
    return folder / "model.safetensors"


def good() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    yield "small", saved(lambda: STATE)
    yield "small legacy", saved(lambda: STATE, _use_new_zipfile_serialization=False)
    yield "pth.tar with everything", saved(lambda: {
        "state_dict": {f"module.{k}": v for k, v in STATE.items()}, "best": np.float64(3), "where": Path("a"),
        "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {0: {"m": torch.zeros(3)}}}}, "model.pth.tar")
    yield "tied", saved(lambda: {"a": STATE["fc.bias"], "b": STATE["fc.bias"]})
    yield "no contiguous memory", saved(lambda: {"a": torch.zeros(4, 5).T, "b": torch.zeros(1000)[::7]})
    yield "40 MB", saved(lambda: {"a": torch.zeros(10_000_000), "b": torch.zeros(7, dtype=torch.bfloat16)})
    yield "written by sidedoor", structured


def odd() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    zeros = torch.zeros
    yield "expanded", saved(lambda: {"w": zeros(1).expand(2**29)})
    yield "expanded legacy", saved(lambda: {"w": zeros(1).expand(2**40)}, _use_new_zipfile_serialization=False)
    yield "expanded 64 times", saved(lambda: {str(k): zeros(1).expand(2**25) for k in range(64)})
    yield "one storage a thousand times", saved(lambda: dict.fromkeys(map(str, range(1000)), zeros(10**6)))
    yield "200,000 empty tensors", saved(lambda: (lambda one: {str(k): one.view(0) for k in range(200_000)})(zeros(0)))
    yield "one tensor 200,000 times", saved(lambda: dict.fromkeys(map(str, range(200_000)), zeros(0)))
    yield "100,000 numbers", saved(lambda: {str(k): k for k in range(100_000)})
    yield "overlapping windows", saved(lambda: {"w": zeros(2998).as_strided((1999, 1000, 300), (1, 1, 0))})
    yield "sparse tensor", saved(lambda: {"w": torch.eye(3).to_sparse()})
    yield "meta tensor", saved(lambda: {"w": torch.empty(10**9, device="meta")})
    yield "quantised", saved(lambda: {"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)})
    yield "complex", saved(lambda: {"w": torch.ones(3, dtype=torch.complex128).conj()})
    yield "list", saved(lambda: [1, 2, 3])
    yield "tensor alone", saved(lambda: zeros(3))
    yield "no tensors", saved(lambda: {"state_dict": {}})
    yield "deeply nested", saved(lambda: functools.reduce(lambda inner, _: {"model": inner}, range(300), STATE))
    yield "two tables", saved(lambda: {"state_dict": STATE, "ema": STATE})
    yield "whole module", saved(lambda: torch.nn.Linear(2, 2))
    yield "names of a megabyte", saved(lambda: {"x" * 2**20: zeros(1), "\udcff\n\x1b[31m": zeros(1)})
    yield "keys of all kinds", saved(lambda: {1: zeros(1), "1": zeros(1), (2, 3): zeros(1), None: zeros(1)})
    yield "tuples in tuples as a key", written(nested_key)
    yield "table of memos", written(lambda: b"\x80\x02}r\xff\xff\xff\x7f.")
    yield "long text announced", written(lambda: b"\x80\x02X\xff\xff\xff\x7fabc.")
    yield "lists without end", written(lambda: b"\x80\x02" + b"]" * 3_000_000 + b".")
    yield "reference to itself", written(lambda: b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01h\x00s.")
    yield "cut", changed(lambda data: data[: len(data) // 2])
    yield "cut legacy", changed(lambda data: data[:-20], _use_new_zipfile_serialization=False)
    yield "claims of a legacy storage", changed(lambda data: data.replace(b"K\x6c", b"J\xff\xff\xff\x7f"),
                                                _use_new_zipfile_serialization=False)
    yield "zeros in the middle", changed(lambda data: data[:300] + bytes(500) + data[800:])
    yield "ends in another archive", changed(lambda data: data + data)
    yield "deflated bomb", bombed
    yield "deflated", repacked(zipfile.ZIP_DEFLATED)
    yield "lzma", repacked(zipfile.ZIP_LZMA)
    yield "TorchScript", repacked(zipfile.ZIP_STORED, **{"constants.pkl": b"\x80\x02)."})
    yield "two pickles", repacked(zipfile.ZIP_STORED, **{"sub/data.pkl": b"\x80\x02)."})
    yield "no pickle", repacked(zipfile.ZIP_STORED, **{"data.pkl": b""})
    yield "many members", repacked(zipfile.ZIP_STORED, **{f"x/{k}": b"" for k in range(70_000)})
    yield "web page", written(lambda: b"<!DOCTYPE html><html>404</html>")
    yield "pointer of LFS", written(lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    yield "empty", written(lambda: b"")
    yield "onnx", written(lambda: b"\x08\x07")
    yield "noise", written(lambda: np.random.default_rng(0).bytes(10**6))
    yield "pipe", pipe
    yield "link to zeros", linked("/dev/zero")
    yield "link to noise", linked("/dev/urandom")
    yield "link to nothing", linked("nowhere")
    yield "link to itself", linked("model.pth")
    yield "folder", lambda folder: folder
    yield "sparse file", sparse
    yield "header of 10 GB announced", safetensors_file(b"{}", length=10**10)
    yield "header of 99 MB", safetensors_file(b'{"a":1,' + b" " * (99 * 10**6) + b"}")
    yield "offsets beyond the end", safetensors_file({"a": tensor([2**40], 0, 2**42)})
    yield "offsets that overlap", safetensors_file({str(k): tensor([256], 0, 1024) for k in range(50)}, bytes(1024))
    yield "shape that overflows", safetensors_file({"a": tensor([2**63, 4], 0, 16)}, bytes(16))
    yield "unknown type", safetensors_file({"a": tensor([4], 0, 16, "F31")}, bytes(16))
    yield "nested header", safetensors_file(b'{"a":' * 10_000)
    yield "no JSON", safetensors_file(b"{not json}")
    structures = {"deep": "[" * 50_000, "number": "3", "list": '{"list": [1]}',
                  "unknown": '{"dict": [["a", {"x": 1}]]}',
                  "pairs": '{"dict": [[1, 2, 3]]}', "tensor": '{"dict": [["model", {"tensor": "b"}]]}'}
    for name, structure in structures.items():
        yield f"structure {name}", safetensors_file({"__metadata__": {"structure": structure}, "a": tensor([1], 0, 4)},
                                                    bytes(4))
    yield "structure of many", many_structured


def many_structured(folder: Path) -> Path:
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors",
              {"structure": json.dumps({"dict": [[str(k), {"tensor": "a"}] for k in range(100_000)]})})
    return folder / "model.safetensors"


def items() -> Iterator[Item]:
    for name, make in good():
        yield Item("weights", name, make, read_weights, good=True)
    for name in attacks(Path("x")):
        for form in ("zip", "legacy", "pickle")[: 1 if name not in ("system", "eval", "partial") else 3]:
            yield Item("weights", f"{name}, {form}", malicious(name, form), read_weights)
    for name, make in odd():
        yield Item("weights", name, make, read_weights)
