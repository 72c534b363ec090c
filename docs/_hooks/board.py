"""The leaderboard as a page of the site, from the entries in docs/leaderboard."""

from __future__ import annotations

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from sidedoor.apps.leaderboard_page import MACHINE, boards, collected, page, to_json

FOLDER = "leaderboard"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add leaderboard/index.html, which no template of the site surrounds, and the file for programs beside it; nothing
    where there are no entries.
    """
    entries = Path(config.docs_dir, FOLDER)
    if not entries.is_dir():
        return files
    found = boards(collected(entries))
    for name, content in (("index.html", page(found)), (MACHINE, json.dumps(to_json(found)))):
        files.append(File.generated(config, f"{FOLDER}/{name}", content=content))
    return files
