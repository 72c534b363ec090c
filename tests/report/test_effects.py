"""What a defence changed, as tables and spreadsheets have it; and pairs that are not applicable."""

from __future__ import annotations

import base64
import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from fabricated import SPEC, make_record

from sidedoor.bench.record import NOT_APPLICABLE, Record
from sidedoor.bench.store import Store
from sidedoor.evidence import Separation
from sidedoor.report import html, markdown, overview, spreadsheet
from sidedoor.report.tables import aggregate, summary_rows

UNDEFENDED = {"clean": 0.9, "attack": 0.8, "recovered": 0.1, "idle": 0.02}


def repaired(seed: int, **values: Any) -> Record:
    """ASR 80 → 20 %, C-Acc 90 → 85 %, R-Acc 10 → 50 %."""
    given: dict[str, Any] = {"clean": 0.85, "attack": 0.2, "recovered": 0.5} | values
    return make_record(f"r{seed}", seed, "fine_tuning", undefended=UNDEFENDED, **given)


def detected(**values: Any) -> Record:
    separation = Separation(auroc=0.9, tpr_at_1=0.5, fpr_at_1=0.01, tpr_at_5=0.7, fpr_at_5=0.04, n_positive=9,
                            n_negative=9)
    return make_record("d", 0, "strip", undefended=UNDEFENDED, evidence=(separation,), columns={"accepted": 0.3},
                       **values)


def refused(key: str = "n") -> Record:
    return replace(make_record(key, 0, "abl"), status=NOT_APPLICABLE, error="abl works on training data", clean=None,
                   attack=None, recovered=None, idle=None, undefended=None)


def test_a_repair_has_der_net_and_what_it_regained() -> None:
    (row,) = summary_rows([repaired(0)])
    assert row.effect["der"] == pytest.approx((0.6 - 0.05 + 1) / 2)
    assert row.effect["net"] == pytest.approx(0.4 - 0.05)  # less was regained than the attack fell
    assert row.effect["regained"] == pytest.approx(0.4)


def test_a_detector_is_taken_end_to_end() -> None:
    (row,) = summary_rows([detected()])
    assert row.effect["der"] == pytest.approx((0.5 - 0.9 * 0.04 + 1) / 2)
    assert row.effect["net"] == pytest.approx(0.5 - 0.9 * 0.04)
    assert row.effect["regained"] is None
    assert row.detection["accepted"] == 0.3


@pytest.mark.parametrize("record", [make_record("u"), repaired(0, status="failed"), refused(),
                                    make_record("c", 0, "fine_tuning", undefended=None)], ids=str)
def test_what_has_no_defended_numbers_has_no_effect(record: Record) -> None:
    (row,) = summary_rows([record])
    assert set(row.effect.values()) == {None}


def test_of_a_clean_model_nothing_is_rated() -> None:
    record = replace(repaired(0), spec=SPEC | {"attack": None, "defense": {"name": "fine_tuning"}})
    assert set(summary_rows([record])[0].effect.values()) == {None}


def test_a_loss_keeps_its_sign_in_means_and_intervals() -> None:
    worse = [repaired(seed, clean=0.5 + 0.01 * seed, attack=0.8, recovered=0.1) for seed in range(3)]
    (group,) = aggregate(worse)
    mean, low, high = group.figures["net"]
    assert mean == pytest.approx(-0.39)
    assert low is not None
    assert high is not None
    assert -1 <= low < mean < high < 0
    assert group.figures["der"][0] == pytest.approx((1 - 0.39) / 2)
    assert group.figures["regained"][0] == pytest.approx(0)


def test_the_markdown_table_has_them_and_says_what_is_not_applicable() -> None:
    text = markdown.table([make_record("u"), repaired(0), detected(), refused()])
    head, _, *lines = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|"))
    rows = {line[1]: dict(zip(head, line, strict=False)) for line in lines}
    assert (rows["fine_tuning"]["DER %"], rows["fine_tuning"]["Net %"]) == ("77.5", "35.0")
    assert rows["fine_tuning"]["R-Acc gained %"] == "40.0"
    assert (rows["strip"]["DER %"], rows["strip"]["R-Acc gained %"]) == ("73.2", "")
    assert [rows["abl"][name] for name in ("Seeds", "Left out", "C-Acc %", "ASR %", "R-Acc %", "Idle %")] == \
        ["0", "1", "n/a", "n/a", "n/a", "n/a"]
    assert "badnets / abl: not applicable: abl works on training data" in text
    assert "n/a" not in markdown.table([repaired(0, status="failed")])


def table(uri: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(base64.b64decode(uri.partition("base64,")[2]).decode())))


def test_spreadsheets_have_them() -> None:
    records = [repaired(0), repaired(1), detected()]
    runs = {row["key"]: row for row in table(spreadsheet.of_rows(summary_rows(records)))}
    assert [runs["r0"][name] for name in ("der", "net", "regained", "accepted")] == ["0.775", "0.35", "0.4", ""]
    assert [runs["d"][name] for name in ("net", "regained", "accepted")] == ["0.464", "", "0.3"]
    means = {row["defence_name"]: row for row in table(spreadsheet.of_groups(aggregate(records)))}
    assert [means["fine_tuning"][name] for name in ("net", "net_low", "seeds")] == ["0.35", "0.35", "2"]


def test_the_matrix_says_where_a_pair_is_not_applicable() -> None:
    other = SPEC | {"attack": SPEC["attack"] | {"name": "wanet"}, "defense": {"name": "abl"}}
    records = [replace(repaired(0), spec=SPEC | {"defense": {"name": "abl"}}),
               replace(refused(), spec=other),
               replace(repaired(1), key="f", spec=other | {"defense": {"name": "fine_tuning"}})]
    matrix = overview.matrix(aggregate(records))
    assert matrix is not None
    rows = {row["attack_name"]: row for row in table(spreadsheet.of_matrix(matrix))}
    assert rows["wanet"]["abl"] == NOT_APPLICABLE
    assert rows["badnets"]["fine_tuning"] == ""
    assert rows["badnets"]["abl"] == "0.2"


def test_the_page_has_columns_for_them_and_the_reason_of_a_refusal(tmp_path: Any) -> None:
    records = [make_record("u"), repaired(0), repaired(1), detected(), refused()]
    store = Store(tmp_path)
    for record in records:
        store.put(record)
    page = html.build(store)
    assert page.count('<th class="n">DER</th><th class="n">Net</th><th class="n">R-Acc gained</th>') == 2
    assert '<td class="n">77.5</td><td class="n">35.0</td><td class="n">40.0</td>' in page
    assert "DER, net, R-Acc gained" in page
    plain = html.build(store, ["u"])
    assert "<th class=\"n\">DER</th>" not in plain
    assert "DER, net" not in plain
