"""Weights of unknown origin are read, and what is more than weights is not run."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sidedoor import zoo
from sidedoor.core.checkpoint import save_state
from sidedoor.core.foreign_weights import UnsafeFile, identify, read_weights
from sidedoor.data.base import ArrayDataset
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.models.base import Classifier

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"params_ema": s},
                                  lambda s: {"module." + k: v for k, v in s.items()}])
def test_usual_wrappings_are_taken_off(wrap: object, tmp_path: Path) -> None:
    save_state(tmp_path / "weights", wrap(STATE))  # type: ignore[operator]
    read = read_weights(tmp_path / "weights")
    assert {key: value.tolist() for key, value in read.items()} == {k: v.tolist() for k, v in STATE.items()}


def test_safetensors_are_read_as_they_are(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert torch.equal(read_weights(tmp_path / "weights.safetensors")["weight"], STATE["weight"])


class Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_is_refused_and_not_run(save: object, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save({"weight": Malicious(tmp_path / "owned")}, path)  # type: ignore[operator]
    with pytest.raises(UnsafeFile, match=r"it asks for posix\.system to be run .*; nothing of it was run"):
        read_weights(path)
    assert not (tmp_path / "owned").exists()


def test_damaged_and_missing_files_are_said(tmp_path: Path) -> None:
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(CannotComplete, match=name):
            read_weights(tmp_path / name)
    with pytest.raises(CannotComplete, match="no weights at"):
        read_weights(tmp_path / "nothing.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(CannotComplete, match="no table of tensors"):
        read_weights(tmp_path / "list.pth")


def test_what_a_file_is_its_content_says(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.safetensors")
    save_file(STATE, tmp_path / "b.pth.tar")
    torch.save(STATE, tmp_path / "c", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth.tar", "c"):
        assert torch.equal(read_weights(tmp_path / name)["weight"], STATE["weight"]), name
        assert identify(tmp_path / name) == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


@pytest.mark.parametrize(("content", "message"), [
    (b"<!DOCTYPE html><html>Quota exceeded</html>", "a web page"), (b"", "it is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    (b"\x08\x07", "no file of weights"),
])
def test_what_is_no_file_of_weights_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    for reader in (read_weights, identify):
        with pytest.raises(CannotComplete, match=rf"a\.pth is refused: .*{message}"):
            reader(tmp_path / "a.pth")


def test_the_one_table_of_a_checkpoint_is_taken_and_its_key_logged(tmp_path: Path,
                                                                   caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"netC": {f"module._orig_mod.module.{k}": v for k, v in STATE.items()}, "grid": torch.zeros(2),
                "best": np.float64(93.1), "args": argparse.Namespace(lr=0.1),
                "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}}}, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO, "sidedoor"):
        assert torch.equal(read_weights(tmp_path / "a.pth")["weight"], STATE["weight"])
    assert "the weights under netC are taken" in caplog.text


def test_of_several_tables_a_key_chooses(tmp_path: Path) -> None:
    save_state(tmp_path / "a", {"state_dict": {k: 0 * v for k, v in STATE.items()}, "state_dict_ema": STATE,
                                "deep": {"er": {"x": torch.full((1,), 7.0)}}})
    with pytest.raises(CannotComplete, match=r"several keys lead to tensors: .state_dict., .state_dict_ema.; name"):
        read_weights(tmp_path / "a")
    assert torch.equal(read_weights(tmp_path / "a", "state_dict_ema")["weight"], STATE["weight"])
    assert read_weights(tmp_path / "a", "deep.er")["x"].item() == 7
    with pytest.raises(CannotComplete, match="weights_key = 'ema' is a table of tensors; its keys are 'state_dict'"):
        read_weights(tmp_path / "a", "ema")


def test_models_that_sidedoor_kept_are_weights(tmp_path: Path) -> None:
    save_state(tmp_path / "model.safetensors", {"model": STATE, "doors": [{"pattern": torch.zeros(1)}], "epochs": 3})
    assert torch.equal(read_weights(tmp_path / "model.safetensors")["weight"], STATE["weight"])


@pytest.mark.parametrize(("structure", "message"), [
    ("3", "damaged"), ("[" * 50_000, "damaged"), ('{"list": [1]}', "damaged"), ("{}", "damaged"),
    ('{"dict": [["a", {"tensor": "x"}], ["b", {"tensor": "x"}]]}', "names a tensor twice"),
    ('{"dict": [["a", {"tensor": "y"}]]}', "no table of tensors"),
])
def test_a_damaged_table_of_contents_is_said(structure: str, message: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a", {"structure": structure})
    with pytest.raises(CannotComplete, match=f"a is refused: .*{message}"):
        read_weights(tmp_path / "a")


def test_a_file_that_changes_after_it_was_hashed_is_not_used(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a")
    known = identify(tmp_path / "a")
    read_weights(tmp_path / "a", sha256=known)
    save_file({k: v + 1 for k, v in STATE.items()}, tmp_path / "a")
    with pytest.raises(CannotComplete, match=f"expected {known}"):
        read_weights(tmp_path / "a", sha256=known)


def test_tensors_that_say_more_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(2**29)}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 5000  # the premise
    with pytest.raises(CannotComplete, match="its tensors have 2,147,483,648 bytes in a file of"):
        read_weights(tmp_path / "a.pth")
    tied = torch.arange(1000.0)
    torch.save({"one": tied, "other": tied}, tmp_path / "tied.pth")
    assert torch.equal(read_weights(tmp_path / "tied.pth")["other"], tied)


def test_very_many_tensors_are_refused_before_they_are_made(tmp_path: Path) -> None:
    empty = torch.zeros(0)
    torch.save({str(k): empty.view(0) for k in range(60_000)}, tmp_path / "a.pth")
    with pytest.raises(CannotComplete, match="asks for more than 20,000 tensors"):
        read_weights(tmp_path / "a.pth")
    save_file({str(k): torch.zeros(0) for k in range(20_001)}, tmp_path / "a.safetensors")
    with pytest.raises(CannotComplete, match="holds 20,001 tensors; at most 20,000"):
        read_weights(tmp_path / "a.safetensors")


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    for name in ("pipe.pth", "zero.pth"):
        with pytest.raises(CannotComplete, match="no regular file"):
            read_weights(tmp_path / name)


def test_a_network_starts_from_published_weights(tmp_path: Path) -> None:
    data = ArrayDataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 1)
    given = {"name": "dncnn", "layers": 3, "width": 4}
    source = zoo.network(given, data)()
    nn.init.constant_(next(source.parameters()), 0.25)
    save_file(source.state_dict(), tmp_path / "dncnn")
    model = zoo.network(given | {"weights": str(tmp_path / "dncnn")}, data)()
    assert bool((next(model.parameters()) == 0.25).all())
    with pytest.raises(CannotComplete, match="does not fit the network"):
        zoo.network(given | {"width": 5, "weights": str(tmp_path / "dncnn")}, data)()


def test_published_weights_of_a_bare_classifier_go_behind_its_normalisation(tmp_path: Path) -> None:
    data = ArrayDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 2)
    given = {"name": "cifar_resnet", "depth": 8}
    source = zoo.network(given, data)()
    assert isinstance(source, Classifier)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.body.state_dict().items()}}, tmp_path / "bare.th")
    save_file(source.state_dict(), tmp_path / "whole.safetensors")
    x = torch.rand(2, 3, 8, 8)
    for name in ("bare.th", "whole.safetensors"):
        model = zoo.network(given | {"weights": str(tmp_path / name)}, data)()
        assert torch.equal(model.eval()(x), source.eval()(x)), name


SMALL = {"name": "small_cnn", "width": 2}


@pytest.fixture
def data() -> ArrayDataset:
    return ArrayDataset(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.arange(6) % 3, 3)


def built(data: ArrayDataset, **given: object) -> Classifier:
    model = zoo.network(SMALL | given, data)()
    assert isinstance(model, Classifier)
    return model.eval()


def test_normalisation_is_as_the_file_carries_it_or_as_it_is_given(data: ArrayDataset, tmp_path: Path,
                                                                   caplog: pytest.LogCaptureFixture) -> None:
    body = built(data).body.state_dict()
    for name, state in (
        ("bare", body),
        ("robust", {"normalize.mean": torch.zeros(1, 1, 1, 1), "normalize.std": torch.ones(1, 1, 1, 1)}
         | {f"model.{k}": v for k, v in body.items()}),
        ("chain", {"0.mean": torch.full((1,), 0.1), "0.std": torch.ones(1)} | {f"1.{k}": v for k, v in body.items()}),
        ("greek", {"mu": torch.full((1, 1, 1), 0.3), "sigma": torch.full((1, 1, 1), 0.2)} | body),
    ):
        save_file(state, tmp_path / name)

    def statistics(name: str, **given: object) -> list[float]:
        model = built(data, weights=str(tmp_path / name), **given)
        assert all(torch.equal(v, body[k]) for k, v in model.body.state_dict().items())
        return [round(buffer.item(), 4) for buffer in (model.normalize.mean, model.normalize.std)]

    assert statistics("robust") == [0, 1]
    assert statistics("chain") == [0.1, 1]
    assert statistics("greek") == [0.3, 0.2]
    assert statistics("greek", mean=0.4, std=[0.6]) == [0.4, 0.6]
    assert statistics("greek", normalize="none") == [0, 1]
    assert caplog.text == ""
    assert statistics("bare") == [0.5, 0.25]
    assert "does not say how its inputs were normalised" in caplog.text
    with pytest.raises(CannotComplete, match="has 3 channels, the network's 1"):
        statistics("bare", normalize="cifar10")


@pytest.mark.parametrize("given", [{"mean": [0.5]}, {"mean": [0.5], "std": [0.0]}, {"head": "other"}, {"mean": ["a"]},
                                   {"mean": [0.5], "std": [1.0], "normalize": "none"}, {"normalize": "mnist"}])
def test_keys_about_weights_are_checked(given: dict[str, object], data: ArrayDataset) -> None:
    with pytest.raises(ConfigError, match="model"):
        zoo.network(SMALL | {"weights": "x"} | given, data)
    with pytest.raises(ConfigError, match="unknown"):
        zoo.network(SMALL | given, data)  # without weights they mean nothing


def test_a_head_of_other_classes_is_named_and_can_start_afresh(data: ArrayDataset, tmp_path: Path) -> None:
    other = ArrayDataset(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10), 10)
    source = built(other).body.state_dict()
    save_file(source, tmp_path / "a")
    with pytest.raises(CannotComplete, match=r"another number of classes.*head = .new.") as caught:
        built(data, weights=str(tmp_path / "a"))
    assert "\n" not in str(caught.value)
    state = built(data, weights=str(tmp_path / "a"), head="new").body.state_dict()
    kept = {k for k, v in state.items() if v.shape == source[k].shape and torch.equal(v, source[k])}
    assert state.keys() - kept == {"13.weight", "13.bias"}


def test_what_does_not_fit_is_said_in_one_line(data: ArrayDataset, tmp_path: Path) -> None:
    save_file({"layer1.weight": torch.zeros(2), "layer2.weight": torch.zeros(2)}, tmp_path / "a")
    with pytest.raises(CannotComplete, match=r"a does not fit the network: '0.weight' is missing; 'layer1.weight' "
                                             r"is unknown; it has 2 tensors: 'layer1.weight', 'layer2.weight'$"):
        built(data, weights=str(tmp_path / "a"))


@pytest.mark.parametrize(("depth", "file", "parameters", "right"), [
    (20, "resnet20-12fca82f.th", 269_722, 0.917), (32, "resnet32-d509ac18.th", 464_154, 0.926)])
def test_published_cifar_networks_are_as_right_as_published(depth: int, file: str, parameters: int,
                                                            right: float) -> None:
    root = os.environ.get("SIDEDOOR_DATA")
    weights = Path(root or ".") / "weights" / "cifar_resnet" / file
    if root is None or not weights.is_file():
        pytest.skip(f"no {file} below SIDEDOOR_DATA")
    test = zoo.load({"name": "npz", "path": "cifar10-30k.npz"}, root).test
    model = zoo.network({"name": "cifar_resnet", "depth": depth, "weights": str(weights)}, test)().eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    batch = test.fetch(torch.arange(1000))
    with torch.no_grad():
        assert (model(batch.x).argmax(1) == batch.y).float().mean().item() == pytest.approx(right, abs=0.02)
