"""Every test runs with the package's annotations checked, shapes of tensors included."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import jaxtyping
from jaxtyping import _import_hook


def compiled(loader: SourceFileLoader, name: str) -> object:
    """A module's code, compiled anew: jaxtyping's cache applies to all that a module imports, and misses there."""
    return loader.source_to_code(loader.get_data(loader.path), loader.path)


_import_hook._JaxtypingLoader.get_code = compiled
_import_hook._JaxtypingLoader.exec_module = SourceFileLoader.exec_module
sys.path.insert(0, str(Path(__file__).parent))
from runtime_types import turns  # noqa: E402

jaxtyping.jaxtyped = turns.sparing(jaxtyping.jaxtyped)
jaxtyping.install_import_hook("sidedoor", "runtime_types.checked")


def pytest_runtest_setup() -> None:
    turns.counts.clear()
