"""Tables use the words of the task that their records share, those of older records included."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fabricated import make_record

from sidedoor import registry
from sidedoor.core.terms import ANY, Terms
from sidedoor.report.terms import OLD, terms_of


def test_records_of_both_schemas_share_the_words_of_their_task() -> None:
    now = Terms("C-Acc", "ASR", "R-Acc", "Idle", True, "In words.")
    old, new = make_record("old"), replace(make_record("new"), terms=now)
    assert terms_of([old]) == OLD["classification"]
    assert terms_of([old, new]) == terms_of([new, old]) == now


def test_several_tasks_have_general_words() -> None:
    depth = replace(make_record("depth"), terms=Terms("Error", "Lost", "Kept", "Idle", False))
    assert terms_of([make_record("old"), depth]) == ANY


@pytest.mark.parametrize("task", sorted(OLD))
def test_old_records_have_the_words_of_today(task: str) -> None:
    terms = registry.load("task", task).terms
    assert terms.note
    assert replace(terms, note="") == OLD[task]


def test_numbers_are_written_as_shares_or_similarities() -> None:
    shares, similarities = OLD["classification"], OLD["restoration"]
    assert (shares.heading("attack"), shares.written(0.1234), shares.written(None)) == ("ASR %", "12.3", "–")
    assert (similarities.heading("attack"), similarities.written(0.1234)) == ("Effect", "0.123")
