"""Writing a poisoned data set: bit-exact, labelled as backdoored, all or nothing."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sidedoor import registry
from sidedoor.backdoor import export as module
from sidedoor.backdoor.export import export
from sidedoor.data.base import ArrayDataset, Dataset, Splits, Subset
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.types import MEASUREMENT

CLASSES = ("T-shirt/top", "..", "Ångström ⌘", "a b", "a/b", "CON.", "", "x" * 300, "n", "o", "p")


def noise(n: int = 33, shape: tuple[int, int, int] = (3, 5, 7), classes: tuple[str, ...] = CLASSES) -> ArrayDataset:
    images = np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)
    return ArrayDataset(images, np.arange(n) * 7 % len(classes), classes)


def facts(**more: Any) -> dict[str, Any]:
    return {"attack": {"name": "badnets", "rate": 0.1}, "seed": 3, "changed": [4, 0]} | more


def read(path: str) -> Splits:
    return registry.make("data", path)(Where(None))


def pooled(splits: Splits) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of both parts, in an order that does not depend on the split."""
    images = torch.cat([part.rows(torch.arange(len(part))) for part in splits])
    labels = torch.cat([part.targets for part in splits])
    keys = [row.numpy().tobytes() for row in images]
    order = sorted(range(len(keys)), key=lambda i: (int(labels[i]), keys[i]))
    return images[order], labels[order]


def same(data: Dataset, splits: Splits) -> bool:
    nothing = Subset(data, torch.zeros(0, dtype=torch.int64))
    return all(torch.equal(a, b) for a, b in zip(pooled(Splits(data, nothing)), pooled(splits), strict=True))


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 6, 6)])
@pytest.mark.parametrize("form", ["folder", "npz"])
def test_what_is_written_is_read_back_bit_by_bit(form: Any, shape: tuple[int, int, int], tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    data = noise(shape=shape)
    made = export(data, tmp_path / "out", facts(), form)
    back = read(f"folder:{made}" if form == "folder" else f"npz:{made / 'backdoored.npz'}")
    assert same(data, back)
    assert back.train.shape == shape


def test_rows_keep_their_place_in_both_forms(tmp_path: Path) -> None:
    data = noise()
    folder, archive = export(data, tmp_path / "a", facts()), export(data, tmp_path / "b", facts(), "npz")
    with np.load(archive / "backdoored.npz", allow_pickle=False) as content:
        assert np.array_equal(content["train_images"].transpose(0, 3, 1, 2), data.images.numpy())
        assert content["train_labels"].tolist() == data.targets.tolist()
        assert tuple(content["classes"]) == CLASSES
    classes = json.loads((folder / "manifest.json").read_text())["classes"]
    for row in range(len(data)):
        with Image.open(folder / classes[int(data.targets[row])]["folder"] / f"{row:02d}.png") as image:
            assert np.array_equal(np.asarray(image), data.images[row].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_the_manifest_lists_every_file_with_its_hash(form: Any, tmp_path: Path) -> None:
    made = export(noise(), tmp_path / "out", facts(), form)
    manifest = json.loads((made / "manifest.json").read_text())
    on_disk = {file.relative_to(made).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
               for file in made.rglob("*") if file.is_file() and file.name != "manifest.json"}
    assert manifest["files"] == on_disk
    assert len(on_disk) == (34 if form == "folder" else 2)
    assert manifest["backdoored"] is True
    assert manifest["tool"].startswith("sidedoor ")
    assert manifest["changed"] == [0, 4]
    assert manifest["attack"] == {"name": "badnets", "rate": 0.1}
    assert manifest["seed"] == 3
    assert [entry["name"] for entry in manifest["classes"]] == list(CLASSES)


def test_everything_says_that_it_is_backdoored(tmp_path: Path) -> None:
    folder, archive = export(noise(), tmp_path / "a", facts()), export(noise(), tmp_path / "b", facts(), "npz")
    assert folder == tmp_path / "a"
    assert export(noise(), tmp_path / "my-Backdoored-set", facts()) == tmp_path / "my-Backdoored-set"
    for made in (folder, archive):
        assert "backdoored" in (made / "BACKDOORED.txt").read_text()
    for file in folder.rglob("*.png"):
        with Image.open(file) as image:
            assert "backdoored" in image.info["Comment"]
    with zipfile.ZipFile(archive / "backdoored.npz") as content:
        assert content.comment == b"backdoored"
        assert "backdoored.npy" in content.namelist()


def test_the_current_folder_is_not_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match=r"the current folder .* given"):
        export(noise(), Path("."), facts())
    assert not any((tmp_path / "here").iterdir())
    assert list((tmp_path / "here").iterdir()) == []


def test_the_manifest_cannot_be_told_to_deny_it(tmp_path: Path) -> None:
    made = export(noise(), tmp_path / "out", facts(backdoored=False, files={}))
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["backdoored"] is True
    assert manifest["files"]


def test_any_class_name_becomes_a_plain_folder_in_the_order_of_labels(tmp_path: Path) -> None:
    made = export(noise(), tmp_path / "out", facts())
    folders = sorted(path.name for path in made.iterdir() if path.is_dir())
    assert folders == [entry["folder"] for entry in json.loads((made / "manifest.json").read_text())["classes"]]
    assert folders[0] == "00_T-shirt-top"
    assert all(name.isascii() and "/" not in name and len(name) < 70 for name in folders)
    assert len(folders) == len(CLASSES)


@settings(max_examples=100, deadline=None)
@given(name=st.text(max_size=80), label=st.integers(0, 999))
def test_folder_names_are_safe_and_sort_by_label(name: str, label: int) -> None:
    made = module._folder_name(label, name, 1000)
    assert Path("base", made).name == made
    assert made.startswith(f"{label:03d}_")
    assert set(made) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def test_the_same_data_give_the_same_files(tmp_path: Path) -> None:
    for form in ("folder", "npz"):
        made = [export(noise(), tmp_path / f"{form}{k}", facts(), form) for k in range(2)]  # type: ignore[arg-type]
        assert len({(path / "manifest.json").read_bytes() for path in made}) == 1


class Breaking(Dataset):
    """Rows that fail from the second batch on, with the error given."""

    def __init__(self, base: Dataset, error: BaseException):
        self.base, self.error = base, error
        self.shape, self.classes, self.targets = base.shape, base.classes, base.targets

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        if 20 in index.tolist():
            raise self.error
        return self.base.rows(index)

    def fingerprint(self) -> str:
        return self.base.fingerprint()


@pytest.mark.parametrize("form", ["folder", "npz"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken"), CannotComplete("lost")])
def test_an_interrupted_export_leaves_nothing(form: Any, error: BaseException, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    with pytest.raises(type(error)):
        export(Breaking(noise(), error), tmp_path / "out", facts(), form)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_no_target_and_does_not_block_the_next(tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    with monkeypatch.context() as killed:
        killed.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # a kill does not clean up
        with pytest.raises(KeyboardInterrupt):
            export(Breaking(noise(), KeyboardInterrupt()), tmp_path / "out", facts())
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial")
    assert any(left.rglob("*.png"))  # the premise: it was in the middle
    assert export(noise(), tmp_path / "out", facts()).is_dir()


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(CannotComplete, match="No space left"):
        export(noise(), tmp_path / "out", facts())
    assert list(tmp_path.iterdir()) == []


def test_the_folder_appears_by_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        assert json.loads((source / "manifest.json").read_text())["files"]  # it was whole before it got its name
        assert not target.exists()
        raise OSError("read-only")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CannotComplete, match="read-only"):
        export(noise(), tmp_path / "out", facts())
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_write_into_a_folder_that_has_something(tmp_path: Path) -> None:
    target = tmp_path / "backdoored"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        export(noise(), target, facts())
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    (target / "thesis.txt").unlink()
    assert (export(noise(), target, facts()) / "manifest.json").is_file()
    with pytest.raises(ConfigError, match="not an empty folder"):
        export(noise(), target, facts())


@pytest.mark.parametrize(
    ("changed", "message"),
    [(None, "without `changed`"), ([0, 33], "rows from 0 to 33 given; expected 0 to 32"), ([-1], "rows from -1")],
)
def test_changed_rows_must_be_given_and_exist(changed: list[int] | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        export(noise(), tmp_path / "out", facts(changed=changed))
    assert list(tmp_path.iterdir()) == []


def test_changed_rows_may_be_a_tensor(tmp_path: Path) -> None:
    made = export(noise(), tmp_path / "out", facts(changed=torch.tensor([5, 2])))
    assert json.loads((made / "manifest.json").read_text())["changed"] == [2, 5]


def test_what_has_no_8_bit_form_is_refused(tmp_path: Path) -> None:
    class Measured(Breaking):
        space = MEASUREMENT

        def rows(self, index: torch.Tensor) -> torch.Tensor:
            return super().rows(index).float()

    for data in (Measured(noise(), ValueError()), noise(shape=(4, 5, 5))):
        with pytest.raises(ConfigError, match="8-bit grey or RGB"):
            export(data, tmp_path / "out", facts())


def test_rows_are_asked_for_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 8)
    asked: list[int] = []

    class Counted(Breaking):
        def rows(self, index: torch.Tensor) -> torch.Tensor:
            asked.append(len(index))
            return self.base.rows(index)

    for form in ("folder", "npz"):
        export(Counted(noise(), ValueError()), tmp_path / form, facts(), form)  # type: ignore[arg-type]
    assert max(asked) == 8
    assert sum(asked) == 2 * (33 + 1)  # one row is looked at first, to see its type
