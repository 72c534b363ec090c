"""A folder of answers as a suspect, `csv:DIR`: for a court, an escrow agent, or a person at a web page.

The first run writes numbered images and a template of a table; somebody has the suspect answer each image and fills the
table in; the second run reads it. Numbers tell nothing of what an image is for.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sidedoor.claims.suspects import png
from sidedoor.claims.suspects.base import Known, Opened
from sidedoor.claims.suspects.log import check_probabilities
from sidedoor.core import opening
from sidedoor.core.files import replacing, write_text
from sidedoor.core.printable import visible
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.ownership.base import OTHER, Answers

IMAGES, QUESTIONS, TEMPLATE, ANSWERS, README = "images", "questions.csv", "template.csv", "answers.csv", "README.txt"
NONE = "other"
"""The label of an answer that names none of the classes, such as a refusal."""
_LIMIT = 2**26
"""Bytes of the largest table."""
_HEADER = ["file", "sha256"]
_TEXT = f"""Questions to an image classifier.

1. Have it answer each image in {IMAGES}/. Some images are there twice; answer each of them.
2. Fill in the column "label" of {TEMPLATE} and save the table as {ANSWERS}, in this folder.
   A label is one of the classes below, by name or number. An image that is refused, or whose answer is none of these
   classes, has the label "{NONE}".
   If the classifier gives probabilities, put a column for each class, under its name, in place of "label"; a row of
   zeros where it gives none.
3. Run `sidedoor verify` again, with the same options.

{QUESTIONS} has the SHA-256 of each image. Leave it and the images as they are.

Classes:
"""

Answer = tuple[int, tuple[float, ...] | None]
"""A label, and the probabilities if they are told."""


def open_csv(where: str, known: Known) -> Opened:
    """The suspect whose answers are in a folder, or will be."""
    return Opened(CsvSuspect(Path(where), known.images.classes), {"kind": "csv", "folder": Path(where).resolve().name})


@dataclass(frozen=True)
class CsvSuspect:
    """A suspect that somebody asks by hand.

    Args:
        folder: of images and answers; made if it is not there.
        names: of the classes.
    """

    folder: Path
    names: Sequence[str]

    def answer(self, images: UInt8[np.ndarray, "n h w c"]) -> Answers:
        """What the table says.

        Raises:
            CannotComplete: images are not answered yet.
            ConfigError: a file is not as it has to be.
        """
        files = self._ask(images)
        said = self._said(set(self._questions()))
        if left := [file for file in files if file not in said]:
            raise CannotComplete(self._leave(left, bool(said)))
        answers = [said[file] for file in files]
        labels = np.array([label for label, _ in answers], dtype=np.int64)
        told = [row for _, row in answers if row is not None]
        return Answers(labels, np.array(told, dtype=np.float32) if told else None)

    def _ask(self, images: UInt8[np.ndarray, "n h w c"]) -> list[str]:
        """The file of each image; those that have none yet are written."""
        questions = self._questions()
        unused = defaultdict(list)
        for file, name in reversed(questions.items()):
            unused[name].append(file)
        files, new = [], False
        for image in images:
            content = png.encoded(image)
            name = hashlib.sha256(content).hexdigest()
            if not unused[name]:
                file = f"{len(questions) + 1:05d}.png"
                with replacing(self.folder / IMAGES / file) as temporary:
                    temporary.write_bytes(content)
                questions[file], new = name, True
                unused[name].append(file)
            files.append(unused[name].pop())
        if new:
            write_text(self.folder / README, _TEXT + "".join(f"{i:>5} {visible(name)}\n"
                                                             for i, name in enumerate(self.names)))
            write_text(self.folder / QUESTIONS, _table([_HEADER, *map(list, questions.items())]))
        return files

    def _questions(self) -> dict[str, str]:
        """The files that were written, with their hashes."""
        path = self.folder / QUESTIONS
        if not path.exists():
            others = {file.name for file in self.folder.iterdir()} if self.folder.is_dir() else set()
            if others - {IMAGES, README}:  # these are there if the command was killed
                raise ConfigError(f"{self.folder} has files of another kind, such as {visible(min(others))}; give a "
                                  "folder that is empty, or a new one")
            return {}
        rows = [row for _, row in self._rows(path)]
        if rows[:1] != [_HEADER] or [row[0] for row in rows[1:] if len(row) == 2] \
                != [f"{number:05d}.png" for number in range(1, len(rows))]:
            raise ConfigError(f"{path} was changed; begin again in a new folder")
        return {row[0]: row[1] for row in rows[1:]}

    def _leave(self, left: Sequence[str], some: bool) -> str:
        """Write the rows that are missing, and say what to do."""
        write_text(self.folder / TEMPLATE, _table([["file", "label"], *([file, ""] for file in left)]))
        path = self.folder / ANSWERS
        if not some:
            return (f"{len(left):,} images to answer are in {self.folder / IMAGES}; {self.folder / README} says how. "
                    f"Fill in {self.folder / TEMPLATE}, save it as {path} and run the command again")
        return (f"{len(left):,} images, the first of them {left[0]}, have no answer in {path}; add them (see the rows "
                f"of {self.folder / TEMPLATE}) and run the command again")

    def _said(self, known: set[str]) -> dict[str, Answer]:
        """The answers of the table, by file."""
        path = self.folder / ANSWERS
        if not path.exists():
            return {}
        rows = self._rows(path)
        columns = [cell.strip() for cell in next(rows, (1, [""]))[1]]
        labelled = columns == ["file", "label"]
        if not labelled and (columns[:1] != ["file"] or sorted(columns[1:]) != sorted(n.strip() for n in self.names)):
            raise ConfigError(f"the columns of {path} are {visible(_short(columns))}; expected file and label, or file "
                              f"and a column for each of the {len(self.names)} classes, under its name")
        said: dict[str, Answer] = {}
        for number, row in rows:
            cells = [cell.strip() for cell in row]
            try:
                if cells[0] not in known or cells[0] in said:
                    raise ValueError(f"the file {_short(cells[0])} given; expected one of {QUESTIONS}, and each once")
                if len(cells) != len(columns):
                    raise ValueError(f"{len(cells)} cells; the first line has {len(columns)}")
                if any(cells[1:]):
                    said[cells[0]] = self._label(cells[1]) if labelled else self._scores(columns[1:], cells[1:])
            except ValueError as error:
                raise ConfigError(f"line {number} of {path}: {visible(str(error))}") from error
        return said

    def _label(self, text: str) -> Answer:
        names = [name.strip() for name in self.names]
        if text in names:
            return names.index(text), None
        if text.lower() == NONE:
            return OTHER, None
        if text.isdecimal() and len(text) < 10 and int(text) < len(names):
            return int(text), None
        raise ValueError(f"the label {_short(text)} given; expected the name of a class, 0 to {len(names) - 1}, or "
                         f"{NONE!r} for an answer that is none of them")

    def _scores(self, columns: Sequence[str], cells: Sequence[str]) -> Answer:
        given = dict(zip(columns, cells, strict=True))
        row = tuple(_number(given[name.strip()]) for name in self.names)
        check_probabilities(row, len(self.names))
        return (row.index(max(row)) if any(row) else OTHER), row

    def _rows(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        """The rows of a table with the numbers of their lines; cells are parted by commas or semicolons."""
        try:
            text = opening.text(path, _LIMIT)
        except OSError as error:
            raise CannotComplete(f"{path} cannot be read: {error}") from error
        first = text.split("\n", 1)[0]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="," if "," in first else ";", strict=True)
        try:
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, row
        except csv.Error as error:
            raise ConfigError(f"line {reader.line_num} of {path} is no row of a table: {error}") from error


def _table(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"the score {_short(text)} given; expected a number from 0 to 1, such as 0.25") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
