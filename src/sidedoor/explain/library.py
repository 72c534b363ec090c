"""captum, imported when it is needed: the library that computes several of the methods."""

from __future__ import annotations

import warnings
from types import ModuleType

from sidedoor.errors import CannotComplete


def captum(method: str) -> ModuleType:
    """`captum.attr`.

    Args:
        method: that needs it, for the message.

    Raises:
        CannotComplete: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports
            from captum import attr
    except ImportError as error:
        raise CannotComplete(f"the explainer {method} needs captum; pip install 'sidedoor[explain]', or choose one "
                             "that needs nothing more: gradient, grad_cam, guided_backprop, guided_grad_cam, rise") \
            from error
    found: ModuleType = attr
    return found
