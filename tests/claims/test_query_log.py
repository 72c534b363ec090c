"""The log of queries: nothing is asked twice, and nothing is lost, whenever the command is killed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sidedoor.claims.suspects import png
from sidedoor.claims.suspects.log import Line, Log, Logged, hashes_of
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.ownership.base import OTHER, Answers

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 5, 7, 3), dtype=np.uint8)
HASHES = hashes_of(IMAGES)


class Counting:
    """A suspect whose label is an image's first pixel modulo 4, and that counts."""

    def __init__(self, fickle: bool = False, stops_at: int = 10**9) -> None:
        self.asked: list[str] = []
        self.fickle, self.stops_at = fickle, stops_at

    def answer(self, images: np.ndarray) -> Answers:
        if len(self.asked) >= self.stops_at:
            raise CannotComplete("it stopped")
        again = [name in self.asked for name in hashes_of(images)]
        self.asked += hashes_of(images)
        labels = images[:, 0, 0, 0].astype(np.int64) % 4
        return Answers(np.where(again, OTHER, labels) if self.fickle else labels)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (300, 301, 3), (28, 28, 1)])
def test_a_png_has_the_pixels_that_went_in(shape: tuple[int, int, int]) -> None:
    """The third is larger than a stored block."""
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(png.encoded(image))) as read:
        assert read.mode == ("L" if shape[2] == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(read).reshape(shape), image)


def test_images_are_asked_about_once_and_a_share_twice(tmp_path: Path) -> None:
    log, suspect = Log(tmp_path / "queries.jsonl", 4), Counting()
    logged = Logged(suspect, log, at_once=7)
    assert logged.cost(IMAGES) == 42
    answers = logged.answer(IMAGES)
    np.testing.assert_array_equal(answers.labels, IMAGES[:, 0, 0, 0] % 4)
    assert len(suspect.asked) == log.queries == 42
    assert suspect.asked[:40] == HASHES, "in the order given, and again at the end"
    assert set(suspect.asked[40:]) == set(sorted(HASHES)[:2])
    assert logged.cost(IMAGES) == 0
    logged.answer(IMAGES[::-1])
    assert len(suspect.asked) == 42
    assert log.contradictions() == (0, 2)


def test_equal_images_are_one_query() -> None:
    suspect = Counting()
    answers = Logged(suspect, Log(None, 4), repeated=0.0).answer(IMAGES[[3, 5, 3, 3]])
    assert suspect.asked == [HASHES[3], HASHES[5]]
    np.testing.assert_array_equal(answers.labels, IMAGES[[3, 5, 3, 3], 0, 0, 0] % 4)


def test_contradictions_are_counted_and_the_first_answer_stands() -> None:
    log = Log(None, 4)
    answers = Logged(Counting(fickle=True), log, at_once=8, repeated=0.1).answer(IMAGES)
    assert log.contradictions() == (4, 4)
    assert (answers.labels != OTHER).all()


def test_what_was_answered_before_a_stop_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    first, second = Counting(stops_at=14), Counting()
    with pytest.raises(CannotComplete, match="it stopped"):
        Logged(first, Log(path, 4), at_once=7).answer(IMAGES)
    assert len(first.asked) == 14
    answers = Logged(second, Log(path, 4), at_once=7).answer(IMAGES)
    assert len(first.asked + second.asked) == 42
    assert set(first.asked) & set(second.asked[:26]) == set()
    np.testing.assert_array_equal(answers.labels, IMAGES[:, 0, 0, 0] % 4)


def test_a_line_that_a_kill_cut_short_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    Logged(Counting(), Log(path, 4), repeated=0.0).answer(IMAGES[:3])
    whole = path.read_bytes()
    for cut in range(0, len(whole.splitlines(keepends=True)[-1]), 16):
        path.write_bytes(whole[: len(whole) - 1 - cut])
        log = Log(path, 4)
        assert log.queries == 2
        assert not log.answers(HASHES[2])
        log.add(Line(HASHES[2], label=1))
        assert [bool(Log(path, 4).answers(name)) for name in HASHES[:4]] == [True, True, True, False]


def test_attempts_without_an_answer_are_counted_and_answer_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path / "queries.jsonl", 4)
    log.add(Line(HASHES[0], 1, 429), Line(HASHES[0], 2, "no answer within 30 s"))
    again = Log(tmp_path / "queries.jsonl", 4)
    assert again.queries == 2
    assert not again.answers(HASHES[0])
    with pytest.raises(CannotComplete, match="1 of 1 images are not answered"):
        again.recall(HASHES[:1])


def test_probabilities_come_back_bit_for_bit(tmp_path: Path) -> None:
    given = np.random.default_rng(2).dirichlet(np.ones(4), 40).astype(np.float32)

    class Telling:
        def answer(self, images: np.ndarray) -> Answers:
            return Answers(given[: len(images)].argmax(1).astype(np.int64), given[: len(images)])

    Logged(Telling(), Log(tmp_path / "queries.jsonl", 4), repeated=0.0).answer(IMAGES)
    read = Log(tmp_path / "queries.jsonl", 4).recall(HASHES)
    np.testing.assert_array_equal(read.probabilities, given)


def test_a_log_is_of_one_suspect(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    Log(path, 4).begin({"kind": "model", "notes": ["a"]})
    Log(path, 4).begin({"kind": "model", "notes": ["a"]})
    log = Log(path, 4)
    log.add(Line(HASHES[0], label=1))
    log.begin({"kind": "model", "notes": ["a"]})
    with pytest.raises(ConfigError, match="answers of another suspect"):
        log.begin({"kind": "model", "notes": ["b"]})


def test_two_writers_are_noticed(tmp_path: Path) -> None:
    one, other = Log(tmp_path / "queries.jsonl", 4), Log(tmp_path / "queries.jsonl", 4)
    one.add(Line(HASHES[0], label=1))
    with pytest.raises(CannotComplete, match="another process writes"):
        other.add(Line(HASHES[1], label=1))


@pytest.mark.parametrize("table", [
    [], {"sha256": "a"}, {"sha256": HASHES[0], "label": 4}, {"sha256": HASHES[0], "label": True},
    {"sha256": HASHES[0], "label": -2}, {"sha256": HASHES[0], "wrong": 1}, {"sha256": HASHES[0], "said": 3},
    {"sha256": HASHES[0], "label": 1, "probabilities": [0.5, 0.5]}, {"suspect": 3}, {"sha256": HASHES[0], "status": []},
    {"sha256": HASHES[0], "label": 1, "probabilities": [1, 1, 1, 1]}, {"sha256": HASHES[0], "probabilities": "abcd"},
    {"sha256": HASHES[0], "label": 1, "probabilities": [-0.5, 0.5, 0.5, 0.5]},
])
def test_lines_of_another_kind_are_refused_by_number(table: object, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    Log(path, 4).add(Line(HASHES[0], label=3))
    with path.open("a") as file:
        file.write(json.dumps(table) + "\n")
    with pytest.raises(ConfigError, match=r"line 2 of .*queries\.jsonl"):
        Log(path, 4)


@pytest.mark.parametrize("line", [b"\xff\n", b"{\n", b'{"sha256": NaN}\n', b"[" * 5000 + b"\n"])
def test_what_is_no_json_is_refused(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_bytes(line)
    with pytest.raises(ConfigError, match="line 1"):
        Log(path, 4)
