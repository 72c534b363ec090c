"""Text of unknown origin on a terminal: names of files and classes, and messages that quote them."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """One line that can be printed anywhere: what would move the cursor, change colours or the direction of writing, or
    cannot be encoded, is written as an escape such as `\\x1b`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode()
                   for c in text)
