"""Looking for files: the places, and the messages when nothing is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete


def test_a_missing_set_says_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CannotComplete) as caught:
        Where(tmp_path).folder("CIFAR")
    message = str(caught.value)
    assert str(tmp_path / "CIFAR") in message
    assert "`sidedoor run SPEC.toml --download`" in message
    assert "SIDEDOOR_DATA" in message
    assert caught.value.exit_code == 2


def test_a_set_of_which_a_part_is_missing_is_missing(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a-images.gz").touch()
    assert Where(tmp_path).folder("set", ["a-images*"]) == tmp_path / "set"
    with pytest.raises(CannotComplete, match=r"\(no b-labels\*\)"):
        Where(tmp_path).folder("set", ["a-images*", "b-labels*"])


def test_it_is_fetched_only_when_allowed_and_missing(tmp_path: Path) -> None:
    fetched: list[Path] = []

    def fetch(root: Path) -> None:
        fetched.append(root)
        (root / "set").mkdir()

    with pytest.raises(CannotComplete):
        Where(tmp_path).folder("set", fetch=fetch)
    assert fetched == []
    where = Where(tmp_path, download=True)
    assert where.folder("set", fetch=fetch) == tmp_path / "set"
    assert where.folder("set", fetch=fetch) == tmp_path / "set"
    assert fetched == [tmp_path]


def test_a_download_that_fails_is_told_as_such(tmp_path: Path) -> None:
    def fetch(root: Path) -> None:
        raise OSError("no route to host")

    with pytest.raises(CannotComplete, match=r"download of set into .* failed: no route to host"):
        Where(tmp_path, download=True).folder("set", fetch=fetch)


def test_without_a_root_it_asks_for_one() -> None:
    with pytest.raises(CannotComplete, match="--data-root"):
        Where(None).folder("set")


def test_a_given_path_is_found_here_before_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, root = tmp_path / "here", tmp_path / "root"
    for folder in (here, root):
        folder.mkdir()
    (root / "a.npz").touch()
    monkeypatch.chdir(here)
    assert Where(root).locate("a.npz") == root / "a.npz"
    (here / "a.npz").touch()
    assert Where(root).locate("a.npz") == here / "a.npz"
    assert Where(None).locate(str(root / "a.npz")) == root / "a.npz"


def test_a_given_path_that_does_not_exist_is_named_with_its_places(tmp_path: Path) -> None:
    with pytest.raises(CannotComplete, match="'nowhere' does not exist") as caught:
        Where(tmp_path).locate("nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
