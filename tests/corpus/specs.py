"""Specifications of which a few keys, types or values were changed, and files that are no specifications."""

from __future__ import annotations

import copy
import datetime
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sidedoor.bench.spec import cells, grid, read
from tests.corpus.base import Item

Table = dict[str, Any]
SEED, COUNT = 21, 320

VALID: tuple[Table, ...] = (
    {"data": "digits", "model": "small_cnn"},
    {"data": {"name": "toy", "train": 60, "test": 20}, "model": {"name": "small_cnn", "width": 8},
     "attack": {"name": "badnets", "rate": 0.2, "goal": {"name": "all_to_one", "target_class": 1}},
     "defenses": ["shrink_pad", {"name": "fine_pruning", "largest_drop": 0.04}],
     "recipe": {"epochs": 3, "batch": 32, "lr": 0.01, "schedule": "cosine"}, "augment": ["flip"]},
    {"data": "toy", "model": "torchvision:resnet18", "attack": "wanet", "seed": 3, "references": 2,
     "defender_share": 0.1, "train_samples": 50, "grid": {"seed": [0, 1], "attack.rate": [0.1, 0.2]}},
    {"data": "toy", "model": "vit", "surrogate": "resnet18", "attack": {"name": "tact", "source_classes": [1, 2]},
     "defense": "spectral_signatures", "assumed_rate": 0.2},
    {"data": {"name": "folder", "path": "nowhere", "size": 16}, "model": "small_cnn",
     "attack": {"name": "blended", "goal": "all_to_all"}, "grid": {"defense": ["strip", "abl"], "model.width": [4]}},
    {"data": "patches", "model": "unet", "task": {"name": "restoration"}, "attack": "i2i"},
)

ODD: tuple[Any, ...] = (
    0, -1, 1, 2**31, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"), True, False, "", " ",
    "a" * 5000, "\0", "\n", "\x1b[31m", "\u202e", "[red]", "../../etc/passwd", "badnets", "badnets:0.5", ":", "name",
    "folder:", "npz:\0", "timm:", "torchvision:none", "/dev/zero", "é" * 300, [], [[]], [None], [1, "a"], [0.1] * 50,
    {}, {"name": 3}, {"name": ""}, {"name": "badnets", "rate": "much"}, {"name": {"name": "toy"}}, {"": 1},
    datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 1, 1), datetime.time(1),
)
KEYS = ("data", "model", "attack", "defense", "defenses", "surrogate", "task", "recipe", "augment", "seed", "grid",
        "goal", "name", "rate", "path", "weights", "sha256", "weights_key", "mean", "std", "normalize", "head",
        "frozen", "epochs", "schedule", "", ".", "a.b", "__class__", "self", "where", "classes", "shape", "é", "\n")


def changed(table: Table, random: random.Random) -> Table:
    """A copy with one to three changes, most of them inside of tables: those at the top are soon refused."""
    table = copy.deepcopy(table)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = [place for place in _places(table) if place[0] is not table or random.random() < 0.3]
        if places:
            random.choice(_CHANGES)(*random.choice(places), random)
    return table


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (table or list, key or index) in a table."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _replace(holder: Any, key: Any, random: random.Random) -> None:
    """By a value of the same type, where there is one, or of any."""
    similar = [value for value in ODD if type(value) is type(holder[key])]
    holder[key] = copy.deepcopy(random.choice(similar if similar and random.random() < 0.7 else ODD))


def _rename(holder: Any, key: Any, random: random.Random) -> None:
    if isinstance(holder, dict):
        holder[random.choice(KEYS)] = holder.pop(key)


def _remove(holder: Any, key: Any, random: random.Random) -> None:
    del holder[key]


def _add(holder: Any, key: Any, random: random.Random) -> None:
    if isinstance(holder, dict):
        holder[random.choice(KEYS)] = copy.deepcopy(random.choice(ODD))
    else:
        holder.append(copy.deepcopy(random.choice(ODD)))


def _wrap(holder: Any, key: Any, random: random.Random) -> None:
    inner = holder[key]
    holder[key] = random.choice([lambda: [inner], lambda: {random.choice(KEYS): inner}, lambda: {"name": inner},
                                 lambda: [inner, inner], lambda: str(inner)])()


_CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    _replace, _replace, _replace, _rename, _remove, _add, _wrap)


def written(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if value is None:
        return '""'
    return str(value).lower() if isinstance(value, bool | int | float) else value.isoformat()


def document(table: Table) -> str:
    return "".join(f"{json.dumps(key)} = {written(value)}\n" for key, value in table.items())


def fuzzed() -> Iterator[str]:
    """Changed specifications as text, the same each time."""
    generator = random.Random(SEED)
    for number in range(COUNT):
        yield document(changed(VALID[number % len(VALID)], generator))


def files() -> Iterator[tuple[str, bytes]]:
    """What is no specification, or an odd one."""
    whole = document(VALID[1]).encode()
    yield "empty", b""
    yield "zeros", bytes(64)
    yield "not UTF-8", whole + b'x = "\xff"\n'
    yield "in UTF-16", whole.decode().encode("utf-16")
    yield "cut off", whole[: len(whole) // 2]
    yield "a long number", whole + b"seed = " + b"9" * 5000
    yield "nested lists", b"data = " + b"[" * 5000 + b"]" * 5000
    yield "nested tables", b"data = " + b"{a = " * 3000 + b"1" + b"}" * 3000
    yield "a long dotted key", b".".join([b"a"] * 3000) + b" = 1\n"
    yield "nested names", b"attack = " + b"{name = " * 60 + b'"badnets"' + b"}" * 60
    yield "many keys", b"".join(b"k%d = 1\n" % k for k in range(20_000))
    yield "the same key twice", b"data = 1\ndata = 2\n"
    yield "an image", b"\x89PNG\r\n\x1a\n" + bytes(100)


def keys(path: Path) -> list[str]:
    """The keys of the cells that a file names."""
    table = read(path)
    return [spec.key("0" * 64) for spec in (grid(table) if "grid" in table else cells(table))]


def items() -> Iterator[Item]:
    def make(content: bytes) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            (folder / "spec.toml").write_bytes(content)
            return folder / "spec.toml"
        return write

    for number, table in enumerate(VALID):
        yield Item("spec", f"valid {number}", make(document(table).encode()), keys, good=True)
    for number, text in enumerate(fuzzed()):
        yield Item("spec", f"changed {number}", make(text.encode()), keys)
    for name, content in files():
        yield Item("spec", name, make(content), keys)
