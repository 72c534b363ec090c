"""Whatever a file or an option holds, a person is told what is wrong with it, in one line."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path

import pytest
from command_line import Cli

from sidedoor.errors import CannotComplete, SidedoorError
from tests.corpus.specs import COUNT, files, fuzzed, keys


def test_changed_specifications_are_read_or_refused(tmp_path: Path) -> None:
    path, outcomes, faults = tmp_path / "spec.toml", Counter[str](), []
    for text in fuzzed():
        path.write_text(text, encoding="utf-8")
        try:
            keys(path)
            outcomes["read"] += 1
        except SidedoorError:
            outcomes["refused"] += 1
        except Exception as error:
            faults.append((text, repr(error), traceback.format_exc()[-400:]))
    assert faults == []
    assert outcomes.total() == COUNT >= 300
    assert min(outcomes["read"], outcomes["refused"]) > COUNT // 10


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data are loaded: a specification that says what it should ends there."""
    def stop(*_: object, **__: object) -> None:
        raise CannotComplete("would run")

    monkeypatch.setattr("sidedoor.bench.plan.planned", stop)
    monkeypatch.setattr("sidedoor.bench.sweep.sweep", stop)


@pytest.mark.usefixtures("unloaded")
def test_the_command_says_so_in_one_line(cli: Cli, tmp_path: Path) -> None:
    path, ended = tmp_path / "spec.toml", Counter[int]()
    some = [text.encode() for text in fuzzed()][::8]
    for number, content in enumerate([*some, *(content for _, content in files())]):
        path.write_bytes(content)
        said = cli("-q", "sweep" if number % 2 else "run", path, "--out", tmp_path / "out")
        assert said.code in (2, 4), (content[:2000], said)
        assert (said.out, said.err.count("\n"), said.err[:10]) == ("", 1, "sidedoor: "), (content[:2000], said)
        assert said.err.rstrip("\n").isprintable()
        ended[said.code] += 1
    assert min(ended.values()) > 3


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("name", [name for name, _ in files()])
def test_what_is_no_specification_exits_with_4(cli: Cli, tmp_path: Path, name: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(dict(files())[name])
    assert cli("run", path, "--out", tmp_path / "out").code == 4


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("setting", [
    "a" + ".b" * 5000 + "=1", "seed=" + "9" * 5000, "attack.rate=" + "[" * 3000, "data=folder:\udcdf", "=", "grid=3",
    "data.name.name=3", "recipe=[1]", "seed=1e400", "seed=2020-01-01", "defenses=[[[]]]", "defenses={}", "augment=[1]",
    "model=\x1b[3m",
], ids=lambda setting: ascii(setting)[:30])
def test_odd_settings_exit_with_4(cli: Cli, tmp_path: Path, setting: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_text('data = "toy"\nmodel = "small_cnn"\nattack = "badnets"\n')
    for command in ("run", "sweep"):
        said = cli("-q", command, path, "--set", setting, "--out", tmp_path / "out")
        assert said.code == 4, said
        assert said.err.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [
    (ValueError("two\nlines"), 70), (EOFError("no data left"), 70), (RecursionError("too deep"), 70),
    (AssertionError(), 70), (MemoryError(), 2), (OSError(28, "No space left"), 2), (KeyboardInterrupt(), 130),
])
def test_what_nobody_thought_of_is_one_line_and_a_code_of_its_own(cli: Cli, monkeypatch: pytest.MonkeyPatch,
                                                                  error: BaseException, code: int) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("sidedoor.registry.find", fail)
    said = cli("show", "badnets")
    assert (said.code, said.out) == (code, "")
    assert "Traceback" not in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert ("report it with what the same command prints with --debug" in said.err) == (code == 70)
    if code != 130:
        assert said.err.strip().startswith(f"sidedoor: {type(error).__name__ if code == 70 else error or 'Mem'}"
                                           .split("\n")[0])
        assert "Traceback (most recent call last)" in cli("--debug", "show", "badnets").err
        assert "Traceback (most recent call last)" in cli("show", "badnets", "--debug").err
