"""Files are replaced whole or not at all, and states come back as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sidedoor.core import opening
from sidedoor.core.checkpoint import load_state, load_weights, save_state
from sidedoor.core.files import abandoned, locked, parsed, read_json, replacing, write_json, write_text
from sidedoor.errors import CannotComplete

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool]


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "old")
    write_text(path, "neu ε")
    assert path.read_text(encoding="utf-8") == "neu ε"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    script = ("import os, signal, sys; from pathlib import Path; from sidedoor.core.files import replacing\n"
              "with replacing(Path(sys.argv[1])) as temporary:\n"
              "    temporary.write_text('half of the n')\n"
              "    os.kill(os.getpid(), signal.SIGKILL)\n")
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.suffix == ""  # nobody takes it for a result
    assert abandoned(tmp_path) == []  # its writer may be alive
    os.utime(left, (1, 1))
    (tmp_path / ".tmp-link").symlink_to(path)
    assert abandoned(tmp_path) == [left]


def test_a_write_that_cannot_be_says_where(tmp_path: Path) -> None:
    (tmp_path / "folder.txt" / "below").mkdir(parents=True)
    with pytest.raises(CannotComplete, match=r"cannot write .*folder\.txt"):
        write_text(tmp_path / "folder.txt", "x")
    assert os.listdir(tmp_path) == ["folder.txt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [1, float("-inf")]}])
def test_json_that_others_could_not_read_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert os.listdir(tmp_path) == []


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"ε": [1, 2.5, None, True, "z"]}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize(("text", "said"), [
    ("{", "Expecting"), ("[NaN]", "NaN"), ("[-Infinity]", "-Infinity"), ("1e999", "beyond"), ("[1e101]", "beyond"),
    (f"1{'0' * 200}", "beyond"), (f"-1{'0' * 400}", "beyond"),
    ("9" * 5000, "digits"), ("[" * 100_000, "deep"), ("[" * 65 + "]" * 65, "deep"),
    ('{"a": ["\\ud800"]}', "surrogates"), ('{"\\udfff": 1}', "surrogates"), ("", "Expecting"),
])
def test_json_that_would_hurt_later_is_refused_when_it_is_read(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed(text)


def test_json_of_a_sane_size_is_read(tmp_path: Path) -> None:
    assert parsed("[" * 60 + "]" * 60)
    assert parsed('[1e99, 18446744073709551615, "\\ud83d\\ude00"]') == [1e99, 2**64 - 1, "😀"]
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a.json") == [1]
    with open(tmp_path / "a.json", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2**26 + 1)
    with pytest.raises(opening.Unopenable, match="at most"):
        read_json(tmp_path / "a.json")


def test_a_lock_leaves_what_is_in_its_file_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with locked(tmp_path / "thesis"):
        pass
    assert (tmp_path / "thesis").read_text() == "years of work"
    (tmp_path / "lock").symlink_to(tmp_path / "thesis")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name in ("lock", "dangling"):
        with pytest.raises(CannotComplete, match=f"cannot lock .*{name}"), locked(tmp_path / name):
            pass
    assert (tmp_path / "thesis").read_text() == "years of work"
    assert not (tmp_path / "new").exists()


def test_a_lock_that_is_held_is_given_up_after_the_time_asked_for(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", "import sys; from pathlib import Path\n"
                               "from sidedoor.core.files import locked\n"
                               "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
                               str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CannotComplete, match="another process holds the lock"), locked(tmp_path / "lock", 0):
            pass
    with locked(tmp_path / "lock", 0):
        pass


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    made = torch.randint(0, 2, shape, generator=rng).to(draw(st.sampled_from(DTYPES)))
    return made.transpose(0, -1) if draw(st.booleans()) and made.ndim else made


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.text() | st.integers()
TREES = st.recursive(SCALARS | tensors(), lambda inner: st.lists(inner, max_size=3)
                     | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(KEYS, TREES, max_size=4))
def test_any_state_comes_back_as_it_was(tmp_path: Path, state: dict[Any, Any]) -> None:
    save_state(tmp_path / "state.safetensors", state)
    assert same(load_state(tmp_path / "state.safetensors"), state)


def test_keys_that_look_like_paths_are_kept_apart(tmp_path: Path) -> None:
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, 1: torch.full((1,), 2.0), "1": torch.full((1,), 3.0)}
    save_state(tmp_path / "s", state)
    assert same(load_state(tmp_path / "s"), state)


def test_tensors_that_share_memory_come_back(tmp_path: Path) -> None:
    row = torch.arange(6.0)
    state = {"a": row, "b": row[2:4], "c": row.view(2, 3).T, "d": nn.Parameter(row), "e": row.expand(2, 6)}
    save_state(tmp_path / "s", state)
    loaded = load_state(tmp_path / "s")
    assert all(torch.equal(loaded[key], tensor.detach()) for key, tensor in state.items())


def test_an_optimisers_state_comes_back(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    save_state(tmp_path / "s", {"o": optimiser.state_dict()})
    other = torch.optim.Adam(layer.parameters())
    other.load_state_dict(load_state(tmp_path / "s")["o"])
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], optimiser.state_dict()["state"][0]["exp_avg"])
    group, given = other.state_dict()["param_groups"][0], optimiser.state_dict()["param_groups"][0]
    assert group | {"betas": tuple(group["betas"])} == given


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "header", "foreign", "folder"])
def test_a_damaged_state_says_what_to_do(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "phase.safetensors"
    save_state(path, {"a": torch.arange(100)})
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "foreign":
        save_file({"a": torch.ones(1)}, str(path))
    elif damage != "missing":
        path.write_bytes({"empty": b"", "text": b"hello there, this is text", "cut": whole[:-10],
                          "header": whole.replace(b"structure", b"structuur")}[damage])
    with pytest.raises(CannotComplete, match=r"cannot read the state in .*phase\.safetensors.*delete the file"):
        load_state(path)


def test_equal_states_are_equal_files_and_one_bit_makes_another(tmp_path: Path) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    state = {"model": {"w": torch.arange(100.0), "none": torch.zeros(0, 3)}, "seconds": 1.25, "flag": torch.ones(3) > 0}
    for file in (path, other):
        save_state(file, state)
    whole = path.read_bytes()
    assert whole == other.read_bytes()
    numbers = whole.index(torch.arange(100.0).numpy().tobytes())
    for place in (numbers, numbers + 399, whole.index(b"1.25"), whole.index(b"F32")):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CannotComplete, match=r"cannot read the state in .*a\.safetensors.*delete the file"):
            load_state(path)


def test_a_state_of_before_checksums_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    structure = {"dict": [["w", {"tensor": "/w#0"}], ["seconds", {"value": 1.5}]]}
    save_file({"/w#0": torch.ones(2)}, tmp_path / "old", metadata={"structure": json.dumps(structure)})
    assert same(load_state(tmp_path / "old", "w", "seconds"), {"w": torch.ones(2), "seconds": 1.5})
    with pytest.raises(CannotComplete, match="it has no model and no doors"):
        load_state(tmp_path / "old", "model", "w", "doors")


@pytest.mark.parametrize("structure", ["3", "[]", "{}", '{"tensor": "gone"}', '{"dict": 3}', '{"dict": [[1]]}',
                                       '{"value": 3}', '{"dict": [[[], {"value": 1}]]}', "[" * 10**5])
def test_a_state_of_another_structure_is_no_state(tmp_path: Path, structure: str) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "s", metadata={"structure": structure})
    with pytest.raises(CannotComplete, match="cannot read the state"):
        load_state(tmp_path / "s")


def test_weights_that_do_not_fit_are_named() -> None:
    with pytest.raises(CannotComplete, match=r"model\.safetensors does not fit the network: 'weight' has the shape "
                                             r"\(3, 2\), expected \(2, 2\)"):
        load_weights(nn.Linear(2, 2), nn.Linear(2, 3).state_dict(), "model.safetensors")
    with pytest.raises(CannotComplete, match="does not fit the network: 'weight' is missing"):
        load_weights(nn.Linear(2, 2), {}, "model.safetensors")
