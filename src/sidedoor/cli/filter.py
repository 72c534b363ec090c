"""`sidedoor filter`: vetting data that somebody was given."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from sidedoor.vetting.filter.result import Filtered

Data = Annotated[str, typer.Argument(help="Images with labels: class folders, an .npz, or a known set.",
                                     metavar="DATA")]
Clean = Annotated[str | None, typer.Option(help="Images of the same classes that you trust, as DATA; ten a class help.",
                                           metavar="DATA")]
Arch = Annotated[str, typer.Option(help="The network that is trained on the data, as resnet18.")]
HowTrained = Annotated[list[str], typer.Option("--recipe", metavar="KEY=VALUE", help="How, e.g. epochs=20.")]
Size = Annotated[int | None, typer.Option(help="Pixels a side that images of a folder are resized to.", min=1)]
Seed = Annotated[int, typer.Option(help="Of the network and of the images that triggers are tried on.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the results; a run resumes there.")]


def filter_(data: Data, clean: Clean = None, arch: Arch = "small_cnn", recipe: HowTrained = [], size: Size = None,  # noqa: B006
            fail_on: FailOn = "finding", seed: Seed = 0, out: Out = Path("runs/filter"), as_json: AsJson = False,
            root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Say which rows of a data set are poisoned, as far as filters and a transplant can tell; change nothing in it.

    A network is trained on the data, filters say which rows of each class stand out, and what these have in common is
    put into images of other classes. A finding needs that it sends them to the class, and that a network trained
    without the rows neither does that nor takes the rows for what they are labelled. OUT gets keep.txt (files that are
    in no suspected group), ranking.csv (scores of all), report.html, filter.json and filter.sarif.

    Exit code: 0 no finding, 1 a finding, 2 could not complete, 3 inconclusive or suspicious, 4 usage.
    """
    check_fail_on(fail_on)
    _check(data, out)
    note(f"filtering {data}")
    from sidedoor.bench.spec import recipe_of
    from sidedoor.core.progress import Silent, reporter
    from sidedoor.vetting.filter.filtering import FilterSettings, filter_data

    settings = FilterSettings(recipe_of(recipe), size, seed)
    try:
        found = filter_data(data, clean, architecture=arch, settings=settings, out=out, root=root, download=download,
                            device=device, progress=Silent() if quiet() else reporter())
    except Diverged as error:  # whose exit code is that of a finding
        raise CannotComplete(f"a network could not be trained on the data: {error}") from error
    _finish(found, data, out, as_json)
    exit_by(found.verdict, found.exit_code, fail_on)


def _check(data: str, out: Path) -> None:
    """Refuse to write among the data, which are left as they are."""
    given = Path(data).expanduser()
    if given.is_dir() and out.resolve().is_relative_to(given.resolve()):
        raise ConfigError(f"--out {out} lies in the data {data}, where nothing is written; give another folder")


def _finish(found: Filtered, data: str, out: Path, as_json: bool) -> None:
    """Print what was found and write it."""
    from sidedoor.vetting.filter.write import write

    page = write(found, out, data, shlex.join(["sidedoor", *sys.argv[1:]]))
    if as_json:
        emit(found.to_json())
    else:
        for line in str(found).splitlines():
            say(line)
    note(f"report: {page}, rows to keep: {page.with_name('keep.txt')}")
