"""Evidence is checked when it is made, and is the same after a trip through JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from sidedoor.errors import ConfigError
from sidedoor.evidence import (
    Calibrated,
    Evidence,
    Exhibit,
    Finding,
    Localisation,
    Rule,
    Separation,
    Verdict,
    from_json,
    to_json,
)

MASK = Exhibit("mask", "mask", "recovered mask")
FOUND = Finding(3.25, Rule(3.25, 2.0), (0, 4), (3.25, 0.5), (MASK,), 800)
VALUES: list[Evidence] = [
    Separation(auroc=0.875, tpr_at_1=0.25, n_positive=36, method="strip"), Separation(),
    Separation(removed_poisoned=0.75, removed_poisoned_by_class=(0.75, None), removed_clean_by_class=(0.1, 0.0)),
    FOUND, Finding(0.5), Calibrated(FOUND, (0.5, 3.25), ("a", "b"), method="neural_cleanse"), Calibrated(Finding(1.0)),
    Verdict(4.2, 0.01, 0.3, None, 100, 0.05, "the suspect was not trained on the set", method="dataset_t_test"),
    Verdict(4.2, 0.01, 0.3, 0.9, 100, 0.05, "the suspect was not trained on the set"),
    Localisation(0.8, 0.04, 50, (Exhibit("map", "picture", "saliency"),), method="grad_cam"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_the_same_after_a_trip_through_json(value: Evidence) -> None:
    written = json.loads(json.dumps(to_json(value), allow_nan=False))
    assert list(written)[:2] == ["type", "method"]
    assert from_json(written) == value
    assert from_json(written | {"came_later": 3}) == value


def test_json_names_the_arrays_of_exhibits_and_leaves_them_out() -> None:
    shown = Finding(1.0, exhibits=(Exhibit("trigger", "picture", "recovered", torch.ones(3, 2, 2)),))
    assert to_json(shown)["exhibits"] == [{"name": "trigger", "kind": "picture", "caption": "recovered"}]
    assert from_json(to_json(shown)) == shown


def test_p_counts_references_that_score_at_least_as_high() -> None:
    assert Calibrated(Finding(2.0), (1.0, 1.5, 0.0)).p == 1 / 4
    assert Calibrated(Finding(2.0), (1.0, 2.0, 3.0)).p == 3 / 4
    assert Calibrated(Finding(2.0)).p == 1
    assert Calibrated(Finding(2.0), (1.0,)).above_all
    assert not Calibrated(Finding(2.0), (2.0,)).above_all


def test_classes_are_compared_with_the_same_ones_of_clean_models() -> None:
    finding = Finding(4.0, per_class=(1.0, 4.0, 0.5))
    found = Calibrated(finding, (1.0, 1.0), ("a", "b"), ((1.0, 2.0, 0.5), (0.5, 2.0, 0.25), (2.0, 8.0, 1.0)))
    assert found.relative == (1.0, 2.0, 1.0)
    assert from_json(to_json(found)) == found
    assert Calibrated(finding, (1.0,), ("a",)).relative == ()
    assert Calibrated(finding, (1.0,), ("a",), ((0.0, 1.0, 1.0),)).relative == ()  # no ratio
    assert Calibrated(finding, (1.0,), ("a",), ((1.0, 1.0),)).relative == ()  # of other classes


def test_a_rule_flags_above_its_threshold_and_not_at_it() -> None:
    assert [Rule(value, 2.0).flagged for value in (1.9, 2.0, 2.1)] == [False, False, True]


def test_a_verdict_rejects_up_to_its_level() -> None:
    assert [Verdict(1.0, p, 0.0, None, 1, 0.05, "none").rejected for p in (0.04, 0.05, 0.06)] == [True, True, False]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Finding(float("nan")), "Finding.score = nan given; expected a finite number"),
    (lambda: Finding(1.0, per_class=(0.0, float("inf"))), "per_class = .* finite numbers"),
    (lambda: Finding(1.0, suspected=(-1,)), "classes from 0"),
    (lambda: Finding(1.0, exhibits=(MASK, MASK)), "each name once"),
    (lambda: Finding(1.0, queries=-1), "at least 0"),
    (lambda: Rule(float("inf"), 1.0), "Rule.value = inf"),
    (lambda: Calibrated(FOUND, (float("nan"),)), "Calibrated.references"),
    (lambda: Separation(auroc=1.5), "Separation.auroc = 1.5 given; expected a share"),
    (lambda: Separation(removed_clean=-0.1), "Separation.removed_clean"),
    (lambda: Separation(removed_clean_by_class=(0.1, None, 1.1)), "removed_clean_by_class = .* expected shares"),
    (lambda: Verdict(1.0, 1.2, 0.0, None, 1, 0.05, "none"), "Verdict.p_value = 1.2"),
    (lambda: Verdict(1.0, 0.2, 0.0, None, 0, 0.05, "none"), "at least one image"),
    (lambda: Localisation(0.5, 2.0, 1), "Localisation.chance = 2.0"),
    (lambda: Exhibit("x", "film", ""), "expected one of picture, mask, curve"),  # type: ignore[arg-type]
    (lambda: Exhibit("", "mask", ""), "without a name"),
    (lambda: from_json({"type": "rumour"}), "evidence of type 'rumour' given; expected one of separation, finding"),
    (lambda: from_json({"type": "finding"}), "is incomplete: .*score"),
    (lambda: to_json(Evidence()), "Evidence given; expected one of separation"),
])
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_record_without_figures_by_class_has_none() -> None:
    old = {"type": "separation", "method": "spectral_signatures", "removed_poisoned": 0.5}
    assert from_json(old) == Separation(removed_poisoned=0.5, method="spectral_signatures")


@pytest.mark.parametrize(("value", "line"), [
    (FOUND, "Finding: score 3.250; flagged by the paper's rule (3.250, threshold 2.000); suspected classes 0, 4; "
            "800 queries"),
    (Finding(0.5, Rule(0.5, 2.0), method="mm_bd"),
     "mm_bd: score 0.500; not flagged by the paper's rule (0.500, threshold 2.000)"),
    (Separation(auroc=0.875, tpr_at_1=0.25, tpr_at_5=0.5, n_positive=1036, n_negative=40, method="strip"),
     "strip: AUROC 0.875; TPR 25.0 % at 1 % and 50.0 % at 5 % FPR; 1,036 positives, 40 negatives"),
    (Separation(removed_poisoned=0.75, removed_clean=0.125),
     "Separation: AUROC unknown; TPR unknown at 1 % and unknown at 5 % FPR; 0 positives, 0 negatives; removed 75.0 % "
     "of the poisoned and 12.5 % of the clean rows"),
])
def test_findings_print_in_one_line(value: Evidence, line: str) -> None:
    assert str(value) == line


def test_it_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, sidedoor.evidence; sys.exit(bool({'torch', 'numpy', 'sidedoor.types'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
