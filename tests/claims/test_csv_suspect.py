"""A suspect whose answers come as a table: images out, answers in, and a person in between."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sidedoor.claims.suspects.csv import ANSWERS, IMAGES, QUESTIONS, README, TEMPLATE, CsvSuspect
from sidedoor.claims.suspects.log import Log, Logged
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.ownership.base import OTHER

PICTURES = np.random.default_rng(0).integers(0, 256, (24, 6, 5, 3), dtype=np.uint8)
NAMES = ("cat", "dog", "1", "sea; horse, \u202egrey")
TRUE = PICTURES[:, 0, 0, 0].astype(np.int64) % 4


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fill(folder: Path, answer: Callable[[np.ndarray], str], keep: bool = True) -> None:
    """Do what a person does: look at the images of the template and add the rows to the answers."""
    rows = rows_of(folder / ANSWERS) if keep and (folder / ANSWERS).exists() else []
    for row in rows_of(folder / TEMPLATE):
        with Image.open(folder / IMAGES / row["file"]) as image:
            rows.append({"file": row["file"], "label": answer(np.asarray(image))})
    with (folder / ANSWERS).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label"])
        writer.writeheader()
        writer.writerows(rows)


def by_name(image: np.ndarray) -> str:
    return NAMES[image[0, 0, 0] % 4]


def asked(folder: Path, count: int = 3) -> CsvSuspect:
    """A suspect whose first images are written."""
    suspect = CsvSuspect(folder, NAMES)
    with pytest.raises(CannotComplete):
        suspect.answer(PICTURES[:count])
    return suspect


def test_images_go_out_and_answers_come_in(tmp_path: Path) -> None:
    folder = tmp_path / "court"
    suspect = CsvSuspect(folder, NAMES)
    with pytest.raises(CannotComplete, match=r"24 images to answer are in .*template\.csv, save it as .*answers\.csv"):
        suspect.answer(PICTURES)
    assert sorted(file.name for file in (folder / IMAGES).iterdir()) == [f"{i:05d}.png" for i in range(1, 25)]
    assert [row["file"] for row in rows_of(folder / TEMPLATE)] == [f"{i:05d}.png" for i in range(1, 25)]
    assert "1 dog" in (folder / README).read_text()
    assert "\u202e" not in (folder / README).read_text()
    with pytest.raises(CannotComplete):
        suspect.answer(PICTURES)
    assert len(list((folder / IMAGES).iterdir())) == 24, "written once"
    fill(folder, by_name)
    answers = suspect.answer(PICTURES)
    np.testing.assert_array_equal(answers.labels, TRUE)
    assert answers.probabilities is None
    np.testing.assert_array_equal(suspect.answer(PICTURES[::-1]).labels, TRUE[::-1])


def test_images_that_are_asked_about_twice_are_there_twice_in_one_round(tmp_path: Path) -> None:
    log = Log(tmp_path / "queries.jsonl", 4)
    logged = Logged(CsvSuspect(tmp_path / "court", NAMES), log, repeated=0.25)
    with pytest.raises(CannotComplete, match="30 images"):
        logged.answer(PICTURES)
    assert log.queries == 0
    fill(tmp_path / "court", by_name)
    np.testing.assert_array_equal(logged.answer(PICTURES).labels, TRUE)
    assert log.queries == 30
    assert log.contradictions() == (0, 6)


def test_who_contradicts_himself_is_found_out(tmp_path: Path) -> None:
    log = Log(None, 4)
    logged = Logged(CsvSuspect(tmp_path / "court", NAMES), log, repeated=0.25)
    with pytest.raises(CannotComplete):
        logged.answer(PICTURES)
    number = iter(range(30))
    fill(tmp_path / "court", lambda image: "dog" if next(number) < 24 else "cat")
    logged.answer(PICTURES)
    assert log.contradictions() == (6, 6)


def test_what_is_missing_is_named_and_can_be_added(tmp_path: Path) -> None:
    suspect = asked(tmp_path, 5)
    fill(tmp_path, by_name)
    rows = (tmp_path / ANSWERS).read_text().splitlines()
    (tmp_path / ANSWERS).write_text("\n".join([rows[0], rows[2], "00003.png,", "", rows[5]]))
    with pytest.raises(CannotComplete, match=r"3 images, the first of them 00001\.png, have no answer in "):
        suspect.answer(PICTURES[:5])
    assert [row["file"] for row in rows_of(tmp_path / TEMPLATE)] == ["00001.png", "00003.png", "00004.png"]
    (tmp_path / ANSWERS).write_text("\n".join([rows[0], rows[2], rows[5]]))
    fill(tmp_path, by_name)
    np.testing.assert_array_equal(suspect.answer(PICTURES[:5]).labels, TRUE[:5])


def test_further_images_are_added(tmp_path: Path) -> None:
    suspect = asked(tmp_path, 3)
    fill(tmp_path, by_name)
    with pytest.raises(CannotComplete, match=r"2 images, the first of them 00004\.png"):
        suspect.answer(PICTURES[1:5])
    fill(tmp_path, by_name)
    np.testing.assert_array_equal(suspect.answer(PICTURES[1:5]).labels, TRUE[1:5])


def test_images_of_a_run_that_was_killed_are_written_again(tmp_path: Path) -> None:
    asked(tmp_path, 3)
    (tmp_path / QUESTIONS).unlink()
    (tmp_path / TEMPLATE).unlink()
    (tmp_path / IMAGES / "00002.png").write_bytes(b"half")
    suspect = asked(tmp_path, 3)
    fill(tmp_path, by_name)
    np.testing.assert_array_equal(suspect.answer(PICTURES[:3]).labels, TRUE[:3])


@pytest.mark.parametrize(("text", "labels"), [
    ("file,label\n00001.png,cat\n00002.png,3\n00003.png,other\n", [0, 3, OTHER]),
    ("\ufefffile;label\r\n00003.png;Other\r\n00001.png; dog \r\n\r\n00002.png;0\r\n", [1, 0, OTHER]),
    ('file,label\n00001.png,"sea; horse, \u202egrey"\n00002.png,1\n00003.png,2\n', [3, 2, 2]),
])
def test_labels_by_name_or_number(text: str, labels: list[int], tmp_path: Path) -> None:
    """A class whose name is a number is meant by that name."""
    suspect = asked(tmp_path)
    (tmp_path / ANSWERS).write_text(text)
    assert suspect.answer(PICTURES[:3]).labels.tolist() == labels


def test_probabilities_by_class_in_any_order(tmp_path: Path) -> None:
    suspect = asked(tmp_path)
    (tmp_path / ANSWERS).write_text(f'file,1,dog,"{NAMES[3]}",cat\n00001.png,.1,.6,.1,.2\n00002.png,0,0,0,0\n'
                                    "00003.png,1,0,0,0\n")
    answers = suspect.answer(PICTURES[:3])
    assert answers.labels.tolist() == [1, OTHER, 2]
    assert answers.probabilities is not None
    np.testing.assert_allclose(answers.probabilities, [[.2, .6, .1, .1], [0] * 4, [0, 0, 1, 0]], rtol=1e-6)


@pytest.mark.parametrize(("text", "words"), [
    ("", "the columns of .* are"),
    ("a,b\n", r"the columns of .* are \['a', 'b'\]; expected file and label, or file and a column for each of the 4"),
    ("file,cat,dog\n", "the columns of"),
    ("file,cat,cat,dog,1\n", "the columns of"),
    ("file," + "x" * 1000 + "\n", r"\.\.\."),
    ("file,label\n00009.png,cat\n", r"line 2 of .*csv: the file '00009\.png' given; expected one of questions"),
    ("file,label\n../x,cat\n", "line 2 of"),
    ("file,label\n00001.png,cat\n00001.png,cat\n", "line 3 of .*and each once"),
    ("file,label\n00001.png,lion\n", "line 2 .* the label 'lion' given; expected the name of a class, 0 to 3, or"),
    ("file,label\n00001.png,4\n", "the label '4' given"),
    ("file,label\n00001.png,-1\n", "the label '-1' given"),
    ("file,label\n00001.png,\u0663\u0663\n", "the label"),
    ("file,label\n00001.png," + "9" * 5000 + "\n", "the label"),
    ("file,label\n00001.png,a\x1b[2J\n", r"\\x1b"),
    ("file,label\n00001.png,cat,dog\n", "3 cells; the first line has 2"),
    ("file,label\n00001.png\n", "1 cells; the first line has 2"),
    ('file,label\n00001.png,"cat\n', "is no row of a table"),
    ('file,label\n00001.png,"cat"x\n', "is no row of a table"),
    ("file,label\n00001.png," + "x" * 200_000 + "\n", "is no row of a table: field larger"),
])
def test_tables_of_another_kind_are_refused(text: str, words: str, tmp_path: Path) -> None:
    suspect = asked(tmp_path)
    (tmp_path / ANSWERS).write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        suspect.answer(PICTURES[:3])
    assert len(str(error.value)) < 500
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(("row", "words"), [
    ("nan,0,0,0", "the score nan; expected probabilities"),
    ("inf,0,0,0", "the score inf"),
    ("-0.1,0,0,1", r"the score -0\.1"),
    ("50,50,0,0", r"the score 50\.0"),
    ("1,1,0,0", "a sum of 2"),
    ("0.5,,0,0", "the score '' given; expected a number"),
    ('"0,5",0,0,0', "the score '0,5' given; expected a number from 0 to 1, such as 0.25"),
])
def test_scores_that_are_no_probabilities_are_refused(row: str, words: str, tmp_path: Path) -> None:
    suspect = asked(tmp_path)
    (tmp_path / ANSWERS).write_text(f'file,cat,dog,1,"{NAMES[3]}"\n00002.png,{row}\n')
    with pytest.raises(ConfigError, match=words) as error:
        suspect.answer(PICTURES[:3])
    error.match("line 2 of")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    suspect = asked(tmp_path)
    (tmp_path / ANSWERS).write_bytes("file,label\n00001.png,\xe4\n".encode("latin-1"))
    with pytest.raises(CannotComplete, match="not text in UTF-8"):
        suspect.answer(PICTURES[:3])
    (tmp_path / ANSWERS).unlink()
    (tmp_path / ANSWERS).mkdir()
    with pytest.raises(CannotComplete, match="it is a folder"):
        suspect.answer(PICTURES[:3])


@pytest.mark.parametrize("text", ["", "file,sha256\n00002.png,a\n", "file,sha256\n00001.png,a\n00001.png,b\n", "a,b\n",
                                  "file,sha256\n00001.png\n", "file,sha256\n00001.png,a,b\n"])
def test_questions_that_were_changed_are_refused(text: str, tmp_path: Path) -> None:
    suspect = asked(tmp_path)
    (tmp_path / QUESTIONS).write_text(text)
    with pytest.raises(ConfigError, match=r"questions\.csv was changed"):
        suspect.answer(PICTURES[:3])


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"files of another kind, such as holiday\.jpg"):
        CsvSuspect(tmp_path, NAMES).answer(PICTURES[:3])
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.jpg"]
