"""Facts about the source as a whole: how long functions are, and that annotations are checked while tests run."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from runtime_types import EVERY, FIRST

import sidedoor
from sidedoor import registry
from sidedoor.errors import ConfigError
from sidedoor.metrics.image_quality import psnr
from sidedoor.multitask.pcgrad import spread
from sidedoor.tasks.task import Scores
from sidedoor.triggers.patch import Patch, checkerboard
from sidedoor.types import Space, to_levels

ROOT = Path(sidedoor.__file__).parent
GREY = torch.ones(2, 1, 4, 4)


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """The lines of every function, its signature among them and its docstring not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first, last = node.body[0], node.end_lineno or 0
            words = 0 if ast.get_docstring(node, clean=False) is None else (first.end_lineno or 0) - first.lineno + 1
            yield node.name, last - node.lineno + 1 - words


def test_functions_are_short(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [count for file in ROOT.rglob("*.py") for _, count in lengths(file.read_text(encoding="utf-8"))]
    median, ninth, longest = np.percentile(lines, [50, 90, 100])
    with capsys.disabled():
        print(f"\n{len(lines)} functions: median {median:g} lines, 90th percentile {ninth:g}, longest {longest:g}")
    assert median <= 6
    assert ninth <= 20
    assert longest <= 60


def test_docstrings_are_no_lines_of_a_function() -> None:
    source = 'def f(\n    x,\n):\n    """One.\n\n    Two.\n    """\n    return x\n\n\ndef g(): return 1\n'
    assert dict(lengths(source)) == {"f": 4, "g": 1}


def test_images_of_different_sizes_are_refused() -> None:
    """Without the check two of these would broadcast to a number."""
    assert psnr(GREY, GREY).tolist() == [100.0, 100.0]
    with pytest.raises(TypeCheckError, match=r"image_quality\.psnr"):
        psnr(GREY, torch.ones(2, 1, 1, 1))


def test_a_wrong_number_of_dimensions_or_type_is_refused() -> None:
    for wrong in (GREY[0], GREY.long()):
        with pytest.raises(TypeCheckError, match=r"types\.to_levels"):
            to_levels(wrong, Space(0.0, 1.0, 255))


def test_methods_and_fields_of_dataclasses_are_checked() -> None:
    with pytest.raises(TypeCheckError, match=r"Patch\.forward"):
        Patch(checkerboard(3))(GREY, torch.zeros(2, 2))
    with pytest.raises(TypeCheckError, match=r"Scores\.__init__"):
        Scores(GREY, torch.ones(2), torch.ones(2), torch.ones(2))


def test_calls_after_the_first_are_checked_once_in_so_many() -> None:
    for _ in range(FIRST):
        to_levels(GREY, Space(0.0, 1.0, 255))
    refused = 0
    for _ in range(EVERY):
        try:
            to_levels(GREY[0], Space(0.0, 1.0, 255))
        except TypeCheckError:
            refused += 1
    assert refused == 1


def test_an_integer_passes_for_a_real_number() -> None:
    assert to_levels(GREY, Space(0, 1, 255)).unique().tolist() == [255.0]
    assert registry.make("attack", {"name": "blended", "rate": 1}).rate == 1.0


def test_checking_draws_no_random_numbers() -> None:
    """Of a list one item is checked, at random; methods are watched for what they draw."""
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    before = random.getstate()
    spread(torch.ones(3), parameters)
    with pytest.raises(TypeCheckError, match="spread"):
        spread(torch.ones(3), [torch.zeros(3)])  # type: ignore[list-item]
    assert random.getstate() == before


def test_what_a_function_says_of_a_wrong_value_comes_first() -> None:
    with pytest.raises(ConfigError, match="expected a name"):
        registry.reference("attack", 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"BadNets\.rate"):
        registry.load("attack", "badnets")(rate="much")
