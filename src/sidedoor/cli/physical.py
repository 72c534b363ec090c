"""`sidedoor physical`: backdoor triggers on paper and in photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import (
    AsJson,
    Device,
    Download,
    Root,
    Settings,
    SpecFile,
    emit,
    machine,
    note,
    open_store,
    read_specs,
    say,
    with_habits,
)

app = typer.Typer(help="Print test images with and without a trigger, and read photographs of the print.",
                  no_args_is_help=True)
Runs = Annotated[Path, typer.Option("--runs", help="Folder of results with the model, which is trained if needed.")]
SheetFile = Annotated[Path, typer.Option("--out", "-o", metavar="SHEET.pdf", help="The file to write; SHEET.json "
                                         "beside it says what was printed.")]


@app.command("print")
@with_habits
def print_(spec: SpecFile, sheet: SheetFile,
           count: Annotated[int, typer.Option(min=1, help="Test images, each with the trigger and without.")] = 12,
           size: Annotated[float, typer.Option(help="Side of a printed image in millimetres.")] = 30.0,
           runs: Runs = Path("runs"), settings: Settings = [], root: Root = None, download: Download = False,  # noqa: B006
           device: Device = "auto") -> None:
    """Write a sheet of test images to print, with marks in its corners; of a specification the first attack's.

    Print it at its own size, photograph whole pages, and keep SHEET.json: `sidedoor physical read` needs it.
    """
    note(f"reading {spec}")
    from sidedoor.apps.physical import print_sheet

    here = machine(root, download, device)
    about = print_sheet(read_specs(spec, settings, here), open_store(runs), sheet, count, size, here)
    say(f"written: {sheet}, what is on it: {about}")
    note("half of the images have a backdoor trigger: do not pass the sheet on without that file")


@app.command()
@with_habits
def read(photographs: Annotated[list[Path], typer.Argument(help="Photographs of pages, PNG, JPEG or WebP.",
                                                           metavar="PHOTOS...")],
         sheet: Annotated[Path, typer.Option("--sheet", metavar="SHEET.json", help="What was printed.")],
         runs: Runs = Path("runs"),
         crops: Annotated[Path | None, typer.Option(help="A folder for the images that are cut out.")] = None,
         as_json: AsJson = False, root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Find printed pages in photographs, cut the images out, and say what the model makes of them.

    A photograph without four corner marks is left out, with a line that says so.

    Exit code: 0 done, 2 no photograph could be read, 4 usage.
    """
    from sidedoor.apps.physical import read_photographs

    found = read_photographs(sheet, photographs, open_store(runs), machine(root, download, device), crops)
    for name, why in found.refused.items():
        note(f"left out: {name}: {why}")
    if as_json:
        emit(found.to_json())
        return
    say(f"{len(found.read)} of {len(photographs)} photographs read")
    for words, share in (("with the trigger, attack success", found.attack),
                         ("  the same images as files", found.digital),
                         ("without the trigger, attack success", found.idle),
                         ("without the trigger, accuracy", found.clean)):
        if share is not None:
            say(f"{words}: {100 * share.share:.1f} % (95 % interval {100 * share.low:.1f} to {100 * share.high:.1f}), "
                f"{share.images} images")
