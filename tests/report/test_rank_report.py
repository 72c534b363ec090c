"""The ranking of a store: what counts, what is left out and named, and what it says it cannot say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from benchmark import BEFORE, benchmark, cell

from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.evidence import Calibrated, Finding, Separation
from sidedoor.metrics import comparison
from sidedoor.report.critical import diagram, file_of
from sidedoor.report.outcomes import Numbers, outcomes
from sidedoor.report.ranking import Line, Ranking, rank
from sidedoor.report.ranking_text import lines

DEFENSES = {"fine_tuning": lambda a, s: 0.5 + 0.01 * a + 0.02 * s, "anp": lambda a, s: 0.1 + 0.011 * a,
            "nad": lambda a, s: 0.3 + 0.02 * (a % 2)}
RECORDS = benchmark(DEFENSES)


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Intervals have tests of their own."""
    before, comparison.DRAWS = comparison.DRAWS, 100
    yield
    comparison.DRAWS = before


@pytest.fixture(scope="module")
def found() -> Ranking:
    return rank(RECORDS)


def of(ranking: Ranking, method: str) -> Line:
    return next(line for line in ranking.lines if line.method == method)


def test_methods_are_ranked_over_blocks_of_seeds(found: Ranking) -> None:
    assert found.ranked == {"anp": 1.0, "nad": 2.0, "fine_tuning": 3.0}
    assert (len(found.field.blocks), found.field.seeds) == (6, (3, 3))
    assert of(found, "anp").standing == (1.0, 1.0, 1.0, 1.0)
    # chi2_F of three methods in the same order in six blocks is at its largest, n (k - 1).
    assert found.test is not None
    assert found.test.chi2 == pytest.approx(12)
    assert found.difference == pytest.approx(2.343 * (3 * 4 / 36) ** 0.5, abs=2e-3)


def test_means_are_of_blocks(found: Ranking) -> None:
    anp = of(found, "anp")
    assert anp.left is not None
    assert anp.left[0] == pytest.approx(0.1 + 0.011 * 2.5)
    assert anp.net is not None
    assert anp.net[0] == pytest.approx(0.9 - 0.011 * 2.5)
    assert anp.der is not None
    assert anp.der[0] == pytest.approx((1.9 - 0.011 * 2.5) / 2)
    assert anp.worst == ("badnets (size=7)", pytest.approx(0.845))


def test_all_are_compared_with_the_baseline(found: Ranking) -> None:
    anp, nad = of(found, "anp").versus, of(found, "nad").versus
    assert anp is not None
    assert nad is not None
    assert (anp.blocks, anp.p, anp.adjusted) == (6, pytest.approx(2 / 64), pytest.approx(4 / 64))
    assert of(found, "fine_tuning").versus is None
    assert all(line.versus is None for line in rank(RECORDS, baseline="clp").lines)
    assert any("clp has no result here" in limit for limit in rank(RECORDS, baseline="clp").limits)


def test_it_may_be_ranked_by_another_number() -> None:
    costly = [replace(r, clean=0.6) if r.defense_name == "anp" else r for r in RECORDS]
    assert list(rank(costly, "asr").ranked) == ["anp", "nad", "fine_tuning"]
    # 0.3 of accuracy lost: 0.5725 is less than 0.69.
    assert list(rank(costly, "net").ranked) == ["nad", "anp", "fine_tuning"]
    with pytest.raises(ConfigError, match="number to rank by 'aac'"):
        rank(RECORDS, "aac")


def test_few_blocks_have_no_test_and_it_says_so() -> None:
    few = rank(benchmark(DEFENSES, attacks=5, seeds=[0]))
    assert (few.test, few.difference) == (None, None)
    assert few.ranked["anp"] == 1
    assert any("5 blocks of 3 methods: no test; one takes 6" in limit for limit in few.limits)
    assert any("Some blocks have 1 seed:" in limit for limit in few.limits)
    versus = of(few, "anp").versus
    assert versus is not None
    assert versus.p is None
    assert "No test against fine_tuning: 5 blocks in common" in "\n".join(lines(few))


def test_failed_attacks_are_in_no_mean_and_shown() -> None:
    records = [replace(r, status="failed", error="ASR is 12 %") if r.spec["attack"]["size"] == 7 else r
               for r in RECORDS]
    found = rank(records)
    assert len(found.field.blocks) == 5
    assert of(found, "anp").cells["attack failed"] == 3
    assert any("Cells whose attack failed" in limit for limit in found.limits)
    assert "anp: 3 attack failed (attack failed: ASR is 12 %)" in "\n".join(lines(found))


def test_broken_cells_count_as_no_effect_in_the_second_mean_only() -> None:
    records = [replace(r, status="timeout", error="gave up after 9 s", undefended=None, attack=None)
               if r.defense_name == "anp" and r.spec["attack"]["size"] == 2 else r for r in RECORDS]
    found = rank(records)
    anp = of(found, "anp")
    assert anp.cells["timeout"] == 3
    assert anp.der is not None
    others = [(1.9 - 0.011 * a) / 2 for a in range(1, 6)]
    assert anp.der[0] == pytest.approx(sum(others) / 5)
    assert anp.der_all == pytest.approx((0.5 + sum(others)) / 6)
    assert len(found.field.blocks) == 5
    assert found.field.left_out == ("badnets (size=2)",)
    text = "\n".join(lines(found))
    assert "anp: 3 timeout (timeout: gave up after 9 s)" in text
    assert "Left out of the ranks, since some ranked method has no seed in common with the others there: bad" in text


def test_a_crash_on_an_attack_that_failed_is_no_crash_of_the_defence() -> None:
    records = [replace(r, status="failed", error="ASR is 12 %") if r.spec["attack"]["size"] == 2 else r
               for r in RECORDS]
    records = [replace(r, status="error", error="died", undefended=None) if r.key == "anp-0-1" else r for r in records]
    anp = of(rank(records), "anp")
    assert (anp.cells["error"], anp.cells["attack failed"]) == (0, 3)
    assert anp.der is not None
    assert anp.der_all == pytest.approx(anp.der[0])


def test_a_method_that_refuses_is_named() -> None:
    records = [*RECORDS, *(cell(a, s, "clp", status="not applicable", error="no batch norm", undefended=None)
                           for a in range(6) for s in range(3))]
    clp = of(rank(records), "clp")
    assert (clp.standing, clp.unranked) == (None, "refused: no batch norm")
    some = [r for r in RECORDS if r.defense_name != "nad" or r.spec["attack"]["size"] > 3]
    nad = of(rank(some), "nad")
    assert nad.unranked == "it has no result in 2 of 6 blocks"
    assert nad.net is not None
    assert list(rank(some).ranked) == ["anp", "fine_tuning"]
    assert "nad (repair): it has no result in 2 of 6 blocks" in "\n".join(lines(rank(some)))
    late = [replace(r, status="timeout", error="late", undefended=None)
            if r.defense_name == "nad" and r.spec["attack"]["size"] < 4 else r for r in RECORDS]
    assert "nad: 6 timeout (timeout: late)" in "\n".join(lines(rank(late)))


def test_an_audit_is_no_method_of_a_ranking() -> None:
    audit = cell(0, 0, "neural_cleanse", evidence=(Calibrated(Finding(1.0), (0.5,), ("x",)),))
    line = of(rank([*RECORDS, audit]), "neural_cleanse")
    assert (line.standing, line.unranked) == (None, "it is an audit, which changes nothing")


def test_a_detector_stands_beside_repairs_end_to_end() -> None:
    seen = Separation(tpr_at_5=0.75, fpr_at_5=0.1)
    (found,) = outcomes([cell(0, 0, "strip", evidence=(seen,), columns={"accepted": 0.2})])
    assert found.before == Numbers(0.9, 1.0, 0.0)
    assert found.after is not None
    assert found.after[:2] == pytest.approx((0.81, 0.2))
    assert found.net == pytest.approx(0.8 - 0.09)
    (old,) = outcomes([cell(0, 0, "strip", evidence=(seen,))])
    assert old.left == pytest.approx(0.25)
    # A filter separates, too, but what it delivers is a model.
    removing = replace(seen, removed_poisoned=0.9, removed_clean=0.1)
    (filtered,) = outcomes([cell(0, 0, "spectral_signatures", evidence=(removing,), attack=0.4, recovered=0.5)])
    assert filtered.after == Numbers(0.9, 0.4, 0.5)
    assert filtered.net == pytest.approx(0.5)


def test_a_pipeline_is_a_method_and_an_unknown_one_has_no_stage() -> None:
    pair = cell(0, 0, attack=0.2, undefended=BEFORE)
    pair.spec["defense"] = [{"name": "fine_pruning"}, {"name": "strip"}]
    gone = cell(0, 0, "forgotten", attack=0.5)
    assert [(each.method, each.stage) for each in outcomes([pair, gone])] == [
        ("fine_pruning+strip", "pipeline"), ("forgotten", "unknown")]


def test_nothing_to_rank_is_said() -> None:
    with pytest.raises(CannotComplete, match="no record is of an attack with a defence"):
        rank([cell(0, 0)])


def test_json_has_numbers_only(found: Ranking) -> None:
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["test"]["f"] is None  # infinite: the order is the same in all blocks
    assert [line["method"] for line in written["methods"]] == ["anp", "nad", "fine_tuning"]
    assert written["methods"][0]["standing"]["rank"] == 1


def test_names_of_unknown_origin_are_printed_as_escapes() -> None:
    records = benchmark({"fine_tuning": DEFENSES["fine_tuning"]}, attacks=1, seeds=[0])
    records += [cell(0, 0, "odd\x1b[31m", attack=0.5, recovered=0.5)]
    assert "\x1b" not in "\n".join(lines(rank(records)))


def test_the_diagram_places_methods_by_rank_and_joins_what_is_not_told_apart() -> None:
    svg = diagram({"C4.5": 3.143, "C4.5+m": 2.0, "C4.5+cf": 2.893, "<script>": 1.964}, 1.0)
    starts = [float(x) for x in re.findall(r'<path d="M([\d.]+),34\.0V', svg)]
    assert starts == sorted(starts)
    scale = (starts[3] - starts[0]) / (3.143 - 1.964)
    assert [(x - starts[0]) / scale for x in starts] == pytest.approx([0, 0.036, 0.929, 1.179], abs=2e-3)
    runs = [tuple(map(float, run)) for run in re.findall(r'class="run" d="M([\d.]+),[\d.]+H([\d.]+)"', svg)]
    assert runs == [(pytest.approx(starts[0] - 2, abs=0.2), pytest.approx(starts[2] + 2, abs=0.2)),
                    (pytest.approx(starts[2] - 2, abs=0.2), pytest.approx(starts[3] + 2, abs=0.2))]
    ruler = re.search(r'class="difference" d="M([\d.]+),9v4m0,-2H([\d.]+)', svg)
    assert ruler is not None
    assert float(ruler[2]) - float(ruler[1]) == pytest.approx(scale, abs=0.3)
    assert "<script" not in svg
    assert "&lt;script&gt; 1.96" in svg
    assert file_of(svg).startswith('<svg xmlns="http://www.w3.org/2000/svg"')
