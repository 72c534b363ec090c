"""`sidedoor explain`: whether explanations of a stored model point at its trigger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import AsJson, Device, Download, Results, Root, emit, machine, note, open_store, say
from sidedoor.errors import ConfigError

Key = Annotated[str, typer.Option("--key", metavar="KEY", help="Of a result with an attack whose trigger is a patch.")]
Methods = Annotated[str, typer.Option(metavar="NAMES", help="Explainers, separated by commas; default: all. "
                                      "`sidedoor list explainers` has them; some need the extra explain.")]
Images = Annotated[int, typer.Option(min=1, help="Test images on which the trigger works, at most.")]
Gallery = Annotated[int, typer.Option(min=0, help="Images that the page shows.")]
Which = Annotated[int, typer.Option("--trigger", min=0, help="Which of several triggers, from 0.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for explain.html, explain.md and explain.json.")]


def explain(directory: Results, key: Key, methods: Methods = "", images: Images = 100, gallery: Gallery = 8,
            trigger: Which = 0, out: Out = Path("runs/explain"), as_json: AsJson = False, root: Root = None,
            download: Download = False, device: Device = "auto") -> None:
    """Hold explanations of triggered images against the trigger, which is known to be the reason.

    Random maps, edges, the blurred change of the pixels and the clean sibling stand beside them. Defences are left out:
    it is the attacked model that is explained. Nothing is trained that the folder has.
    """
    from sidedoor.apps.explain import explain_model
    from sidedoor.apps.explain_page import markdown, page
    from sidedoor.core.files import write_json, write_text

    if not directory.is_dir():
        raise ConfigError(f"no folder {directory}; expected one of results")
    names = [name.strip() for name in methods.split(",") if name.strip()]
    found = explain_model(open_store(directory), key, names, images, machine(root, download, device), trigger)
    write_text(out / "explain.html", page(found, gallery))
    write_text(out / "explain.md", markdown(found))
    write_json(out / "explain.json", found.to_json())
    if as_json:
        emit(found.to_json())
    else:
        for line in markdown(found).splitlines():
            say(line)
    note(f"written: {out / 'explain.html'}, {out / 'explain.md'}, {out / 'explain.json'}")
