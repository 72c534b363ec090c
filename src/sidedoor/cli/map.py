"""`sidedoor map`: where and how the trigger of a stored model still works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import AsJson, Device, Download, Results, Root, emit, machine, note, open_store, say
from sidedoor.errors import ConfigError

Keys = Annotated[list[str], typer.Option("--key", metavar="KEY", help="Of a result with an attack; several for means "
                                         "over seeds.")]
Axes = Annotated[str, typer.Option(help="Maps, separated by commas; two axes joined by + are one map. right, down, "
                                   "shift (both), value, opacity, size, rotation, blur, amplitude, jpeg, temperature, "
                                   "camera (simulated).")]
Images = Annotated[int, typer.Option(min=1, help="Test images that are asked about, at most.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for maps.html and maps.json.")]


def map_(directory: Results, keys: Keys, axes: Axes = "shift,value+opacity,size+rotation,blur,amplitude,jpeg,"
         "temperature,camera", images: Images = 250, out: Out = Path("runs/maps"), as_json: AsJson = False,
         root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Map the attack success of a stored model while its trigger is moved, turned, resized, faded or compressed.

    Nothing is trained that the folder has. The clean sibling is asked about the same images. Defences are left out: it
    is the attacked model that is mapped.
    """
    from sidedoor.apps.maps import axes_of, map_model
    from sidedoor.apps.maps_page import page, summary
    from sidedoor.core.files import write_json, write_text

    if not directory.is_dir():
        raise ConfigError(f"no folder {directory}; expected one of results")
    asked, store, here = axes_of(axes), open_store(directory), machine(root, download, device)
    found = []
    for key in dict.fromkeys(keys):
        found.append(map_model(store, key, asked, images, here))
        note(f"{key}: {found[-1].attack}, {found[-1].images} of {found[-1].eligible} eligible test images")
    write_text(out / "maps.html", page(found))
    write_json(out / "maps.json", [each.to_json() for each in found])
    if as_json:
        emit([each.to_json() for each in found])
    else:
        _print(summary(found))
    note(f"written: {out / 'maps.html'}, {out / 'maps.json'}")


def _print(rows: list[dict[str, str]]) -> None:
    """A table of plain text, in percent."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    wide = [max(len(text) for text in column if not text.startswith("not applicable"))
            for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip())
