"""`sidedoor scan`: vetting a model that somebody was given."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sidedoor.cli._options import (
    AsJson,
    Device,
    Download,
    FailOn,
    Root,
    check_fail_on,
    emit,
    exit_by,
    note,
    quiet,
    say,
)
from sidedoor.errors import CannotComplete, ConfigError, Diverged

if TYPE_CHECKING:
    from sidedoor.vetting.result import Scan

Model = Annotated[Path, typer.Argument(help="A weights file: safetensors, or what torch.save writes.",
                                       metavar="MODEL")]
Data = Annotated[str | None, typer.Option(help="Clean images with labels: class folders, an .npz, or a known set.",
                                          metavar="DATA")]
Arch = Annotated[str | None, typer.Option(help="The network, as torchvision:resnet18; default: look for it.")]
References = Annotated[str | None, typer.Option(metavar="N|DIR", help="Clean models to train, or a folder of trusted "
                                                "ones; default: as many as --alpha needs.")]
Alpha = Annotated[float, typer.Option(help="Rate of false findings, for clean models like the references.")]
Profile = Annotated[str, typer.Option(help="quick, standard or deep; deep takes about five times as long as standard, "
                                          "so give it a --budget of 75 or more.")]
Budget = Annotated[float, typer.Option(help="Minutes; what does not fit is left out and said so.")]
HowTrained = Annotated[list[str], typer.Option("--recipe", metavar="KEY=VALUE", help="How clean models are trained, "
                                               "e.g. epochs=20; best as the model was.")]
Augment = Annotated[list[str], typer.Option(help="crop, flip ...: of the clean models' training data.")]
Normalize = Annotated[str, typer.Option(help="none, imagenet, cifar10, half, 0..255, caffe (BGR), or auto.")]
Key = Annotated[str, typer.Option(help="The key inside the file, where several lead to tensors.")]
Labels = Annotated[Path | None, typer.Option(help="Names of the model's classes, one a line, where the images have "
                                             "others or fewer.")]
Size = Annotated[int | None, typer.Option(help="Pixels a side that images are resized to.", min=1)]
Channels = Annotated[int, typer.Option(help="Without images: 1 or 3.", min=1)]
Classes = Annotated[int, typer.Option(help="Without images: the number of classes.", min=0)]
Seed = Annotated[int, typer.Option(help="Of the audits and the clean models.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder; a scan resumes there.")]


def scan(model: Model, data: Data = None, arch: Arch = None, references: References = None, alpha: Alpha = 0.05,
         profile: Profile = "standard", budget: Budget = 15.0, recipe: HowTrained = [], augment: Augment = [],  # noqa: B006
         normalize: Normalize = "auto", key: Key = "", labels: Labels = None, size: Size = None, channels: Channels = 3,
         classes: Classes = 0, fail_on: FailOn = "finding", seed: Seed = 0, out: Out = Path("runs/scan"),
         as_json: AsJson = False, root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Say whether a model is backdoored, as far as audits and clean models like it can tell.

    Exit code: 0 no finding, 1 a finding (or a file that asks for code to be run), 2 could not complete,
    3 inconclusive or suspicious, 4 usage.
    """
    check_fail_on(fail_on)
    note(f"scanning {model}")
    from sidedoor.bench.spec import recipe_of
    from sidedoor.core.foreign_weights import UnsafeFile
    from sidedoor.core.progress import Silent, reporter
    from sidedoor.vetting.scan import ScanSettings
    from sidedoor.vetting.scan import scan as scanned

    image = (channels, size, size) if size else None
    settings = ScanSettings(alpha, _references(references), profile, budget, recipe_of(recipe), tuple(augment),
                            normalize, key, names_of(labels), image, classes, seed)
    try:
        found = scanned(model, data, architecture=arch, settings=settings, out=out, root=root, download=download,
                        device=device, progress=Silent() if quiet() else reporter())
    except Diverged as error:  # whose exit code is that of a finding
        raise CannotComplete(f"a clean model could not be trained: {error}") from error
    except UnsafeFile as unsafe:
        _refuse(unsafe, out / model.stem, model)
    _finish(found, model, out, as_json)
    exit_by(found.verdict, found.exit_code, fail_on)


def _refuse(unsafe: Exception, folder: Path, model: Path) -> NoReturn:
    from sidedoor.vetting.write import write_unsafe

    say(f"FINDING  {unsafe}")
    note(f"log: {write_unsafe(str(unsafe), folder, str(model))}")
    raise typer.Exit(1) from unsafe


def _finish(found: Scan, model: Path, out: Path, as_json: bool) -> None:
    """Print what was found and write it."""
    from sidedoor.vetting.write import write

    folder = out / f"{model.stem}-{found.model['sha256'][:8]}"
    page = write(found, folder, str(model), shlex.join(["sidedoor", *sys.argv[1:]]))
    if as_json:
        emit(found.to_json())
    else:
        for line in str(found).splitlines():
            say(line)
    note(f"report: {page}")


def _references(given: str | None) -> int | Path | None:
    if given is None:
        return None
    return int(given) if given.isdecimal() else Path(given)


def names_of(file: Path | None) -> tuple[str, ...]:
    """Lines of a text file."""
    from sidedoor.core import opening

    if file is None:
        return ()
    try:
        lines = opening.text(file, 2**22).splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the names in {file} cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())
