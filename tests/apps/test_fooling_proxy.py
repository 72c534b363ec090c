"""The machine's proxy of the fooling rate: a patch is found, what is not there is not, and it is judged on others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidedoor.apps import fooling_proxy as proxy
from sidedoor.apps.fooling_proxy import FEWEST, FoolingProxy, fooling_proxy
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.run import run
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.cli.main import main
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index

CPU = Machine(device="cpu")
SPEC = Spec(data={"name": "toy", "train": 120, "test": 160}, model={"name": "small_cnn", "width": 4},
            attack={"name": "badnets", "rate": 0.2}, recipe=Recipe(epochs=1, batch=32))


class Nothing(Trigger):
    """Leaves images as they are."""

    def forward(self, x: Images, index: Index) -> Images:
        return x.clone()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Record]:
    store = Store(tmp_path_factory.mktemp("proxy") / "runs")
    torch.set_num_threads(1)
    return store, run(SPEC, store, CPU)


def command(*arguments: object) -> object:
    """The exit code of `sidedoor study`."""
    with pytest.raises(SystemExit) as ended:
        main(["study", *map(str, arguments)])
    return ended.value.code


def test_a_patch_is_told_and_the_images_judged_are_not_those_learned_from(
        done: tuple[Store, Record], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ArrayDataset] = []
    pairs = proxy._pairs

    def recorded(*given: Any) -> ArrayDataset:
        seen.append(pairs(*given))
        return seen[-1]

    monkeypatch.setattr(proxy, "_pairs", recorded)
    found = fooling_proxy(done[0], done[1].key, 100, CPU)
    assert (found.attack, found.learned, found.judged) == ("badnets", 50, 50)
    assert found.fooling_proxy < 0.05
    assert found.balanced_error < 0.1
    assert found.low <= found.fooling_proxy <= found.high
    rows = [{image.numpy().tobytes() for image in data.images} for data in seen]
    assert len(rows[0]) == 100
    assert not rows[0] & rows[1]
    assert all(data.targets.tolist() == [0] * 50 + [1] * 50 for data in seen)
    first = seen[0].images
    assert not torch.equal(first[:50, :, -3:, -3:], first[50:, :, -3:, -3:])
    assert torch.equal(first[:50, :, :-3], first[50:, :, :-3])


def test_what_changes_nothing_is_a_guess(done: tuple[Store, Record], monkeypatch: pytest.MonkeyPatch) -> None:
    trained = proxy.train_or_load

    def unchanged(case: Any) -> Any:
        found = trained(case)
        return replace(found, doors=tuple(replace(door, trigger=Nothing()) for door in found.doors))

    monkeypatch.setattr(proxy, "train_or_load", unchanged)
    monkeypatch.setattr(proxy, "LEARNING", replace(proxy.LEARNING, epochs=1))
    found = fooling_proxy(done[0], done[1].key, 60, CPU)
    assert found.fooling_proxy == 0.5
    assert found.balanced_error == pytest.approx(0.5)


def test_too_few_images_and_unknown_results_are_refused(done: tuple[Store, Record]) -> None:
    with pytest.raises(ConfigError, match=f"expected at least {FEWEST}"):
        fooling_proxy(done[0], done[1].key, FEWEST - 1, CPU)
    with pytest.raises(ConfigError, match="no finished result"):
        fooling_proxy(done[0], "0123456789abcdef", 100, CPU)


def test_the_command_says_that_it_is_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    value = FoolingProxy("k", "lsb", 10, 11, 0.25, 0.125, 0.1, 0.2)
    asked: list[tuple[str, int]] = []

    def given(store: Store, key: str, images: int, machine: Machine) -> FoolingProxy:
        asked.append((key, images))
        return value

    monkeypatch.setattr(proxy, "fooling_proxy", given)
    assert not command("proxy", tmp_path, "--key", "k", "--images", 40)
    said = capsys.readouterr().out
    assert "proxy of the fooling rate 12.5 % (95 % interval 10.0 to 20.0), balanced error 25.0 %" in said
    assert "not by people" in said
    assert not command("proxy", tmp_path, "--key", "k", "--json")
    assert json.loads(capsys.readouterr().out)[0] == value.to_json()
    assert asked == [("k", 40), ("k", 2000)]
    assert command("proxy", tmp_path / "nowhere", "--key", "k") == 4
