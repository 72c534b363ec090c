"""Messages to whoever runs the program."""

from __future__ import annotations

import functools
import logging


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, unless this process has logged it before."""
    logging.getLogger("sidedoor").warning(message)
