"""Files are opened in one way: regular ones of a bounded size, and read as they were when they were opened."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sidedoor.core import opening
from sidedoor.core.opening import Unopenable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1000)
    return path


def test_a_file_is_read_up_to_its_limit(file: Path) -> None:
    assert opening.read(file, 3000) == b"abc" * 1000
    with pytest.raises(Unopenable, match="3,000 bytes; at most 2,999"):
        opening.read(file, 2999)


def test_a_copy_is_what_was_hashed(file: Path, tmp_path: Path) -> None:
    found = opening.copied(file, tmp_path / "copy", 3000)
    assert found == opening.digest(file, 3000) == hashlib.sha256((tmp_path / "copy").read_bytes()).hexdigest()
    assert (tmp_path / "copy").read_bytes() == b"abc" * 1000
    with pytest.raises(FileExistsError):
        opening.copied(file, tmp_path / "copy", 3000)


def test_links_to_files_are_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    assert len(opening.read(tmp_path / "link", 3000)) == 3000


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_refused_without_waiting(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "thing")
    with pytest.raises(Unopenable, match=r"pipe, socket or device|a folder"):
        opening.read(tmp_path / "thing", 2**40)


@pytest.mark.timeout(20)
def test_a_pipe_that_takes_a_files_place_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.stat(file)
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(opening.os, "stat", lambda _: before)
    with pytest.raises(Unopenable, match="pipe"):
        opening.read(file, 2**40)


@pytest.mark.parametrize("length", [10, 2**22 + 1])
def test_a_file_that_changes_its_length_under_the_reader_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2**22))
    with opening.opened(path, 2**23) as file:
        chunks = opening._chunks(file)
        next(chunks)
        os.truncate(path, length)
        with pytest.raises(Unopenable, match="changes while it is read"):
            list(chunks)


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(b"head")
    os.truncate(path, 2**33)
    if os.stat(path).st_blocks * 512 > 2**20:
        pytest.skip("this file system has no sparse files")
    with pytest.raises(Unopenable, match="sparse"):
        opening.read(path, 2**40)


def test_text_is_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("\ufeffgrün".encode())
    assert opening.text(path, 100) == "grün"
    path.write_bytes("grün".encode("latin-1"))
    with pytest.raises(Unopenable, match="not text in UTF-8"):
        opening.text(path, 100)


def packed(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED, members: int = 1) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for k in range(members):
            archive.writestr(str(k), content)


def names(path: Path) -> list[str]:
    with opening.opened(path, 2**30) as file, opening.archive(file) as archive:
        return archive.namelist()


def test_archives_are_opened_if_they_are_packed_as_usual(tmp_path: Path) -> None:
    packed(tmp_path / "a", b"abc" * 1000, members=3)
    assert names(tmp_path / "a") == ["0", "1", "2"]
    packed(tmp_path / "b", b"abc" * 1000, zipfile.ZIP_LZMA)
    with pytest.raises(Unopenable, match="neither stored nor deflated"):
        names(tmp_path / "b")
    packed(tmp_path / "c", bytes(2**27))
    with pytest.raises(Unopenable, match="134,217,728 bytes in a file of"):
        names(tmp_path / "c")
    packed(tmp_path / "d", b"", members=20_001)
    with pytest.raises(Unopenable, match="lists 20,001 members"):
        names(tmp_path / "d")
    (tmp_path / "e").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(zipfile.BadZipFile):
        names(tmp_path / "e")


def test_a_settled_file_is_hashed_once_until_it_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, hashed = tmp_path / "weights", list[str]()
    path.write_bytes(b"first")
    digest = opening.digest

    def counted(path: str, limit: int) -> str:
        hashed.append(path)
        return digest(path, limit)

    monkeypatch.setattr(opening, "digest", counted)
    # Written just now: its times might not change with another write.
    assert len({opening.digest_once(path, 100) for _ in range(3)}) == 1
    assert len(hashed) == 3
    monkeypatch.setattr(opening, "_SETTLED", -1.0)
    first = {opening.digest_once(path, 100) for _ in range(3)}
    assert len(hashed) == 4
    path.write_bytes(b"second")
    assert opening.digest_once(path, 100) not in first
    assert opening.digest_once(path, 100) == hashlib.sha256(b"second").hexdigest()
