"""Folders of results of which one file was changed, cut or replaced, and kept models and answers of studies."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from sidedoor.apps.study import rates
from sidedoor.apps.study import read as read_answers
from sidedoor.bench.record import Record
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import load_state, save_state
from sidedoor.evidence import Calibrated, Exhibit, Finding, Localisation, Rule, Separation, Verdict
from sidedoor.report import html, markdown
from sidedoor.report.text import print_table
from tests.corpus.base import MARKER, Item
from tests.corpus.specs import changed
from tests.corpus.weights import Call

SEED, CHANGED = 8, 60
SPEC: dict[str, Any] = {
    "data": {"name": "toy", "train": 60}, "model": {"name": "small_cnn", "width": 8}, "surrogate": None,
    "attack": {"name": "badnets", "rate": 0.1, "goal": {"name": "all_to_one", "target_class": 0}}, "defense": None,
    "task": {"name": "classification"}, "recipe": {"epochs": 3, "lr": 0.1}, "augment": ["flip"], "seed": 0,
}
MEANS: dict[str, float | None] = {"clean": 0.9, "attack": 0.8, "recovered": 0.1, "idle": None}
FOUND = (
    Separation(auroc=0.9, tpr_at_1=0.2, fpr_at_1=0.02, n_positive=6, method="strip"),
    Calibrated(Finding(3.0, Rule(3.0, 2.0), (1,), (0.1, 3.0),
                       (Exhibit("audit_trigger", "picture", "a trigger"), Exhibit("audit_gains", "curve", "gains"))),
               (0.5, 1.0), ("c1", "c2"), method="neural_cleanse"),
    Localisation(0.5, 0.1, 10), Verdict(2.0, 0.01, 0.3, None, 10, 0.05, "it is another model"),
)
PHASES = {"victim": [{"epoch": n, "loss": 1.0 / n, "lr": 0.1, "seconds": 1.0, "valid": None} for n in (1, 2, 3)]}


def arrays() -> dict[str, np.ndarray]:
    y = np.arange(8) % 2
    scores = np.linspace(0, 1, 6)
    return {"class_names": np.array(["cat", "dog"]), "y": y, "clean": (y == 0).astype(np.float32),
            "attack": np.where(y == 0, np.nan, 1.0).astype(np.float32)[None],
            "undefended_clean": np.ones(8, np.float32), "undefended_attack": np.ones((1, 8), np.float32),
            "grid_clean": np.zeros((2, 1, 8, 8), np.uint8), "grid_stamped": np.ones((2, 1, 8, 8), np.uint8),
            "grid_label": np.array([0, 1]), "grid_door": np.array([0, 0]), "suspicious": scores, "innocent": scores,
            "calibration": scores, "worked": scores > 0.5, "audit_trigger": np.zeros((1, 8, 8)),
            "audit_gains": np.arange(5.0)}


def table(key: str, **values: Any) -> dict[str, Any]:
    """A record as JSON."""
    made = Record(key=key, planted="m1", spec=SPEC, status="done", clean=0.9, attack=0.8, recovered=0.1,
                  intervals={"clean": (0.8, 0.95)}, clean_means=MEANS, clean_key="c1", columns={"psnr": 30.0},
                  samples={"train": 60, "rate": 0.1}, seconds=3.0, timing={"attack": 1.0}, versions={"torch": "2"},
                  given="images")
    return json.loads(json.dumps(made.to_json() | values))  # type: ignore[no-any-return]


def results(folder: Path) -> Path:
    """A folder of two records, the second with evidence of every kind."""
    store = Store(folder / "runs")
    defended = SPEC | {"defense": {"name": "strip", "overlays": 10}}
    for record in (Record.from_json(table("r1")), Record.from_json(table("r2", spec=defended, undefended=MEANS))):
        store.put(Record(**vars(record) | {"evidence": FOUND}) if record.key == "r2" else record)
    store.put_arrays("r2", arrays())  # the first is what a report goes on with, and has no figures to be drawn
    store.folder("m1").mkdir()
    (store.folder("m1") / "history.json").write_text(json.dumps(PHASES))
    return store.root


def report(root: Path) -> None:
    """Everything that reads a folder of results; what is strict refuses it at the end."""
    store = Store(root)
    html.build(store)
    records = store.lenient().records()
    markdown.table(records)
    print_table(records, Console(file=io.StringIO(), width=100))
    store.unused()
    for record in store.records():
        store.arrays(record.key)
        store.history(record.planted)


def with_record(content: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
    """The folder with another second record: text or bytes as they are, else as JSON."""
    def make(folder: Path) -> Path:
        root = results(folder)
        file = root / "results" / "r2.json"
        value = content(json.loads(file.read_text(encoding="utf-8")))
        text = value if isinstance(value, str | bytes) else json.dumps(value, default=str)
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return root
    return make


def with_file(name: str, put: Callable[[Path], Any]) -> Callable[[Path], Path]:
    """The folder with something else in the place of one file."""
    def make(folder: Path) -> Path:
        root = results(folder)
        file = root / name
        file.unlink(missing_ok=True)
        put(file)
        return root
    return make


def with_arrays(**others: Any) -> Callable[[Path], Path]:
    """The folder with other arrays in the second run; None leaves one out."""
    given = {name: value for name, value in (arrays() | others).items() if value is not None}
    return with_file("artefacts/r2/arrays.npz", lambda file: np.savez_compressed(file, **given))


def _sparse(file: Path) -> None:
    with open(file, "wb") as opened:
        opened.truncate(2**31)


def _bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("y.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (2**28,)})
        for _ in range(2**8):
            member.write(bytes(2**20))


def _flipped(content: bytes, random: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(random.choice((1, 1, 5))):
        found[random.randrange(len(found))] ^= 1 << random.randrange(8)
    return bytes(found)


def _rewritten(name: str, seed: int, cut: bool) -> Callable[[Path], Path]:
    """The folder with a file of which bits are flipped, or the end is cut off."""
    def make(folder: Path) -> Path:
        file = results(folder) / name
        content, draw = file.read_bytes(), random.Random(seed)
        file.write_bytes(content[: draw.randrange(len(content))] if cut else _flipped(content, draw))
        return folder / "runs"
    return make


def _items_of_records() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    for n in range(CHANGED):
        yield f"changed {n}", with_record(lambda value, n=n: changed(value, random.Random(SEED + n)))
    for n in range(12):
        yield f"flipped {n}", _rewritten("results/r2.json", n, False)
    yield "cut", _rewritten("results/r2.json", 0, True)
    for name, content in {
        "empty": "", "digits": "9" * 10**7, "negative digits": f'{{"key": -{"9" * 5000}}}', "deep": "[" * 10**6,
        "deep tables": '{"a":' * 10**5, "NaN": '{"key": NaN}', "bytes": b"\xff\xfe\0", "null": "null", "twice": "{}{}",
    }.items():
        yield name, with_record(lambda value, content=content: content)
    for field, value in {
        "key": "r9", "planted": "../../../etc", "clean_key": "/etc", "status": "won", "seconds": 1e308,
        "error": "\ud800", "schema": 99, "terms": {}, "evidence": [{"type": "finding", "score": 10**400}],
        "peak_mb": -1, "clean": 1e99,
        "intervals": {"clean": [1e99, -1e99]}, "spec": {"attack": {"name": "\x1b[2J<script>"}}, "undefended": {},
    }.items():
        yield f"{field} = {str(value)[:20]}", with_record(lambda was, field=field, value=value: was | {field: value})
    yield "deep specification", with_record(lambda was: was | {"spec": json.loads('{"a":' * 60 + "1" + "}" * 60)})
    for old in ({"detectors": {"auroc": 2}}, {"detectors": 3}, {"audit": {"score": 1}}, {"sibling": 3}, {"audit": "x"}):
        yield f"schema 1 with {old}", with_record(lambda was, old=old: was | {"schema": 1} | old)


def _items_of_files() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    for name in ("results/r2.json", "artefacts/r2/arrays.npz", "artefacts/m1/history.json"):
        yield f"{name}: folder", with_file(name, Path.mkdir)
        yield f"{name}: pipe", with_file(name, os.mkfifo)
        yield f"{name}: sparse", with_file(name, _sparse)
        yield f"{name}: device", with_file(name, lambda file: file.symlink_to("/dev/zero"))
        yield f"{name}: loop", with_file(name, lambda file: file.symlink_to(file.name))
    for n in range(12):
        yield f"arrays flipped {n}", _rewritten("artefacts/r2/arrays.npz", n, n % 4 == 0)
    for n in range(6):
        yield f"history flipped {n}", _rewritten("artefacts/m1/history.json", n, n % 3 == 0)
    for content in ("{", "[]", '{"victim": 3}', '{"victim": [{}]}', '{"victim": [{"epoch": 1e99, "loss": -1e99}]}',
                    '{"victim": [{"epoch": 1, "loss": null, "lr": 0}]}'):
        yield f"history {content}", with_file("artefacts/m1/history.json", lambda file, c=content: file.write_text(c))
    yield "arrays: bomb", with_file("artefacts/r2/arrays.npz", _bomb)


def _items_of_arrays() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    for name, array in arrays().items():
        yield f"no {name}", with_arrays(**{name: None})
        yield f"{name} longer", with_arrays(**{name: np.concatenate([array, array])})
        other = float if array.dtype.kind in "iub" else str
        yield f"{name} flat", with_arrays(**{name: array.reshape(-1).astype(other)})
    yield "pickled", with_arrays(y=np.array([Call(Path.touch, MARKER)], dtype=object))
    yield "infinite", with_arrays(suspicious=np.full(6, np.inf), innocent=np.full(6, -np.inf))
    yield "nothing known", with_arrays(suspicious=np.full(6, np.nan), clean=np.full(8, np.nan, np.float32))
    yield "strange classes", with_arrays(y=np.array([-5, 2**40] * 4))


def state(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """A kept model, changed."""
    def make(folder: Path) -> Path:
        path = folder / "model.safetensors"
        save_state(path, {"model": {"w": torch.ones(20)}, "doors": [], "seconds": 1.0})
        path.write_bytes(change(path.read_bytes()))
        return path
    return make


def answers(content: bytes | str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "answers.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path
    return make


def items() -> Iterator[Item]:
    yield Item("record", "whole", results, report, good=True)
    for name, make in (*_items_of_records(), *_items_of_files(), *_items_of_arrays()):
        yield Item("record", name, make, report)
    yield Item("state", "whole", state(lambda content: content), load_state, good=True)
    for n in range(20):
        yield Item("state", f"flipped {n}", state(lambda c, n=n: _flipped(c, random.Random(n))), load_state)
    for name, content in {"empty": b"", "text": b"hello", "header": b"\xff" * 8 + b"{}", "zeros": bytes(10**6)}.items():
        yield Item("state", name, state(lambda _, content=content: content), load_state)
    line = '{"participant": "a", "question": 1, "method": "m", "name": "x", "fooled": true}\n'
    read: Callable[[Path], object] = lambda path: rates(read_answers(path))  # noqa: E731 - as the others, a function
    yield Item("answers", "whole", answers(line), read, good=True)
    for n, bad in enumerate(("{}", "[]", "NaN", "9" * 10**6, "[" * 10**6, line.replace("1", "1e999"), "\0", "null",
                             line.replace("true", "1"), line.replace('"m"', '"\\ud800"'), line.replace('"x"', "[]"))):
        yield Item("answers", f"odd {n}", answers(f"{bad}\n{line}"), read)
    yield Item("answers", "bytes", answers(b"\xff\xfe\n"), read)
