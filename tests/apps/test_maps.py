"""A map has, in the cell of each amount, the success of the trigger as it is there, and nothing is trained for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from sidedoor.apps.maps import LINES, axes_of, map_model
from sidedoor.apps.maps_page import page, summary
from sidedoor.bench.case import load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.run import run
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.cli.main import main
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.triggers.base import stamp

CPU = Machine(device="cpu")
SPEC = Spec(data={"name": "toy", "train": 600, "test": 80}, model={"name": "small_cnn", "width": 8},
            attack={"name": "badnets", "rate": 0.2, "margin": 2}, recipe=Recipe(epochs=3, batch=32))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Record]:
    store = Store(tmp_path_factory.mktemp("maps") / "runs")
    torch.set_num_threads(1)
    return store, run(SPEC, store, CPU)


def test_each_cell_is_the_success_of_the_trigger_there(done: tuple[Store, Record]) -> None:
    store, record = done
    models = sorted(store.root.glob("artefacts/*/model.safetensors"))
    found = map_model(store, record.key, axes_of("shift,value,amplitude"), 1000, CPU)
    assert sorted(store.root.glob("artefacts/*/model.safetensors")) == models
    assert record.attack is not None
    assert record.attack > 0.9
    assert found.trained == pytest.approx(record.attack)
    assert record.clean_means is not None
    assert found.sibling == pytest.approx(record.clean_means["attack"])
    shift, value, amplitude = found.maps
    assert shift.success[5][5] == found.trained
    assert value.success[0][-1] == found.trained

    case = load(SPEC, store, CPU)
    trained = train_or_load(case)
    moved = trained.doors[0].trigger.varied("right", 1)
    assert moved is not None
    moved = moved.varied("down", -3)
    assert moved is not None
    x, _, index = case.test.fetch(torch.nonzero(case.test.targets != 0)[:, 0])
    with torch.no_grad():
        answers = trained.model(stamp(moved, x, index, case.test.space)).argmax(1)
    assert shift.success[2][6] == pytest.approx((answers == 0).float().mean().item())
    assert not shift.outside[5 + 2][5 + 2]
    assert shift.outside[5 + 3][5]
    assert shift.outside[5][5 + 3]
    cells = [rate >= found.trained / 2 for row in shift.success for rate in row]
    assert shift.robust_area == pytest.approx(sum(cells) / 121)
    assert "Patch has no amplitude" in amplitude.not_applicable
    assert amplitude.success == ()


def test_the_number_of_images_is_kept(done: tuple[Store, Record]) -> None:
    found = map_model(done[0], done[1].key, (("jpeg",), ("camera",)), 7, CPU)
    assert (found.images, found.eligible) == (7, 60)
    assert len(found.maps[0].success[0]) == len(LINES["jpeg"].amounts)
    assert found.maps[0].success[0][0] == found.trained
    assert found.maps[1].success[0][0] == found.trained
    assert found.maps[1].success[0][-1] < found.trained


def test_a_page_has_both_models_and_the_mean_over_several(done: tuple[Store, Record]) -> None:
    found = map_model(done[0], done[1].key, axes_of("size+blur,amplitude"), 5, CPU)
    html = page([found, found])
    assert len(re.findall("<svg", html)) == 4
    assert html.count("<rect") == 4 * 7 * 5
    assert "not applicable: Patch has no amplitude" in summary([found, found])[1]["robust area"]
    assert [row["model"] for row in summary([found, found])[4:]] == ["badnets, mean of 2"] * 2


@pytest.mark.parametrize(("given", "said"), [
    ("shfit", "did you mean shift"), ("right+right", "two different ones"), ("shift+value", "unknown axis"),
    ("", "two different ones"), ("right+down+value", "two different ones")])
def test_axes_that_mean_nothing_are_refused(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        axes_of(given)


def test_short_names_and_pairs() -> None:
    assert axes_of("shift, value+opacity,jpeg") == (("right", "down"), ("value", "opacity"), ("jpeg",))


def test_the_command_writes_and_refuses(done: tuple[Store, Record], tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    store, record = done
    with pytest.raises(SystemExit) as stop:
        main(["map", str(store.root), "--key", record.key, "--axes", "jpeg", "--images", "5", "-o", str(tmp_path)])
    assert not stop.value.code
    assert "5 of 60 eligible test images" in capsys.readouterr().err
    assert json.loads((tmp_path / "maps.json").read_text())[0]["key"] == record.key
    for key in ("0" * 16, record.clean_key):
        with pytest.raises(SystemExit) as stop:
            main(["map", str(store.root), "--key", key, "-o", str(tmp_path)])
        assert stop.value.code == 4
        assert "no finished result" in capsys.readouterr().err
