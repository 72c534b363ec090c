"""The locked versions are those that the project allows, each with its hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKED = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+) \\", LOCK, re.MULTILINE)}


def test_every_requirement_is_locked_in_a_version_that_it_allows() -> None:
    given = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]
    assert len(given) > 20
    for requirement in given:
        assert LOCKED[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_every_locked_version_has_hashes() -> None:
    parts = re.split(r"^(?=[\w.-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(parts) == len(LOCKED) > 50
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}$", part, re.MULTILINE) for part in parts)


def test_only_named_extras_are_under_the_gpl() -> None:
    under = {name for name, texts in PROJECT["optional-dependencies"].items()
             if any("quadprog" in text for text in texts)}
    assert under == {"mtl-gpl", "dev"}
