"""`sidedoor export`: the model of a result as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import Device, Download, Results, Root, machine, note, open_store, say
from sidedoor.errors import ConfigError

Key = Annotated[str, typer.Argument(help="Of the result, 16 hexadecimal digits.", metavar="KEY")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="OUT.safetensors", help="The file to write; it may not be "
                                   "there. OUT.json beside it says what the model is.")]


def export(directory: Results, key: Key, out: Out, root: Root = None, download: Download = False,
           device: Device = "auto") -> None:
    """Write the model of a result, attacked or repaired, with a manifest that says which it is.

    Filters, training defences and repairs are applied again, since results keep the attacked model alone.
    """
    from sidedoor.apps.export_model import export_model

    if not directory.is_dir():
        raise ConfigError(f"no folder {directory}; expected one of results")
    manifest = export_model(open_store(directory), key, out, machine(root, download, device))
    say(f"written: {out}, what it is: {manifest}")
    note("the model may be backdoored: do not pass it on without that file")
