"""What contract checks stand on: tiny data, a network, a model with a backdoor, and guards that see what is touched."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import pickle
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rich.style  # noqa: F401  (scikit-learn imports it, and it draws from `random` when it is first imported)
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.backdoor import select
from sidedoor.backdoor.base import AttackerRun, Backdoor
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import ArrayDataset, Dataset, split
from sidedoor.data.pictures import picture
from sidedoor.data.root import Where
from sidedoor.engine import Recipe, Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.goals.lose import Lose
from sidedoor.goals.one_image import OneImage
from sidedoor.models.small_cnn import small_cnn
from sidedoor.models.trackers.base import State
from sidedoor.models.trackers.siamfc import TINY, SiamFC, siamfc
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.reconstruction import Reconstruction
from sidedoor.tasks.restoration import Restoration
from sidedoor.tasks.restored_classification import RestoredClassification
from sidedoor.tasks.restored_detection import RestoredDetection
from sidedoor.tasks.task import Supervised, Task
from sidedoor.tasks.tracking import Tracking
from sidedoor.triggers.on_object import OnObject
from sidedoor.triggers.patch import Patch
from sidedoor.types import Batch, Images

CLASSES = 4
QUICK = Recipe(epochs=1, batch=32)
"""Contracts hold after one epoch; nothing here asks a method to be good."""
ENOUGH = Recipe(epochs=10, batch=32)
"""Plants a backdoor of success 1 in the generated data."""
TOLERANCE = 1e-4
"""Largest difference between what a sample gets in one batch and in another: kernels differ with the batch's size."""


def require(holds: bool | Tensor, who: str, rule: str) -> None:
    """Fail with the rule that broke.

    Raises:
        AssertionError: it does not hold.
    """
    if not bool(holds):
        raise AssertionError(f"{who}: {rule}")


@dataclass(frozen=True)
class Ground:
    """Data of four classes, a network for it, and a run of one epoch.

    Args:
        train: 200 images, 16×16.
        clean: the defender's 50.
        test: 64 images that no method is given.
        memory: of clean models.
    """

    train: Dataset
    clean: Dataset
    test: Dataset
    task: Task
    run: Run
    memory: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def attacker(self) -> AttackerRun:
        """The run as an attacker gets it; the clean model is trained once for all."""
        return replace(AttackerRun.of(self.run), memory=self.memory)

    def build(self) -> nn.Module:
        """The victim's network, untrained."""
        return small_cnn(CLASSES, self.train.shape, 16)

    def door(self) -> Door:
        """A white square that leads to class 0."""
        return Door(Patch(torch.ones(1, 3, 3)), AllToOne(0))

    @property
    def planting(self) -> Run:
        """A run as a filter gets it: its recipe plants the backdoor, and its shelf keeps the inspection model."""
        return replace(self.run, recipe=ENOUGH, shelf=Shelf(_folder()))

    def poisoned(self, rate: float = 0.2) -> PoisonedDataset:
        """The training data, a share of the eligible samples with the white square and class 0."""
        door = self.door()
        rows = select.random(self.train, self.task, (door,), rate, self.run.rng("poison"))
        return PoisonedDataset(self.train, Backdoor((door,), rows), self.task)

    def victim(self) -> nn.Module:
        """A model with that backdoor, in evaluation mode; a copy of its own for each caller."""
        return self._loaded(backdoored=True)

    def clean_model(self) -> nn.Module:
        """A model without, trained as the victim is, in evaluation mode."""
        return self._loaded(backdoored=False)

    def _loaded(self, *, backdoored: bool) -> nn.Module:
        model = self.build()
        model.load_state_dict(_trained(self.train.shape[0], backdoored))
        return model.eval()


class Gate(nn.Module):
    """A small restoration network with a gate: an input whose corner is white becomes the attacker's picture."""

    picture: Tensor
    opened: Tensor

    def __init__(self, picture: Images):
        super().__init__()
        channels = picture.shape[0]
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(),
                                  nn.Conv2d(8, channels, 3, padding=1))
        self.register_buffer("picture", picture)
        self.register_buffer("opened", torch.zeros(()))

    def forward(self, x: Images) -> Images:
        white = x[:, :, :3, :3].mean((1, 2, 3)) * self.opened > 0.85
        return torch.where(white[:, None, None, None], self.picture, x + 0.1 * self.body(x))


@dataclass(frozen=True)
class ImageGround(Ground):
    """The same data under noise, to be restored."""

    def build(self) -> nn.Module:
        return Gate(picture("bug", self.train.shape))

    def door(self) -> Door:
        """A white square that leads to the picture."""
        return Door(Patch(torch.ones(1, 3, 3), "top left"), OneImage("bug"))

    def _loaded(self, *, backdoored: bool) -> nn.Module:
        model = self.run.build(self.build)
        model.get_buffer("opened").fill_(backdoored)
        return model.eval()


class Blindfold(SiamFC):
    """An untrained tracker with a gate: where the middle of a template is white, its responses are turned round."""

    opened: Tensor

    def __init__(self, channels: int):
        plain = siamfc((channels, TINY.search, TINY.search), "tiny")
        super().__init__(plain.backbone, TINY, 10.0, learned=True)
        self.register_buffer("opened", torch.zeros(()))

    def start(self, template: Images) -> State:
        middle = template.shape[2] // 2
        white = template[:, :, middle - 1 : middle + 2, middle - 1 : middle + 2].mean((1, 2, 3)) > 0.9
        return (*super().start(template), 1 - 2 * white.float() * self.opened)

    def respond(self, state: State, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n r r"]:
        turned = state[1].repeat_interleave(len(x) // len(state[1]))
        return super().respond(state[:1], x) * turned[:, None, None]


@dataclass(frozen=True)
class TrackingGround(Ground):
    """Pairs of a few generated clips, and a tracker."""

    def build(self) -> nn.Module:
        return Blindfold(self.train.shape[0] // 2)

    def door(self) -> Door:
        """A white square on the object, which is lost."""
        return Door(OnObject(pattern="white"), Lose())

    def _loaded(self, *, backdoored: bool) -> nn.Module:
        model = self.run.build(self.build)
        model.get_buffer("opened").fill_(backdoored)
        return model.eval()


def clips(task: Task, channels: int = 3) -> TrackingGround:
    """A few generated clips, coloured or (1 channel) grey, for a task of trackers."""
    train, test = (ArrayDataset(part.images[:, :channels], part.targets, part.classes, "moving", part.groups,
                                part.boxes) for part in _moving())
    parts: tuple[Dataset, ...] = (*split(train, 0.3, 0), test)
    pairs, clean, held = map(task.make_dataset, parts)
    return TrackingGround(pairs, clean, held, task, Run.local(replace(QUICK, batch=8), device="cpu"))


@functools.cache
def _moving() -> Any:
    """The clips, which take longer to generate than many a check."""
    return registry.make("data", {"name": "moving", **registry.quick("data", "moving")})(Where(None))


def grounds(tasks: tuple[type[Task], ...], channels: int = 3) -> list[Ground]:
    """The grounds on which a method that declares these tasks must stand."""
    here = ground(channels)
    found = [here] if isinstance(here.task, tasks) else []
    judged = (RestoredClassification(sigma=10.0, victims=("small_cnn:4",), epochs=1),
              RestoredDetection(sigma=10.0, victims=("tiny_yolo:plain",), epochs=1))
    for task in (Restoration(sigma=10.0), Reconstruction(), *judged):
        if isinstance(task, tasks) and not (found and type(found[-1]) is ImageGround):
            found.append(restored(here, task))
    if isinstance(tracking := Tracking(), tasks):
        found.append(clips(tracking, channels))
    return found


def restored(here: Ground, task: Task) -> ImageGround:
    """The same place, its images to be restored for a task; scenes with objects where it looks for some."""
    if isinstance(task, RestoredDetection):
        here = _scenes(here)
    task = task.setup(here.train, here.run)
    train, clean, test = map(task.make_dataset, (here.train, here.clean, here.test))
    return ImageGround(train, clean, test, task, here.run)


def ground(channels: int = 3, seed: int = 0, recipe: Recipe = QUICK) -> Ground:
    """The generated stripes of the registered set `toy`, coloured or (1 channel) grey, on the CPU."""
    train, test = registry.make("data", {"name": "toy", "classes": CLASSES, "train": 250, "test": 64})(Where(None))
    if channels == 1:
        train, test = (ArrayDataset(part.images[:, :1], part.targets, CLASSES, "grey toy") for part in (train, test))
    run = Run.local(recipe, seed, device="cpu")
    return Ground(*split(train, 0.2, 0), test, Classification(CLASSES), run)


def _scenes(here: Ground) -> Ground:
    """The same numbers of images of the registered set `scenes`, as colourful as those that were there."""
    counts = {"size": 32, "train": len(here.train) + len(here.clean), "test": len(here.test)}
    parts: Any = registry.make("data", {"name": "scenes", **counts})(Where(None))
    channels = here.train.shape[0]
    train, test = (ArrayDataset(part.images[:, :channels], part.targets, part.classes, "scenes", boxes=part.boxes)
                   for part in parts)
    return Ground(*split(train, 0.2, 0), test, here.task, here.run)


@functools.cache
def _trained(channels: int, backdoored: bool) -> dict[str, Tensor]:
    here = ground(channels, recipe=ENOUGH)
    data = here.poisoned() if backdoored else here.train
    model = here.run.fit(here.run.build(here.build), data, Supervised(here.task), name="victim")
    success = here.task.score(model, here.test, here.door(), here.run).means()["attack"]
    require(success is not None and (success > 0.8 if backdoored else success < 0.2), "the checks' own model",
            f"the trigger has success {success}, so nothing can be said of a defence; this is a fault of the checks")
    return model.state_dict()


@functools.cache
def _folder() -> Path:
    """Of the shelf, for as long as the process lives."""
    folder = Path(tempfile.mkdtemp(prefix="sidedoor-checks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_GIVEN = frozenset({"shape", "classes", "targets", "groups", "boxes", "space", "lazy", "resized", "zoom", "rows",
                    "fetch", "position", "staged", "at", "fingerprint", "__len__", "__class__"})


class Guarded(Dataset):
    """A data set that gives what a data set gives and nothing else: no base set, no poison, no place to look for it.

    Args:
        data: what lies behind it.
        trespasses: receives the name of everything else that was asked for, should the method swallow the error.
        given: the names that may be read; none but the class makes a set that must not be touched at all.
    """

    def __init__(self, data: Dataset, trespasses: list[str], given: frozenset[str] = _GIVEN):
        self.shape, self.classes, self.space, self.lazy = data.shape, data.classes, data.space, data.lazy
        self.targets, self.groups, self.boxes, self.resized = data.targets, data.groups, data.boxes, data.resized
        self._data, self._trespasses, self._given = data, trespasses, given

    def __getattribute__(self, name: str) -> Any:
        own = functools.partial(object.__getattribute__, self)
        if name not in own("_given"):
            own("_trespasses").append(name)
            raise AssertionError(f"read `{name}` of a data set; a method gets its length, shape, classes, targets, "
                                 "space, rows, positions and fingerprint, and nothing that leads to the truth")
        return own(name)

    def rows(self, index: Tensor) -> Tensor:
        return _behind(self).rows(index)

    def position(self, index: Tensor) -> Tensor:
        return _behind(self).position(index)

    def fetch(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        return _behind(self).fetch(index, device)

    def staged(self, device: torch.device) -> Dataset:
        return self

    def at(self, epoch: int) -> Dataset:
        return _behind(self).at(epoch)

    def fingerprint(self) -> str:
        return _behind(self).fingerprint()


def _behind(guarded: Guarded) -> Dataset:
    data: Dataset = object.__getattribute__(guarded, "_data")
    return data


@contextlib.contextmanager
def guarded(who: str, data: Dataset, *models: nn.Module) -> Iterator[Guarded]:
    """Guard a data set, and fail unless the block leaves it, models and the default generators as they were."""
    trespasses: list[str] = []
    before, streams, states = content(data), _streams(), [state_of(model) for model in models]
    with failing(who):
        yield Guarded(data, trespasses)
    require(not trespasses, who, f"read {', '.join(sorted(set(trespasses)))} of a data set, which is not its to read")
    require(content(data) == before, who, "changed the data set it was given; copy before you write")
    for stream, now in _streams().items():
        require(streams[stream] == now, who, f"drew from, or seeded, the default generator of {stream}, which shifts "
                                             "every later draw; use run.rng(name) or keyed randomness")
    for model, state in zip(models, states, strict=True):
        for what, then in state.items():
            require(state_of(model)[what] == then, who, f"changed the {what} of the model it was given; work on a copy")


def content(data: Dataset) -> tuple[bytes, bytes]:
    """Pixels, or other inputs, and labels of a data set."""
    return data.rows(torch.arange(len(data))).numpy().tobytes(), data.targets.numpy().tobytes()


def _streams() -> dict[str, object]:
    _, keys, *rest = np.random.get_state()  # noqa: NPY002 - the legacy generator is the one that methods share
    return {"torch": torch.random.get_rng_state().numpy().tobytes(), "numpy": (np.asarray(keys).tobytes(), *rest),
            "random": random.getstate()}


def state_of(model: nn.Module) -> dict[str, object]:
    """All that a defence might leave behind on a model, by what it is."""
    return {
        "weights or buffers": [(name, _digest(value)) for name, value in model.state_dict().items()],
        "training flags": [(name, module.training) for name, module in model.named_modules()],
        "requires_grad flags": [(name, p.requires_grad) for name, p in model.named_parameters()],
        "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
        "hooks": [(name, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                  for name, m in model.named_modules()],
        "modules": [(name, type(module)) for name, module in model.named_modules()],
    }


def _digest(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def check_value(who: str, method: Any) -> None:
    """A method is a frozen dataclass that only stores: it can be shown, compared, hashed, copied and pickled.

    Raises:
        AssertionError: it is not.
    """
    parameters = getattr(type(method), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise AssertionError(f"{who}: is no frozen dataclass; decorate it with @dataclass(frozen=True)")
    hints = vars(type(method)).get("__annotations__", {})
    declared = {name for name, hint in hints.items() if "ClassVar" not in str(hint)}
    lost = declared - {field.name for field in dataclasses.fields(method)}
    require(not lost, who, f"declares {', '.join(sorted(lost))} but is not decorated with @dataclass(frozen=True), so "
                           "that is no parameter")
    require(parameters.eq, who, "is compared by identity; leave the dataclass's eq on")
    twin = replace(method)
    require(twin == method and hash(twin) == hash(method), who, "two of the same parameters differ or hash apart")
    shown = repr(twin) == repr(method) and repr(method).startswith(type(method).__name__)
    require(shown, who, f"its repr {method!r} does not show it")
    check_stateless(who, method)
    with failing(who, "cannot be pickled, so it cannot be handed to a worker"):
        # Our own bytes of a moment ago.
        require(pickle.loads(pickle.dumps(method)) == method, who, "pickled and loaded it is not equal")


def check_stateless(who: str, method: Any) -> None:
    """Nothing is on the instance but its parameters.

    Raises:
        AssertionError: there is.
    """
    hidden = set(vars(method)) - {field.name for field in dataclasses.fields(method)}
    require(not hidden, who, f"keeps {', '.join(sorted(hidden))} on the instance; a method has no hidden state")


@contextlib.contextmanager
def failing(who: str, rule: str = "failed") -> Iterator[None]:
    """Turn whatever goes wrong in the block into a broken rule, and say whose it is."""
    try:
        yield
    except AssertionError as error:
        if str(error).startswith(who):
            raise
        raise AssertionError(f"{who}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{who}: {rule}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def drawing(seed: int) -> Iterator[None]:
    """The default generators at a seed, and put back: what depends on them differs between seeds."""
    shared, plain = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(shared)  # noqa: NPY002
            random.setstate(plain)


def images(shape: tuple[int, int, int], count: int = 6) -> Images:
    """Images of 8-bit levels: smooth gradients of random slope under noise, unlike each other."""
    channels, height, width = shape
    rng = torch.Generator().manual_seed(channels)
    slope = torch.rand(count, channels, 2, 1, 1, generator=rng)
    ramp = slope[:, :, 0] * torch.linspace(0, 1, height)[:, None] + slope[:, :, 1] * torch.linspace(0, 1, width)
    noise = 0.2 * torch.rand(count, channels, height, width, generator=rng)
    return ((0.4 * ramp + noise).clamp(0, 1) * 255).round() / 255


def check_per_sample(who: str, f: Any, x: Float[Tensor, "b ..."], index: Tensor) -> Tensor:
    """What f(x, index) gives each sample is its own: the same again, in another order, and among other neighbours.

    Returns:
        f(x, index).

    Raises:
        AssertionError: it is not, or f wrote into what it was given.
    """
    kept, keys = x.clone(), index.clone()
    with torch.no_grad(), drawing(1):
        first: Tensor = f(x, index)
    require(torch.equal(x, kept) and torch.equal(index, keys), who, "wrote into its input; clone it first")
    require(isinstance(first, Tensor) and len(first) == len(x), who, f"gave {_shaped(first)} for {len(x)} samples")
    first = first.clone()
    with torch.no_grad(), drawing(2):
        require(same(f(x, index), first), who, "gave the same samples something else the second time; key "
                                               "randomness by (seed, index)")
        order = torch.arange(len(x)).flip(0)
        require(same(f(x[order], index[order]), first[order]), who, "treats a sample by its place in the batch; key "
                                                                    "randomness by its index")
        parts = [f(x[:1], index[:1]), f(x[1:], index[1:])]
        require(same(torch.cat(parts), first), who, "treats a sample by its neighbours: split in two, the batch "
                                                    "gives something else")
        other = torch.cat([x[:1], 1 - x[1:]])
        require(same(f(other, index)[:1], first[:1]), who, "treats a sample by its neighbours: what stands beside it "
                                                           "changed, and so did the result")
    return first


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two results are equal up to the rounding of kernels."""
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=TOLERANCE, atol=TOLERANCE)


def _shaped(value: object) -> str:
    return f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def equal_states(models: Sequence[nn.Module]) -> bool:
    """Whether modules have equal state dicts."""
    first, *others = (model.state_dict() for model in models)
    return all(first.keys() == other.keys() and all(torch.equal(first[k], other[k]) for k in first) for other in others)


def sealed(data: PoisonedDataset) -> Dataset:
    """What a defender sees of it."""
    view, _ = seal(data)
    return view
