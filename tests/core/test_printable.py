"""Text of unknown origin becomes one harmless line."""

from __future__ import annotations

import pytest

from sidedoor.core.printable import visible


@pytest.mark.parametrize(("given", "shown"), [
    ("two\nlines", r"two\nlines"), ("\x1b[31mred", r"\x1b[31mred"), ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("a\u202etxt.exe", r"a\u202etxt.exe"), ("Stra\udcdfe", r"Stra\udcdfe"), ("\r\x00\u2028\x9b", r"\r\x00\u2028\x9b"),
])
def test_what_is_not_seen_is_escaped(given: str, shown: str) -> None:
    assert visible(given) == shown
    assert visible(given).isprintable()


@pytest.mark.parametrize("text", ["", "café – 猫", "cafe\u0301", "[red]<b>|`", "1\u202f000\u00a0kg", r"C:\new"])
def test_what_is_seen_stays(text: str) -> None:
    assert visible(text) == text
