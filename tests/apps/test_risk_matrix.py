"""The threat-risk matrix of a store: ingredients by hand, what must never happen, and the runs that are missing."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidedoor.apps import risk
from sidedoor.apps.risk import Matrix, Row, matrix, weights_of
from sidedoor.apps.risk_missing import files_of
from sidedoor.apps.risk_page import heat, page
from sidedoor.apps.risk_text import lines
from sidedoor.apps.threat import threat_of
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec, grid
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.evidence import Calibrated, Finding, Rule, Separation, Verdict
from sidedoor.metrics import risk as formula

sys.path.append(str(Path(__file__).parents[1] / "report"))
from benchmark import cell

SEEDS = (0, 1, 2)
SAMPLES = {"train": 1000, "poisoned": 90, "test": 40, "eligible": 36}


@pytest.fixture(autouse=True, scope="module")
def few_draws() -> Iterator[None]:
    before = risk.DRAWS, formula.SWEPT
    risk.DRAWS, formula.SWEPT = 200, 20
    yield
    risk.DRAWS, formula.SWEPT = before


def attacked(number: int = 0, defense: Any = None, seeds: tuple[int, ...] = SEEDS, **values: Any) -> list[Record]:
    """An attack without a defence, or behind one, over seeds; 9 % of the training data are poisoned."""
    return [cell(number, seed, defense, **{"samples": SAMPLES, "columns": {"psnr": 20.0, "ssim": 0.8}} | values)
            for seed in seeds]


def rated(rate: float, attack: float, poisoned: int, **values: Any) -> list[Record]:
    found = attacked(attack=attack, samples=SAMPLES | {"poisoned": poisoned}, **values)
    for record in found:
        record.spec["attack"] = record.spec["attack"] | {"rate": rate}
    return [replace(record, key=f"{record.key}-{rate}") for record in found]


def only(found: Matrix) -> Row:
    (row,) = found.rows
    return row


def value(row: Row, name: str) -> float:
    found = row.ingredients[name].value
    assert found is not None
    return found


def repaired() -> list[Record]:
    return attacked(defense="anp", attack=0.4, recovered=0.5)


SEEN = Separation(tpr_at_5=0.75, fpr_at_5=0.05)
ALARM = Calibrated(Finding(3.0, Rule(3.0, 2.0)), (0.5,), ("x",))
QUIET = replace(ALARM, finding=Finding(1.0, Rule(1.0, 2.0)))


def test_what_has_not_been_measured_is_worst_for_the_defender() -> None:
    row = only(matrix(attacked()))
    assert [value(row, name) for name in ("works", "access", "transport", "stages", "least", "target")] == [
        1, 0.9, 1, 1, 1, 1]
    assert value(row, "budget") == pytest.approx(0.5229, abs=1e-4)  # 9 % of the data
    assert value(row, "stealth") == pytest.approx((0.5 + 0.8 + 1) / 3)
    assert row.impact.value == pytest.approx(5)
    assert row.likelihood.value == pytest.approx(1 + 4 * (0.9 + 0.52288 + 0.76667 + 1) / 4, abs=1e-4)
    assert row.risk.value == pytest.approx(row.likelihood.value * 5)
    assert row.band == "critical"


def test_a_stage_counts_by_its_best_affordable_defence() -> None:
    costly = attacked(defense="clp", attack=0.1, clean=0.84)
    row = only(matrix([*attacked(), *repaired(), *attacked(defense="nad", attack=0.6), *costly]))
    # 1 at each stage but repair; 0.06 of clean accuracy is too much for clp.
    assert value(row, "stages") == pytest.approx((5 + 0.4) / 6)
    assert value(row, "least") == pytest.approx(0.4)
    assert "repair: anp leaves 40.0 %" in row.ingredients["stages"].note
    assert row.ingredients["least"].keys == tuple(record.key for record in repaired())
    cheap = [replace(record, clean=0.851) for record in costly]
    assert value(only(matrix([*attacked(), *repaired(), *cheap])), "least") == pytest.approx(0.1)


def test_a_detector_counts_end_to_end_and_only_if_it_lets_clean_images_pass() -> None:
    strip = attacked(defense="strip", evidence=(SEEN,), columns={"accepted": 0.2})
    assert value(only(matrix([*attacked(), *strip])), "least") == pytest.approx(0.2)
    nervous = [replace(record, evidence=(replace(SEEN, fpr_at_5=0.11),)) for record in strip]
    assert value(only(matrix([*attacked(), *nervous])), "least") == 1


def test_an_audit_lets_repair_what_it_flags() -> None:
    audits = attacked(defense="neural_cleanse", evidence=(ALARM,))
    found = value(only(matrix([*attacked(), *repaired(), *audits])), "stages")
    assert found == pytest.approx((4 + 0.4 + 0.4) / 6)
    one = [replace(record, evidence=(QUIET,)) if record.key.endswith("-0") else record for record in audits]
    assert value(only(matrix([*attacked(), *repaired(), *one])), "stages") == pytest.approx((4 + 0.4 + 0.6) / 6)
    alone = value(only(matrix([*attacked(), *audits])), "stages")
    assert alone == 1


def test_a_filter_is_a_defence_and_finds_what_is_seen() -> None:
    seen = replace(SEEN, removed_poisoned=0.9, removed_clean=0.1)
    row = only(matrix([*attacked(), *attacked(defense="spectral_signatures", evidence=(seen,), attack=0.7)]))
    assert value(row, "stealth") == pytest.approx((0.5 + 0.8 + 0.25) / 3)
    assert value(row, "least") == pytest.approx(0.7)


def test_transport_is_by_the_worst_that_happens() -> None:
    flip, jpeg = attacked(defense="flip", attack=0.7), attacked(defense={"name": "jpeg", "quality": 75}, attack=0.5)
    assert value(only(matrix([*attacked(), *flip, *jpeg])), "transport") == pytest.approx(0.5)
    harder = attacked(defense={"name": "jpeg", "quality": 10}, attack=0.1)
    assert value(only(matrix([*attacked(), *flip, *harder])), "transport") == pytest.approx(0.7)


def test_the_budget_is_the_least_rate_at_which_all_seeds_succeed() -> None:
    tried = [*rated(0.1, 0.99, 90), *rated(0.01, 0.95, 9), *rated(0.003, 0.8, 3)]
    row = only(matrix([*tried, *(replace(r, key=r.key + "d") for r in rated(0.1, 0.99, 90, defense="anp"))]))
    assert value(row, "budget") == 1  # 0.9 % of the data
    one = [replace(record, attack=0.89) if record.key == "none-0-1-0.01" else record for record in tried]
    assert value(only(matrix(one)), "budget") == pytest.approx(0.5229, abs=1e-4)
    assert value(only(matrix(rated(0.1, 0.8, 90))), "budget") == 0


def test_an_attack_that_never_works_has_risk_1_and_says_so() -> None:
    failed = attacked(status="failed", error="ASR is 12 %", attack=0.12)
    row = only(matrix(failed))
    assert (row.risk.value, row.risk.high, row.shown, row.words) == (1, 1, False, "not shown to work here")
    assert row.missing == ()
    half = only(matrix([*attacked(seeds=(0, 1)), *attacked(seeds=(2,), status="failed", attack=0.12)]))
    assert value(half, "works") == pytest.approx(2 / 3)
    assert 1 < half.risk.value < only(matrix(attacked())).risk.value
    assert half.bands[0] == "low"
    assert half.words == f"{half.band} (low-critical)"


def test_a_block_in_which_it_fails_is_named_and_lowers_how_often_it_works() -> None:
    there = attacked(status="failed", attack=0.1)
    for record in there:
        record.spec["model"] = {"name": "resnet18"}
    row = only(matrix([*attacked(), *(replace(record, key=record.key + "r") for record in there)]))
    assert row.failed == ("resnet18",)
    assert value(row, "works") == pytest.approx(0.5)
    assert value(row, "transport") == 1
    assert (row.risk.low, row.seeds) == (1, 3)


@pytest.mark.parametrize("stage", ["abl", "anp", "strip", "shrink_pad", "spectral_signatures", "neural_cleanse"])
@pytest.mark.parametrize("left", [0.05, 0.95])
def test_another_defence_never_raises_the_impact(stage: str, left: float) -> None:
    """Not even one that does worse than those of other stages."""
    evidence = {"strip": (SEEN,), "neural_cleanse": (ALARM,)}.get(stage, ())
    before = [*attacked(), *repaired()]
    more = attacked(defense=stage if stage != "anp" else {"name": "nad"}, attack=left, evidence=evidence,
                    columns={"psnr": 20.0, "ssim": 0.8} | ({"accepted": left} if stage == "strip" else {}))
    first, second = only(matrix(before)), only(matrix([*before, *more]))
    assert second.impact.value <= first.impact.value + 1e-9
    assert second.likelihood.value <= first.likelihood.value + 1e-9


def test_data_stages_are_no_stages_of_whoever_gets_a_model() -> None:
    records = [*attacked(), *repaired()]
    for record in records:
        record.spec["attack"] = {"name": "wanet", "goal": {"name": "all_to_one", "target_class": 0}}
    row = only(matrix(records))
    assert value(row, "stages") == pytest.approx((3 + 0.4) / 4)
    assert row.ingredients["budget"].value is None
    assert value(row, "access") == 0.5
    assert not any("filter" in str(need) or "poisoning rate" in str(need) for need in row.missing)


@pytest.mark.parametrize(("attack", "threat"), [
    ({"name": "badnets"}, ("data", False, False, False, "any")),
    ({"name": "sig"}, ("data", True, False, False, "any")),
    ({"name": "narcissus"}, ("data", True, True, False, "any")),
    ({"name": "lira"}, ("training", False, False, True, "any")),
    ({"name": "poison_ink"}, ("data", False, False, True, "any")),
    ({"name": "tact", "source_classes": [1]}, ("data", False, False, False, "some_classes")),
    ({"name": "badnets", "goal": {"name": "untargeted"}}, ("data", False, False, False, "untargeted")),
    ({"name": "physical", "attack": {"name": "issba", "goal": {"name": "from_classes"}}},
     ("training", False, False, True, "some_classes")),
    ({"name": "physical_copies", "attack": {"name": "badnets"}}, ("data", False, False, False, "any")),
    ({"name": "clean_label", "attack": {"name": "lf"}}, ("data", True, True, False, "any")),
    ({"name": "key_watermark"}, ("data", False, False, False, "positive")),
    ({"name": "heuristic_reconstruction"}, ("data", False, False, False, "any")),
    ({"name": "blo"}, ("data", False, True, False, "any")),
    ({"name": "forgotten"}, ("", False, False, False, "any")),
])
def test_the_threat_model_is_what_the_code_declares(attack: dict[str, Any], threat: tuple[Any, ...]) -> None:
    assert tuple(vars(threat_of(attack)).values()) == threat


def test_a_surrogate_of_another_architecture_costs_nothing() -> None:
    records = attacked()
    for record in records:
        record.spec["attack"] = {"name": "narcissus"}
    assert value(only(matrix(records)), "access") == pytest.approx(0.8)
    for record in records:
        record.spec["surrogate"] = {"name": "resnet18"}
    assert value(only(matrix(records)), "access") == pytest.approx(1.0)


def test_watermarks_have_a_panel_of_their_own() -> None:
    records = attacked()
    test = Verdict(9.0, 1e-6, 0.9, 0.97, 100, 0.01, "the model owes nothing to the data", method="keys")
    for record in records:
        record.spec["attack"] = {"name": "key_watermark", "goal": {"name": "secret_labels", "keys": 8}}
    row = only(matrix([replace(record, evidence=(test,)) for record in records]))
    assert (row.positive, row.benefit, value(row, "target")) == (True, 0.97, 0)
    assert row.impact.value == pytest.approx(1 + 4 * 0.8)
    text = "\n".join(lines(matrix(records)))
    assert "not in the records" in text
    assert "No record is of an attack that harms." in text


def whole_specs(records: list[Record]) -> list[Record]:
    """The records with the specifications that runs write."""
    full = [Spec(data="digits", model="small_cnn", attack=record.spec["attack"], defense=record.spec["defense"],
                 seed=record.spec["seed"], defender_share=0.15).to_json() for record in records]
    return [replace(record, spec=json.loads(json.dumps(spec))) for record, spec in zip(records, full, strict=True)]


def test_missing_runs_are_files_that_a_sweep_takes() -> None:
    records = whole_specs([*attacked(), *attacked(1), *repaired(), *attacked(defense="flip", attack=0.9)])
    files = files_of([need for row in matrix(records).rows for need in row.missing])
    assert sorted(files) == ["data.toml", "rates.toml"]
    cells = grid(tomllib.loads(files["data.toml"]))
    # What has been run is among them with the same specification, so that a sweep finds its record.
    known = [record.spec for record in records]
    assert sum(spec.to_json() in known for spec in cells) == 2 * 3
    assert {spec.defense_name for spec in cells} == {
        "flip", "shrink_pad", "jpeg", "rotation", "print_capture", "spectral_signatures", "abl", "anp",
        "neural_cleanse", "strip"}
    assert {spec.seed for spec in cells} == set(SEEDS)
    rates = grid(tomllib.loads(files["rates.toml"]))
    assert sorted({spec.attack["rate"] for spec in rates if spec.attack}) == [0.001, 0.003, 0.01, 0.03]
    assert {spec.defense_name for spec in rates} == {"none"}
    assert len(rates) == 2 * 4 * 3


def test_once_they_are_run_nothing_is_missing() -> None:
    """Also where a defence was refused, and rates below the highest that fails are not asked for."""
    done = [*attacked(), *repaired(), *attacked(defense="neural_cleanse", evidence=(ALARM,)),
            *attacked(defense="abl", status="not applicable", error="none", undefended=None),
            *attacked(defense="strip", evidence=(SEEN,)),
            *attacked(defense="spectral_signatures", evidence=(replace(SEEN, removed_poisoned=0.9),))]
    for name, given in (("flip", {}), ("shrink_pad", {"shrink": 2}), ("jpeg", {"quality": 75}), ("rotation", {}),
                        ("print_capture", {"strength": 0.5})):
        done += attacked(defense={"name": name, **given}, attack=0.9)
    row = next(row for row in matrix([*done, *rated(0.03, 0.5, 27)]).rows)
    assert [str(need) for need in row.missing] == []
    tried = next(row for row in matrix([*done, *rated(0.01, 0.5, 9)]).rows)
    assert [str(need) for need in tried.missing] == ["success at a poisoning rate of 0.03"]
    assert files_of([]) == {}


def test_weights_of_a_file_replace_some(tmp_path: Path) -> None:
    file = tmp_path / "weights.toml"
    file.write_text("[likelihood]\naccess = 0\n[bands]\ncritical = 24\n")
    weights = weights_of(file)
    assert weights.likelihood == {"access": 0, "budget": 1, "stealth": 1, "transport": 1}
    row = only(matrix(attacked(), weights))
    assert row.likelihood.value == pytest.approx(1 + 4 * (0.52288 + 0.76667 + 1) / 3, abs=1e-4)
    assert row.band == "high"


@pytest.mark.parametrize(("text", "said"), [
    ("[likelyhood]\n", "did you mean likelihood"), ("[impact]\nworst = 1\n", "unknown weight of impact 'worst'"),
    ("impact = 3\n", "expected a table"), ("[impact]\nleast = -1\n", "at least 0"),
    ("[impact]\nleast = nan\n", "at least 0"),
    ("[bands]\nmedium = 20\n", "medium <= high"), ("[impact]\nstages = 0\nleast = 0\ntarget = 0\n", "all weights"),
    ("[", "cannot read the weights")])
def test_odd_weights_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "weights.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        weights_of(tmp_path / "weights.toml")


def test_the_page_links_every_record_and_names_what_is_missing(tmp_path: Path) -> None:
    records = whole_specs([*attacked(), *attacked(1, attack=0.95), *repaired()])
    for record in records:
        record.spec["data"]["path"] = "</script><b>"
    found = matrix(records)
    shown = page(found, tmp_path / "runs", tmp_path / "pages" / "risk.html")
    for record in records:
        assert f'href="../runs/results/{record.key}.json"' in shown
    assert shown.count('class="attack"') == 2
    assert "<b>" not in shown
    assert "src=" not in shown
    assert "success after rotation" in shown
    assert found.sensitivity is not None
    assert json.dumps(found.to_json(), allow_nan=False)


def test_the_map_places_attacks_and_bands_by_their_numbers() -> None:
    found = matrix([*attacked(), *repaired()])
    svg = heat(found.rows, found.weights)
    row = only(found)
    (dot,) = re.findall(r'<circle class="attack" cx="([\d.]+)" cy="([\d.]+)"', svg)
    # 380 units from 1 to 5, from 40 to the right and from 388 upwards.
    assert float(dot[0]) == pytest.approx(40 + 95 * (row.likelihood.value - 1), abs=0.06)
    assert float(dot[1]) == pytest.approx(388 - 95 * (row.impact.value - 1), abs=0.06)
    two = matrix([*attacked(), *attacked(1), *attacked(2, attack=0.3)])
    numbers = [(float(x), float(y)) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>[123]</text>',
                                                          str(heat(two.rows, two.weights)))[-3:]]
    assert numbers[0][0] == numbers[1][0]
    assert numbers[1][1] - numbers[0][1] == pytest.approx(8.5, abs=0.06)  # the same dot, and no number over another
    bands = re.findall(r'class="band" d="M([^V]+)V', svg)
    middle = [[tuple(map(float, point.split(","))) for point in band.split("L")][20] for band in bands]
    assert middle == [(230.0, pytest.approx(388 - 95 * (bound - 1), abs=0.06)) for bound in (1, 2, 4, 5)]


def test_a_store_without_attacks_is_refused() -> None:
    clean = cell(0, 0)
    clean.spec["attack"] = None
    with pytest.raises(CannotComplete, match="no record is of an attack"):
        matrix([clean])
