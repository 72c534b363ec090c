"""The Markdown table holds the means, and only columns that have values."""

from __future__ import annotations

from dataclasses import replace

from sidedoor.bench.record import Record
from sidedoor.report.markdown import escaped, table


def record(seed: int, attack: float, status: str = "done", psnr: float | None = 20.0) -> Record:
    spec = {"attack": {"name": "bad|nets"}, "defense": None, "seed": seed}
    return Record(key=str(seed), planted="p", spec=spec, status=status, clean=0.9, attack=attack, recovered=0.1,
                  idle=0.02, clean_means={"clean": 0.91, "attack": 0.01}, columns={"psnr": psnr},
                  timing={"attack": 30.0})


def rows(text: str) -> list[dict[str, str]]:
    lines = [line.strip("| \n").replace("\\|", "/").split(" | ") for line in text.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_means_over_two_seeds_with_their_range() -> None:
    text = table([record(0, 0.8), record(1, 1.0)])
    (row,) = rows(text.partition("\n\n")[0])
    assert text.endswith("|\n\nIn brackets: the range of 2 seeds; an interval takes 3.\n")
    assert row["Attack"] == "bad/nets"
    assert row["Seeds"] == "2"
    assert row["ASR %"] == "90.0 [80.0, 100.0]"
    assert row["Clean model: ASR %"] == "1.0"
    assert row["PSNR dB"] == "20.0"


def test_means_over_three_seeds_with_their_interval() -> None:
    (row,) = rows(table([record(0, 0.5), record(1, 0.6), record(2, 0.7)]).partition("\n\n")[0])
    assert row["ASR %"] == "60.0 [35.2, 84.8]"


def test_failed_cells_are_counted_but_not_averaged() -> None:
    (row,) = rows(table([record(0, 0.8), record(1, 0.1, status="failed")]))
    assert (row["Seeds"], row["Left out"], row["ASR %"]) == ("1", "1", "80.0")


def test_the_strength_of_a_repair_stands_beside_the_oracles() -> None:
    columns = {"strength": 0.25, "oracle_strength": 0.5, "oracle_clean": 0.812, "oracle_attack": 0.034}
    repaired = record(0, 0.8)
    (row,) = rows(table([replace(repaired, columns=repaired.columns | columns)]))
    assert [row[name] for name in ("Strength", "Oracle's strength", "Oracle: C-Acc %", "Oracle: ASR %")] \
        == ["0.250", "0.500", "81.2", "3.4"]
    assert "Oracle" not in table([repaired])


def test_columns_without_a_value_are_left_out() -> None:
    assert "PSNR" not in table([record(0, 0.8, psnr=None)])
    assert "AUROC" not in table([record(0, 0.8)])


def test_cells_that_are_not_applicable_are_listed_with_the_reason_once() -> None:
    unsuited = [record(seed, 0.8, status="not applicable") for seed in (1, 2)]
    gates = {"defense": {"name": "gates"}}
    unsuited = [replace(r, error="no batch norm to prune", spec=r.spec | gates) for r in unsuited]
    text = table([record(0, 0.8), *unsuited])
    assert text.endswith("|\n\n- bad\\|nets / gates: not applicable: no batch norm to prune\n")
    assert "| gates | 0 | 2 |" in text


def test_names_and_reasons_show_as_they_are() -> None:
    hostile = "a|b`c` <script>\n# x\x1b[31m [l](u) *_s_* small_cnn \udcdf"
    shown = r"a\|b\`c\` &lt;script&gt;\\n# x\\x1b\[31m \[l\](u) \*\_s\_\* small_cnn \\udcdf"
    assert escaped(hostile) == shown
    cell = replace(record(0, 0.8), spec={"attack": {"name": hostile}, "defense": None, "seed": 0})
    assert f"| {shown} | none |" in table([cell])
    unsuited = replace(cell, status="not applicable", error=hostile)
    assert f"- {shown} / none: not applicable: {shown}\n" in table([unsuited])
