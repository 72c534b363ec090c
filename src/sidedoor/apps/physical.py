"""Print what an attack makes of test images, and read what a model makes of photographs of the print.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 workshop, arXiv:2104.02361.

Each image is printed twice, with the trigger and without, so that what the camera alone does is measured as well.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.apps.sheet import Layout, crops, drawn, found, write_pdf
from sidedoor.bench.case import Case, load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.schema import fit
from sidedoor.bench.spec import Spec, cells
from sidedoor.bench.store import Store
from sidedoor.core.files import read_json, write_json
from sidedoor.data.base import stored
from sidedoor.data.formats.images import Unreadable, pixels
from sidedoor.data.pictures import save_png
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.goals.base import Door
from sidedoor.metrics.statistics import wilson
from sidedoor.triggers.base import stamp

FORM = 1


class _Printed(TypedDict):
    index: int
    stamped: bool


class Manifest(TypedDict):
    """What was printed; `pages` has the images of each page in their order, by their rows in the test set."""

    form: int
    what: str
    sidedoor: str
    key: str
    attack: str
    spec: dict[str, Any]
    millimetres: float
    pages: list[list[_Printed]]


@dataclass(frozen=True)
class Share:
    """A share of printed images with its 95 % Wilson interval; an image in several photographs counts once."""

    images: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Photographed:
    """What a model says of photographs.

    Args:
        attack: attack success on images with the trigger; `idle` on those without it.
        clean: accuracy on images without the trigger.
        digital: attack success on the same images as files.
        read, refused: photographs; of those refused, why.
    """

    attack: Share | None
    idle: Share | None
    clean: Share | None
    digital: Share | None
    read: tuple[str, ...]
    refused: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def print_sheet(specs: Sequence[Spec], store: Store, path: Path, count: int, millimetres: float, machine: Machine) \
        -> Path:
    """Write a sheet with test images of the first specification with an attack, and NAME.json beside it; its path.

    Args:
        count: of images, spread over those eligible, each with and without the trigger.
        millimetres: side of an image.

    Raises:
        ConfigError: no attack on classifiers, another name than NAME.pdf, or a file that is there.
    """
    if path.suffix != ".pdf":
        raise ConfigError(f"{path} given as the sheet to write; expected a name that ends in .pdf")
    for each in (path, path.with_suffix(".json")):
        if each.exists():
            raise ConfigError(f"{each} exists and is left as it is; give another name")
    spec = next((spec for spec in specs if spec.attack and not spec.refusal()), None)
    if spec is None or spec.make_task(2).output != "labels":
        raise ConfigError("no specification of an attack on a classifier given; there is nothing to print")
    layout = Layout(millimetres)
    case = load(spec.attack_half(), store, machine)
    door = _door(case)
    eligible = torch.nonzero(door.goal.eligible(case.task, case.test.targets))[:, 0]
    chosen = eligible[torch.randperm(len(eligible), generator=torch.Generator().manual_seed(0))[:count]].sort().values
    x, _, index = case.test.fetch(chosen, case.run.device)
    with torch.no_grad():
        both = torch.stack([stamp(door.trigger, x, index, case.test.space), x], 1).flatten(0, 1)
    images = stored(both, case.test.space).cpu()
    listed = [_Printed(index=row, stamped=stamped) for row in chosen.tolist() for stamped in (True, False)]
    at_once = len(layout.places)
    pages = [listed[start:start + at_once] for start in range(0, len(listed), at_once)]
    words = f"sidedoor, {spec.attack_name}, {case.key}: test images, half of them with a backdoor trigger"
    write_pdf([drawn(part, k, layout, f"{words}; page {k + 1} of {len(pages)}")
               for k, part in enumerate(torch.split(images, at_once))], path)
    write_json(path.with_suffix(".json"), Manifest(
        form=FORM, what="test images on paper, half of them with a backdoor trigger", key=case.key,
        sidedoor=importlib.metadata.version("sidedoor"), attack=spec.attack_name, spec=case.spec.to_json(),
        millimetres=millimetres, pages=pages))
    return path.with_suffix(".json")


def _door(case: Case) -> Door:
    """The first one that is scored, of the trained model."""
    door = next(door for door in train_or_load(case).doors if door.scored)
    door.trigger.to(case.run.device).eval()
    return door


def read_photographs(sheet: Path, photographs: Sequence[Path], store: Store, machine: Machine,
                     folder: Path | None = None) -> Photographed:
    """What the model says of photographs of a sheet; those in which no page is found are refused, one by one.

    Args:
        sheet: the JSON file beside it.
        folder: where the images that were cut out go, as PNG files; None: nowhere.

    Raises:
        CannotComplete: the model cannot be made again as it was, or no photograph can be read.
        ConfigError: the file describes no sheet.
    """
    about = _read(sheet)
    case = load(cells(about["spec"])[0], store, machine)
    if case.key != about["key"]:
        raise CannotComplete(f"the model {about['key']} of {sheet} cannot be made again: with the code and data of "
                             f"today its key would be {case.key}")
    if max(printed["index"] for page in about["pages"] for printed in page) >= len(case.test):
        raise ConfigError(f"{sheet} names test images that the data do not have; give the file as it was written")
    cut, refused = [], {}
    for photograph in photographs:
        try:
            cut += list(_cut(photograph, about, case))
        except (Unreadable, ConfigError) as error:
            refused[str(photograph)] = str(error)
    if not cut:
        raise CannotComplete(f"none of {len(photographs)} photographs can be read: {next(iter(refused.values()), '')}")
    for k, (photograph, printed, image) in enumerate(cut if folder else ()):
        assert folder is not None
        name = f"{k:04d}-{photograph.stem}-{printed['index']}-{'stamped' if printed['stamped'] else 'clean'}.png"
        save_png(stored(image[None], case.test.space)[0].cpu(), folder / name)
    read = tuple(str(each) for each in photographs if str(each) not in refused)
    return _answers(case, [(printed, image) for _, printed, image in cut], read, refused)


def _read(sheet: Path) -> Manifest:
    try:
        about = read_json(sheet)
        fit("", about, Manifest)
        if about["form"] != FORM:
            raise ConfigError(f"form {about['form']} given; expected {FORM}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{sheet} describes no sheet: {error}; give the JSON file that `sidedoor physical print` "
                          "wrote beside the PDF") from error
    found: Manifest = about
    return found


def _cut(photograph: Path, about: Manifest, case: Case) -> Iterator[tuple[Path, _Printed, Tensor]]:
    """The images in a photograph, cut out."""
    layout, (channels, height, width) = Layout(about["millimetres"]), case.test.shape
    page = found(torch.from_numpy(pixels(photograph, 1)))
    if page.number >= len(about["pages"]):
        raise ConfigError(f"it shows page {page.number + 1}, and the sheet has {len(about['pages'])}; give the JSON "
                          "file of this sheet")
    listed = about["pages"][page.number]
    images = crops(torch.from_numpy(pixels(photograph, channels)), page, layout, len(listed), (height, width))
    return ((photograph, printed, image) for printed, image in zip(listed, images, strict=True))


def _answers(case: Case, cut: Sequence[tuple[_Printed, Tensor]], read: tuple[str, ...], refused: dict[str, str]) \
        -> Photographed:
    trained = train_or_load(case)
    door = next(door for door in trained.doors if door.scored)
    door.trigger.to(case.run.device).eval()
    stamped = torch.tensor([printed["stamped"] for printed, _ in cut])
    rows = torch.tensor([printed["index"] for printed, _ in cut])
    original, y, index = case.test.fetch(rows, case.run.device)
    with torch.no_grad(), case.run.autocast():
        output = case.task.predict(trained.model, torch.stack([image for _, image in cut]).to(case.run.device))
        files = case.task.predict(trained.model, stamp(door.trigger, original, index, case.test.space))
    reached, known, on_files = (value.cpu() for value in (
        case.task.reached(door.goal, output, y, index), case.task.agree(output, y),
        case.task.reached(door.goal, files, y, index)))
    attack, idle, clean, digital = (_share(rows[mine], values[mine]) for mine, values in (
        (stamped, reached), (~stamped, reached), (~stamped, known), (stamped, on_files)))
    return Photographed(attack, idle, clean, digital, read, refused)


def _share(rows: Tensor, values: Float[Tensor, "b"]) -> Share | None:
    """The mean over images, each by its mean over photographs."""
    means = [values[rows == row].mean().item() for row in torch.unique(rows).tolist()]
    return Share(len(means), sum(means) / len(means), *wilson(sum(means), len(means))) if means else None
