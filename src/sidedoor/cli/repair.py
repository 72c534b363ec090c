"""`sidedoor repair`: removing a backdoor from a model that somebody was given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import AsJson, Device, Download, Root, emit, note, quiet, say
from sidedoor.cli.scan import Arch, Key, Labels, Model, Normalize, Size, names_of
from sidedoor.errors import CannotComplete, Interrupted

Method = Annotated[str, typer.Option("--with", metavar="NAME", help="The repair, as fst; `sidedoor list` has them.")]
Data = Annotated[str, typer.Option(help="Clean images with labels: class folders, an .npz, or a known set. What is not "
                                   "the test part is for the repair; a test part is cut off if there is none.",
                                   metavar="DATA")]
Parameters = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the repair, e.g. "
                                               "steps=500.")]
Augment = Annotated[list[str], typer.Option(help="crop, flip ...: of the images that the repair trains on.")]
Seed = Annotated[int, typer.Option(help="Of the repair.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="OUT.safetensors", help="The file to write; it may not be "
                                   "there. OUT.json beside it says what was done.")]


def repair(model: Model, method: Method, data: Data, out: Out, arch: Arch = None, settings: Parameters = [],  # noqa: B006
           augment: Augment = [], normalize: Normalize = "auto", key: Key = "", labels: Labels = None,  # noqa: B006
           size: Size = None, seed: Seed = 0, as_json: AsJson = False, root: Root = None, download: Download = False,
           device: Device = "auto") -> None:
    """Remove a backdoor from a model with a few clean images, as far as a repair can; write the model, not over itself.

    OUT has the tensor names of MODEL. Whether there was a backdoor, and whether it is gone, this does not say: scan
    both.

    Exit code: 0 repaired, 2 could not complete, 4 usage.
    """
    from sidedoor.bench.spec import settings_of
    from sidedoor.core.model_file import unused
    from sidedoor.core.progress import Silent, reporter
    from sidedoor.vetting.repair import RepairSettings, repair_model

    unused(out)
    _make_folder(out.parent)
    note(f"repairing {model}")
    how = RepairSettings(tuple(augment), normalize, key, names_of(labels), size, seed)
    try:
        found = repair_model(model, data, {"name": method, **settings_of(settings, "--set", "steps=500")},
                             architecture=arch, settings=how, root=root, download=download, device=device,
                             progress=Silent() if quiet() else reporter())
        manifest = found.save(out)
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; nothing was written, and the same command starts afresh") from stop
    if as_json:
        emit(found.manifest)
    else:
        say(f"{method}: {found}")
        say(f"written: {out}, what was done: {manifest}")
    note("accuracy on clean images does not show that a backdoor is gone: scan the repaired model, too")


def _make_folder(folder: Path) -> None:
    """Before the work rather than after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotComplete(f"cannot write in {folder}: {error}") from error
