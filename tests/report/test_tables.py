"""Rows and aggregates against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fabricated import SPEC, make_record

from sidedoor.bench.record import Record
from sidedoor.evidence import Calibrated, Finding, Rule
from sidedoor.report.markdown import table
from sidedoor.report.tables import Aggregate, aggregate, audited, duration, note_on_seeds, percent, summary_rows


def test_rows_put_each_attack_before_its_defences(records: list[Record]) -> None:
    rows = summary_rows(records[::-1])
    assert [row.record.key for row in rows] == [
        "seed0", "broken", "repair", "unsuited", "audit", "filter", "detector", "seed1", "seed2"]
    assert [row.status for row in rows if row.seed == 2] == ["attack failed"]


def test_a_run_that_broke_early_stands_with_its_model(records: list[Record]) -> None:
    found = {row.record.key: row for row in summary_rows(records)}
    assert found["broken"].model == found["unsuited"].model == "planted0"
    assert found["unsuited"].status == "not applicable"


def test_before_and_after_only_where_a_defence_changed_the_system(records: list[Record]) -> None:
    means = {row.record.key: row.means for row in summary_rows(records)}
    attack = means["repair"]["attack"]
    assert (attack.before, attack.after, attack.changed, attack.interval) == (0.8, 0.05, True, (0.75, 0.85))
    # Idle stayed the same, but the system is another one.
    assert means["repair"]["idle"].changed
    assert not means["detector"]["attack"].changed
    assert not means["seed0"]["attack"].changed


def test_what_a_detector_accepts_stands_beside_its_rates(records: list[Record]) -> None:
    detection = {row.record.key: row.detection for row in summary_rows(records)}
    assert (detection["detector"]["tpr_at_5"], detection["detector"]["accepted"]) == (0.5, 0.375)
    assert detection["filter"]["accepted"] is None
    found = next(group for group in aggregate(records) if group.label.defense == "strip")
    assert found.figures["accepted"][0] == 0.375
    heading, _, *lines = table(records).splitlines()
    columns = [cell.strip() for cell in heading.split("|")]
    (line,) = (line for line in lines if "strip" in line)
    assert [cell.strip() for cell in line.split("|")][columns.index("ASR %, accepted")] == "37.5"


def test_aggregate_is_the_mean_of_done_cells_and_of_two_seeds_the_range(records: list[Record]) -> None:
    alone = next(group for group in aggregate(records) if group.label.defense == "none")
    assert [record.key for record in alone.done] == ["seed0", "seed1"]
    assert [record.key for record in alone.left_out] == ["seed2"]
    # The t interval of 0.9 and 0.8 would be 0.85 ± 0.64.
    assert alone.figures["clean"] == pytest.approx((0.85, 0.8, 0.9))
    assert alone.figures["attack"] == pytest.approx((0.9, 0.8, 1.0))
    assert alone.figures["clean_model"][0] == pytest.approx(0.91)
    assert "auroc" not in alone.figures


def test_three_seeds_have_a_t_interval_that_stays_where_shares_are() -> None:
    (group,) = aggregate([make_record(f"s{n}", n, clean=clean, attack=attack)
                          for n, (clean, attack) in enumerate([(0.5, 0.9), (0.6, 0.96), (0.7, 1.0)])])
    # Of 0.5, 0.6 and 0.7: s = 0.1, standard error 0.057735, and t(0.975, 2) = 4.302653.
    assert group.figures["clean"] == pytest.approx((0.6, 0.6 - 0.248414, 0.6 + 0.248414), abs=1e-6)
    # Of 0.9, 0.96 and 1: the mean is 0.95333 and the half 0.12503, which leaves [0, 1] above.
    assert group.figures["attack"] == pytest.approx((0.953333, 0.828301, 1.0), abs=1e-5)


def test_intervals_of_one_run_stay_where_shares_are() -> None:
    """Student's interval over few photographs does not."""
    (row,) = summary_rows([make_record("a", intervals={"clean": (0.7, 1.08), "attack": (-0.2, 0.5)})])
    assert (row.means["clean"].interval, row.means["attack"].interval) == ((0.7, 1.0), (0.0, 0.5))


def test_the_note_says_what_is_in_brackets() -> None:
    def groups(**seeds: int) -> list[Aggregate]:
        return aggregate([make_record(f"{name}{n}", n, name) for name, count in seeds.items() for n in range(count)])

    assert note_on_seeds(groups(strip=1)) == ""
    assert note_on_seeds(groups(strip=2, abl=1)) == "In brackets: the range of 2 seeds; an interval takes 3."
    interval = "In brackets: the 95 % Student t interval over seeds, within the possible range"
    assert note_on_seeds(groups(strip=3)) == f"{interval}."
    assert note_on_seeds(groups(strip=4, abl=2)) == f"{interval}; where there are 2 seeds, their range."


def test_aggregate_of_one_seed_or_none_done(records: list[Record]) -> None:
    groups = {group.label.defense: group for group in aggregate(records)}
    assert groups["fine_pruning"].figures["attack"] == (0.05, None, None)
    assert groups["fine_pruning"].figures["attack_before"] == (0.8, None, None)
    assert groups["neural_cleanse"].figures["flagged"] == (1.0, None, None)
    assert groups["neural_cleanse"].figures["p"] == (pytest.approx(1 / 3), None, None)
    for name in ("abl", "gate_pruning"):
        assert groups[name].figures == {}
        assert len(groups[name].left_out) == 1


def test_before_is_averaged_over_the_same_seeds_as_after() -> None:
    """Also over a seed on which the defence did nothing."""
    before = {"clean": 0.9, "attack": 0.8, "recovered": 0.1, "idle": 0.02}
    repaired = [make_record("a", 0, "x", undefended=before),
                make_record("b", 1, "x", undefended=before | {"attack": 1.0}, attack=0.0)]
    (group,) = aggregate(repaired)
    assert group.figures["attack_before"][0] == pytest.approx(0.9)
    assert group.figures["attack"][0] == pytest.approx(0.4)
    (untouched,) = aggregate(repaired[:1])
    assert "attack_before" not in untouched.figures


def test_records_that_differ_in_more_than_the_seed_are_not_averaged() -> None:
    other = SPEC | {"seed": 1, "attack": SPEC["attack"] | {"rate": 0.01}}
    groups = aggregate([make_record("a"), replace(make_record("b", 1), spec=other), make_record("c", 2)])
    assert [[r.key for r in group.done] for group in groups] == [["b"], ["a", "c"]]
    assert [group.label.attack for group in groups] == ["badnets (rate=0.01)", "badnets (rate=0.1)"]


def test_audits_in_words() -> None:
    flagged = Finding(3.0, Rule(3.0, 2.0), (3,))
    assert audited(Calibrated(flagged, (0.1, 4.0))) == "flagged, class 3; within 2 clean"
    assert audited(Calibrated(flagged, (0.1, 0.2))) == "flagged, class 3; above all 2 clean"
    assert audited(Calibrated(Finding(1.0, Rule(1.0, 2.0), (3,)))) == "not flagged"
    assert audited(Calibrated(Finding(1.0, suspected=(3, 5)), (2.0,))) == "classes 3, 5; within 1 clean"


def test_numbers_for_people() -> None:
    assert [percent(v) for v in (0.98765, 1.0, None, float("nan"))] == ["98.8", "100.0", "–", "–"]
    assert [duration(v) for v in (0.94, 63.2, 240, 9000)] == ["0.9 s", "63 s", "4 min", "2.5 h"]
