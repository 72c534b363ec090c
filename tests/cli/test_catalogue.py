"""Names as people scan them: the list, and the table of README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidedoor import registry
from sidedoor.cli.catalogue import citation, lines, markdown

README = Path(__file__).parents[2] / "README.md"


def test_the_table_of_readme_is_the_output_of_the_command() -> None:
    match = re.search(r"<!-- The output of [^>]*-->\n(.*?)\n<!-- End of the output. -->", README.read_text(), re.DOTALL)
    assert match is not None, "README.md has lost the comments around its table"
    made = markdown([entry for entry in registry.entries() if entry.origin == "sidedoor"])
    assert match[1] == made, "run `sidedoor list --markdown` and paste its output between the two comments of README.md"


def test_the_table_names_everything_once() -> None:
    table = markdown(registry.entries())
    for entry in registry.entries():
        assert len(re.findall(rf"`{entry.name}`", table)) == 1


def test_a_row_is_a_room_and_says_who_wrote_its_papers() -> None:
    rows = [row.split(" | ") for row in markdown(registry.entries()).splitlines()[2:]]
    (row,) = [names for _, names in rows if "`wanet`" in names]
    assert "`wanet` (Nguyen and Tran 2021)" in row
    assert "`badnets`" not in row
    assert len(rows) == len({entry.room for entry in registry.entries()})


@pytest.mark.parametrize(("paper", "short"), [
    ('Gu, Dolan-Gavitt, Garg, "BadNets: a 1999 Story", 2017, arXiv:1708.06733.', "Gu et al. 2017"),
    ('Nguyen, Tran, "WaNet", ICLR 2021, arXiv:2102.10369.', "Nguyen and Tran 2021"),
    ('Krizhevsky, "Learning", 2009.', "Krizhevsky 2009"),
    ('K. He, X. Zhang, S. Ren and J. Sun, "Deep", CVPR 2016, arXiv 1512.03385.', "He et al. 2016"),
    ('Liu et al., "SSD", ECCV 2016, arXiv:1512.02325; Sandler et al., "V2", CVPR 2018.', "Liu et al. 2016"),
    ('against image-to-image backdoors Jiang, Li, He, "Networks", 2024.', "Jiang et al. 2024"),
    ('none; X. Ma, "FastestDet", 2022.', ""), ("", ""), ("none; the worked example.", ""),
])
def test_a_citation_is_authors_and_year_of_the_first_paper(paper: str, short: str) -> None:
    assert citation(paper) == short


def test_a_line_says_stage_access_and_task() -> None:
    said = dict(zip([e.name for e in registry.entries()], lines(registry.entries()), strict=True))
    for name, words in {
        "badnets": ("attack", "data", "classification"), "wanet": ("attack", "training", "classification"),
        "subnet_replacement": ("attack", "weights"), "i2i": ("attack", "training", "restoration and 2 more"),
        "abl": ("defense", "training", "training data"), "spectral_signatures": ("filter", "training data"),
        "fine_pruning": ("repair", "weights, labelled clean images", "classification"),
        "neural_cleanse": ("audit", "gradients, clean images"), "jpeg": ("purifier", "inputs only", "any task"),
        "unet": ("model", "reconstruction and 3 more"), "resnet18": ("model", "classification"),
    }.items():
        cells = re.split(r" {2,}", said[name])
        assert [word for word in words if word not in cells] == [], cells
        assert cells[-1] == registry.find(name).summary


def test_a_list_of_nothing_is_empty() -> None:
    assert lines([]) == []
