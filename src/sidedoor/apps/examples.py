"""Small models of handwritten digits that ship with the package, for a first scan: two with a backdoor, and clean ones.

`manifest.json` says what each is, how it was trained, and the hash of its file; `references/` holds clean models to
compare with, as `sidedoor scan --references` takes them.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from sidedoor.core.files import replacing
from sidedoor.errors import ConfigError

_MODELS = files("sidedoor.apps") / "example_models"
MANIFEST = "manifest.json"


def manifest() -> dict[str, Any]:
    """Data, network and recipe of all, and of each file under `models` its hash, attack, seed, accuracy and attack
    success.
    """
    found: dict[str, Any] = json.loads((_MODELS / MANIFEST).read_text(encoding="utf-8"))
    return found


def write_examples(folder: Path) -> list[Path]:
    """Write the models and the manifest into a folder; their paths there.

    Raises:
        ConfigError: a file of one of their names is there and is another.
        CannotComplete: the folder cannot be written.
    """
    written = []
    for name in (*manifest()["models"], MANIFEST):
        content, path = _MODELS.joinpath(*name.split("/")).read_bytes(), folder / name
        if path.exists() or path.is_symlink():
            if not path.is_file() or path.read_bytes() != content:
                raise ConfigError(f"{path} exists and is no file of the examples; give another folder")
        else:
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        written.append(path)
    return written
