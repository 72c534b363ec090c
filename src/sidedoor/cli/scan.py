"""`sidedoor scan`: vetting a model that somebody was given."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import AsJson, Device, Download, Root, emit, note, quiet, say
from sidedoor.errors import ConfigError

Alpha = Annotated[float, typer.Option(help="Rate of false findings, for clean models like the references.")]


def scan(
    model: Annotated[Path, typer.Argument(help="A weights file: safetensors, or what torch.save writes.",
                                          metavar="MODEL")],
    data: Annotated[str | None, typer.Option(help="Clean images with labels: class folders, an .npz, or a known set.",
                                             metavar="DATA")] = None,
    arch: Annotated[str | None, typer.Option(help="The network, as torchvision:resnet18; default: look for it.")]
    = None,
    references: Annotated[str | None, typer.Option(metavar="N|DIR", help="Clean models to train, or a folder of "
                                                   "trusted ones; default: as many as --alpha needs.")] = None,
    alpha: Alpha = 0.05,
    profile: Annotated[str, typer.Option(help="quick or standard.")] = "standard",
    budget: Annotated[float, typer.Option(help="Minutes; what does not fit is left out and said so.")] = 15.0,
    recipe: Annotated[list[str], typer.Option("--recipe", metavar="KEY=VALUE", help="How clean models are trained, "
                                              "e.g. epochs=20; best as the model was.")] = [],  # noqa: B006
    augment: Annotated[list[str], typer.Option(help="crop, flip ...: of the clean models' training data.")] = [],  # noqa: B006
    normalize: Annotated[str, typer.Option(help="none, imagenet, cifar10, half, 0..255, or auto.")] = "auto",
    key: Annotated[str, typer.Option(help="The key inside the file, where several lead to tensors.")] = "",
    labels: Annotated[Path | None, typer.Option(help="Names of the model's classes, one a line, where the images "
                                                "have others or fewer.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side that images are resized to.", min=1)] = None,
    channels: Annotated[int, typer.Option(help="Without images: 1 or 3.", min=1)] = 3,
    classes: Annotated[int, typer.Option(help="Without images: the number of classes.", min=0)] = 0,
    fail_on: Annotated[str, typer.Option(help="finding or suspicious: what exits with 1.")] = "finding",
    seed: Annotated[int, typer.Option(help="Of the audits and the clean models.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder; a scan resumes there.")] = Path("runs/scan"),
    as_json: AsJson = False, root: Root = None, download: Download = False, device: Device = "auto",
) -> None:
    """Say whether a model is backdoored, as far as audits and clean models like it can tell.

    Exit code: 0 no finding, 1 a finding (or a file that asks for code to be run), 2 could not complete,
    3 inconclusive or suspicious, 4 usage.
    """
    if fail_on not in ("finding", "suspicious"):
        raise ConfigError(f"--fail-on {fail_on} given; expected finding or suspicious")
    note(f"scanning {model}")
    from sidedoor.bench.spec import recipe_of
    from sidedoor.core.foreign_weights import UnsafeFile
    from sidedoor.core.progress import Silent, reporter
    from sidedoor.vetting.scan import ScanSettings
    from sidedoor.vetting.scan import scan as scanned
    from sidedoor.vetting.write import write, write_unsafe

    image = (channels, size, size) if size else None
    settings = ScanSettings(alpha, _references(references), profile, budget, recipe_of(recipe), tuple(augment),
                            normalize, key, _names(labels), image, classes, seed)
    try:
        found = scanned(model, data, architecture=arch, settings=settings, out=out, root=root, download=download,
                        device=device, progress=Silent() if quiet() else reporter())
    except UnsafeFile as unsafe:
        say(f"FINDING  {unsafe}")
        note(f"log: {write_unsafe(str(unsafe), out / model.stem, str(model))}")
        raise typer.Exit(1) from unsafe
    folder = out / f"{model.stem}-{found.model['sha256'][:8]}"
    page = write(found, folder, str(model), shlex.join(["sidedoor", *sys.argv[1:]]))
    if as_json:
        emit(found.to_json())
    else:
        for line in str(found).splitlines():
            say(line)
    note(f"report: {page}")
    code = 1 if found.verdict == fail_on else found.exit_code
    if code:
        raise typer.Exit(code)


def _references(given: str | None) -> int | Path | None:
    if given is None:
        return None
    return int(given) if given.isdecimal() else Path(given)


def _names(file: Path | None) -> tuple[str, ...]:
    """Lines of a text file."""
    from sidedoor.core import opening

    if file is None:
        return ()
    try:
        lines = opening.text(file, 2**22).splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the names in {file} cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())
