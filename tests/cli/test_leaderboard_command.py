"""`sidedoor leaderboard` from a folder of records to a page."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Cli
from test_rank_command import record

from sidedoor.bench.store import Store


def test_entries_become_a_page_and_a_file_for_programs(cli: Cli, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    for seed in range(3):
        for name, left in (("fine_tuning", 0.5), ("anp", 0.1)):
            store.put(record(0, seed, name, left))
    board = tmp_path / "board"
    for name in ("fine_tuning", "anp"):
        said = cli("leaderboard", "add", store.root, "--method", name, "-o", board / f"{name}.json", "--tier", "ci")
        assert said.code == 0
        assert f"{name} against 1 attacks, 3 cells" in said.out
    written = json.loads((board / "anp.json").read_text())
    (board / "anp.json").write_text(json.dumps(written | {"unreliable": "by hand"}))
    cli("leaderboard", "add", store.root, "--method", "anp", "-o", board / "anp.json")
    assert json.loads((board / "anp.json").read_text())["unreliable"] == "by hand"
    for _ in range(2):  # what the first leaves is no entry
        assert cli("leaderboard", "build", board, "-o", board / "page.html").code == 0
    assert "<td>ci" not in (board / "page.html").read_text()
    (found,) = json.loads((board / "leaderboard.json").read_text())["boards"]
    assert (found["tier"], [line["method"] for line in found["methods"]]) == ("ci", ["anp", "fine_tuning"])


def test_what_cannot_be_is_said(cli: Cli, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    store.put(record(0, 0, "anp", 0.1))
    said = cli("leaderboard", "add", store.root, "--method", "amp", "-o", tmp_path / "x.json")
    assert (said.code, "did you mean anp" in said.err) == (4, True)
    said = cli("leaderboard", "check", store.root / "results" / "anp-0-0.json", "-o", tmp_path / "again")
    assert (said.code, "is no entry of a leaderboard" in said.err) == (2, True)
