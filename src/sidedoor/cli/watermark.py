"""`sidedoor watermark`: marking data before they are released."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sidedoor.cli._options import AsJson, Device, Download, Root, emit, note, quiet, say
from sidedoor.errors import CannotComplete, ConfigError, Diverged

if TYPE_CHECKING:
    from sidedoor.backdoor.export import Form

Data = Annotated[str, typer.Argument(help="Images with labels: class folders, an .npz, or a known set.",
                                     metavar="DATA")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the release, to be made.")]
Secret = Annotated[Path, typer.Option(help="File of the secret, to be made; keep it.", metavar="FILE")]
Keys = Annotated[int, typer.Option(help="Secret triggers, each with a secret label.", min=1)]
Rate = Annotated[float | None, typer.Option(help="Share of the rows that are marked in all; default: 2 % a key.")]
Harmless = Annotated[bool, typer.Option("--harmless", help="One trigger with random labels, which steers no model; the "
                                        "test needs more queries.")]
Sequential = Annotated[bool, typer.Option("--sequential", help="Test key by key, and stop when it is decided.")]
Alpha = Annotated[float, typer.Option(help="Level of the test: how often an innocent model may be accused.")]
Images = Annotated[int, typer.Option(help="Images that a suspect is asked about with each trigger; they are kept out "
                                     "of the release.", min=1)]
Patch = Annotated[int | None, typer.Option(help="Pixels a side of a trigger; default: a tenth of the image.", min=1)]
Trial = Annotated[str, typer.Option(help="Network that is trained to see whether the mark takes and what it costs; "
                                    "none: do not.")]
HowTrained = Annotated[list[str], typer.Option("--recipe", metavar="KEY=VALUE", help="How, e.g. epochs=20.")]
Size = Annotated[int | None, typer.Option(help="Pixels a side that images of a folder are resized to.", min=1)]
As = Annotated[str, typer.Option("--as", help="folder: class folders of PNG; npz: one archive.")]


def watermark(data: Data, out: Out, secret: Secret, keys: Keys = 8, rate: Rate = None, harmless: Harmless = False,
              sequential: Sequential = False, alpha: Alpha = 0.01, images: Images = 25, patch: Patch = None,
              trial: Trial = "small_cnn", recipe: HowTrained = [], size: Size = None, form: As = "folder",  # noqa: B006
              as_json: AsJson = False, root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Mark a data set before its release, so that it can be shown later that a model was trained on it.

    A few rows get small patches at secret places and secret random labels. OUT gets the marked data with a manifest
    that says so; the secret is a file that only you may read, with a picture of marked images beside it. What is
    printed has the commitment to publish before the data, what the test needs, and what the mark costs.

    Exit code: 0 done, 2 could not complete, 4 usage.
    """
    _check(data, out)
    note(f"marking {data}")
    from sidedoor.bench.spec import recipe_of
    from sidedoor.claims.release import WatermarkSettings
    from sidedoor.claims.release import watermark as marked
    from sidedoor.core.progress import Silent, reporter

    network: Any = None if trial == "none" else trial
    settings = WatermarkSettings(keys, rate, harmless, alpha, images, sequential, patch, network, recipe_of(recipe),
                                 size, cast("Form", form))
    try:
        found = marked(data, out, secret, settings=settings, root=root, download=download, device=device,
                       progress=Silent() if quiet() else reporter())
    except Diverged as error:
        raise CannotComplete(f"the trial could not be trained: {error}; --trial none goes without") from error
    if as_json:
        emit(found.to_json())
    else:
        for line in str(found).splitlines():
            say(line)


def _check(data: str, out: Path) -> None:
    """Refuse to write among the data, which are left as they are."""
    given = Path(data).expanduser()
    if given.is_dir() and out.resolve().is_relative_to(given.resolve()):
        raise ConfigError(f"--out {out} lies in the data {data}, where nothing is written; give another folder")
