"""`sidedoor repair` as people call it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import Cli
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sidedoor as sd
from sidedoor import registry
from sidedoor.algorithms import new_head
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.testing.ground import ground
from sidedoor.vetting.repair import repair_model

DIGITS = sd.load("digits")
TRAIN, CLEAN = sd.split(DIGITS.train, 0.15, 1)
TASK = sd.Classification(10)
RUN = Run.local(Recipe(epochs=8), device="cpu")
BUILD = registry.make("model", {"name": "small_cnn", "width": 16}, classes=10, shape=(1, 16, 16))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A backdoored model of digits as a file of the bare network, and class folders of 201 clean images."""
    folder = tmp_path_factory.mktemp("digits")
    backdoor = registry.make("attack", {"name": "badnets", "rate": 0.1}).plan(TRAIN, TASK, BUILD, AttackerRun.of(RUN))
    victim = RUN.fit(RUN.build(BUILD), PoisonedDataset(TRAIN, backdoor, TASK), sd.Supervised(TASK), name="victim")
    body = {f"module.{name}": tensor.contiguous() for name, tensor in victim.body.state_dict().items()}
    torch.save({"state_dict": body, "epoch": 8}, folder / "given.pth")
    for row, (image, label) in enumerate(zip(CLEAN.rows(torch.arange(len(CLEAN))), CLEAN.targets, strict=True)):
        where = folder / "images" / str(int(label))
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(where / f"{row}.png")
    return SimpleNamespace(model=folder / "given.pth", images=folder / "images", door=backdoor.doors[0], victim=victim)


def numbers(model: torch.nn.Module, door: sd.Door) -> tuple[float, float]:
    means = TASK.score(model, DIGITS.test, door, RUN).means()
    return means["clean"] or 0.0, means["attack"] or 0.0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fst", "d3"])
def test_a_backdoor_goes_and_accuracy_stays(cli: Cli, digits: SimpleNamespace, tmp_path: Path, method: str) -> None:
    out = tmp_path / "repaired.safetensors"
    said = cli("repair", digits.model, "--with", method, "--set", "steps=120", "--data", digits.images, "-o", out,
               "--device", "cpu")
    assert said.code == 0, said.err
    assert f"{method}: clean accuracy" in said.out
    model = BUILD()
    model.body.load_state_dict(load_file(out))  # the names of the given file, but for those of its wrapper
    (clean, attack), (repaired_clean, repaired_attack) = (numbers(each.eval(), digits.door)
                                                          for each in (digits.victim, model))
    assert attack > 0.9  # the premise
    assert repaired_attack < 0.2
    assert repaired_clean > clean - 0.05
    opened = cli("repair", out, "--with", "linear_probe", "--set", "steps=4", "--data", digits.images, "-o",
                 tmp_path / "again.safetensors", "--device", "cpu", "--json")
    about = json.loads(opened.out)
    assert about["input"]["architecture"] == {"name": "small_cnn", "width": 16}
    assert about["input"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert abs(about["accuracy"]["before"]["value"] - repaired_clean) < 0.1


def call(folder: Path, *more: object, out: str = "out.safetensors", model: str = "given.safetensors",
         method: str = "ft_init") -> tuple[object, ...]:
    return ("repair", folder / model, "--data", folder / "images.npz", "--with", method, "-o", folder / out, "--device",
            "cpu", *more)


def test_the_manifest_says_what_was_done_and_is_in_the_file(cli: Cli, stripes: Path) -> None:
    said = cli(*call(stripes, "--set", "steps=4", "--set", "lr=0.02", "--seed", "3", "--json"))
    assert said.code == 0, said.err
    told = json.loads(said.out)
    with safe_open(str(stripes / "out.safetensors"), framework="pt") as file:
        assert json.loads(file.metadata()["sidedoor"]) == told
        assert set(file.keys()) == set(load_file(stripes / "given.safetensors"))
    beside = json.loads((stripes / "out.json").read_text())
    assert beside.pop("sha256") == hashlib.sha256((stripes / "out.safetensors").read_bytes()).hexdigest()
    assert beside == told
    assert told["method"] == {"name": "ft_init", "steps": 4, "batch": 128, "lr": 0.02}
    assert told["seed"] == 3
    assert told["input"]["sha256"] == hashlib.sha256((stripes / "given.safetensors").read_bytes()).hexdigest()
    assert (told["data"]["repair"]["n"], told["data"]["held_out"]["n"]) == (200, 64)
    assert told["accuracy"]["before"]["n"] == 64
    before = load_file(stripes / "given.safetensors")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in load_file(stripes / "out.safetensors").items())


def test_the_same_command_writes_the_same_file(cli: Cli, stripes: Path) -> None:
    for out in ("one.safetensors", "two.safetensors"):
        assert cli(*call(stripes, "--set", "steps=4", out=out)).code == 0
    assert (stripes / "one.safetensors").read_bytes() == (stripes / "two.safetensors").read_bytes()


def test_types_and_what_lies_beside_the_network_are_passed_on(cli: Cli, stripes: Path) -> None:
    state = load_file(stripes / "given.safetensors")
    halves = {f"net.{name}": tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"net": {name.removeprefix("net."): tensor for name, tensor in halves.items()}}, stripes / "half.pt")
    assert cli(*call(stripes, "--set", "steps=4", model="half.pt")).code == 0
    found = load_file(stripes / "out.safetensors")
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name.removeprefix("net."): tensor.dtype for name, tensor in halves.items()}


def test_a_published_normalisation_stays_in_the_file(cli: Cli, stripes: Path) -> None:
    state = load_file(stripes / "given.safetensors")
    bare = {name.removeprefix("body."): tensor for name, tensor in state.items() if name.startswith("body.")}
    save_file(bare | {"mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.25)}, stripes / "carried.safetensors")
    assert cli(*call(stripes, "--set", "steps=4", model="carried.safetensors")).code == 0
    found = load_file(stripes / "out.safetensors")
    assert found.keys() == {*bare, "mean", "std"}
    assert found["std"].tolist() == [0.25] * 3


def test_nothing_is_overwritten(cli: Cli, stripes: Path) -> None:
    before = (stripes / "given.safetensors").read_bytes()
    assert cli(*call(stripes, out="given.safetensors")).code == 4
    assert (stripes / "given.safetensors").read_bytes() == before
    (stripes / "taken.json").write_text("{}")
    said = cli(*call(stripes, out="taken.safetensors"))
    assert said.code == 4
    assert "taken.json exists" in said.err
    assert not (stripes / "taken.safetensors").exists()


def test_an_interruption_leaves_no_file(cli: Cli, stripes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        Path(_[1]).write_bytes(b"half")  # type: ignore[arg-type]
        raise KeyboardInterrupt

    before = set(stripes.iterdir())
    monkeypatch.setattr("sidedoor.core.model_file.save_file", interrupted)
    said = cli(*call(stripes, "--set", "steps=4"))
    assert said.code == 130
    assert "the same command starts afresh" in said.err
    assert "resumes" not in said.err
    assert set(stripes.iterdir()) == before


@pytest.mark.parametrize(("given", "code", "words"), [
    ({"model": "nothing.pth"}, 2, "no weights at"), ({"method": "fts"}, 4, "did you mean"),
    ({"method": "strip"}, 4, "strip is no repair; expected one of"), ({"out": "out.pth"}, 4, ".safetensors"),
    ({"more": ("--set", "step=3")}, 4, "steps"), ({"more": ("--set", "steps")}, 4, "KEY=VALUE"),
    ({"more": ("--set", "steps=0")}, 4, "at least 1"), ({"more": ("--arch", "small_cmn")}, 4, "small_cnn"),
    ({"more": ("--set", "lr=1e30", "--set", "steps=40")}, 2, "did not come to its end"),
    ({"more": ("--normalize", "0..255")}, 2, "does not show that the network"),
    ({"out": "given.safetensors/out.safetensors"}, 2, "cannot write in")])
def test_errors_are_said_with_their_exit_codes(cli: Cli, stripes: Path, given: dict[str, object], code: int,
                                               words: str) -> None:
    more = given.pop("more", ())
    said = cli(*call(stripes, *more, **given))  # type: ignore[arg-type, misc]
    assert said.code == code, said.err
    assert words in said.err
    assert "Traceback" not in said.err
    assert {file.name for file in stripes.iterdir()} == {"given.safetensors", "images.npz"}


def test_a_file_that_asks_for_code_to_be_run_is_not_opened(cli: Cli, stripes: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {stripes / 'owned'}",)

    (stripes / "bad.pth").write_bytes(pickle.dumps({"weight": Malicious()}))
    said = cli(*call(stripes, model="bad.pth"))
    assert said.code == 2
    assert "posix.system" in said.err
    assert not (stripes / "owned").exists()


def test_from_python_an_object_is_left_alone_and_a_repair_that_has_nothing_to_do_says_so() -> None:
    here = ground()
    victim = here.victim()
    state = {name: tensor.clone() for name, tensor in victim.state_dict().items()}
    found = sd.repair_model(victim, sd.Splits(here.clean, here.test), {"name": "ft_init", "steps": 4}, device="cpu")
    assert all(torch.equal(tensor, victim.state_dict()[name]) for name, tensor in state.items())
    assert found.weights.keys() == state.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in found.model.state_dict().items())
    assert found.manifest["data"]["repair"]["fingerprint"] == here.clean.fingerprint()

    def headless(*_: object) -> None:
        raise NotApplicable("no head")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(new_head, "head", headless)
        with pytest.raises(NotApplicable):
            repair_model(victim, sd.Splits(here.clean, here.test), "ft_init", device="cpu")
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        found.save("model.pth")
