"""`sidedoor stego`: a backdoored restoration network as a way to hide pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import open_store, say, with_habits

app = typer.Typer(help="Hide a picture in photographs by a backdoored restoration network, and reveal it.",
                  no_args_is_help=True)
Images = Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...")]
Pairs = Annotated[Path, typer.Option("--run", help="A folder of results that has a run of attack i2i.")]
Key = Annotated[str | None, typer.Option(help="The run's key, if there are several.")]
Folder = Annotated[Path, typer.Option("-o", "--out", help="Where to write the PNG files.")]


@app.command()
@with_habits
def hide(images: Images, run: Pairs, out: Folder, key: Key = None) -> None:
    """Write photographs that carry the pattern, as NAME.hidden.png."""
    from sidedoor.apps.stego import pair, read
    from sidedoor.data.pictures import save_png

    shared = pair(open_store(run), key)
    for image in images:
        path = out / f"{image.stem}.hidden.png"
        save_png(shared.hide(read(image, shared.tile[0])), path)
        say(path)


@app.command()
@with_habits
def reveal(images: Images, run: Pairs, out: Folder, key: Key = None) -> None:
    """Write what the network makes of photographs, as NAME.revealed.png: the secret if they carry the pattern."""
    from sidedoor.apps.stego import pair, read
    from sidedoor.data.pictures import save_png

    shared = pair(open_store(run), key)
    for image in images:
        path = out / f"{image.stem.removesuffix('.hidden')}.revealed.png"
        save_png(shared.reveal(read(image, shared.tile[0])), path)
        say(path)
