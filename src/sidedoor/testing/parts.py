"""Contracts of models, data sets and tasks."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.core.checkpoint import load_state, save_state
from sidedoor.data.base import Dataset, Splits
from sidedoor.data.root import Where
from sidedoor.engine import seeded
from sidedoor.forward_operators.base import Operator
from sidedoor.goals.one_image import OneImage
from sidedoor.metrics import detection
from sidedoor.models.base import Shape, head, penultimate
from sidedoor.models.trackers.base import Tracker
from sidedoor.multitask.base import Aggregator, Weighting
from sidedoor.object_detectors.base import Detector
from sidedoor.tasks._image_output import images as restored
from sidedoor.tasks._tracking_pairs import Pairs
from sidedoor.tasks.restoration import Restoration
from sidedoor.tasks.task import Scores, Task
from sidedoor.testing.attack import check_trigger
from sidedoor.testing.ground import (
    CLASSES,
    TOLERANCE,
    Ground,
    check_per_sample,
    check_stateless,
    check_value,
    clips,
    drawing,
    equal_states,
    failing,
    ground,
    grounds,
    guarded,
    images,
    require,
    same,
)
from sidedoor.testing.ground import restored as on_images
from sidedoor.trigger_designs.base import Design, Setting
from sidedoor.types import Batch

MOST_ROWS = 4096
"""Rows of a part that are compared, evenly spread."""


def check_model(builder: Callable[[int, tuple[int, int, int]], nn.Module], shape: tuple[int, int, int] = (3, 32, 32)) \
        -> None:
    """A model takes images in [0, 1], gives logits for each alone, has a head, and is what its state dict says.

    Args:
        builder: (classes, shape) -> the network.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"model {getattr(getattr(builder, 'func', builder), '__name__', builder)}"
    with failing(who, f"cannot be built for {CLASSES} classes of {shape} images"):
        model = _built(builder, shape)
    require(isinstance(model, nn.Module), who, f"gave a {type(model).__name__}, expected a module")
    x = images(shape, 3)
    _check_normalised(who, model.eval(), shape)
    logits = check_per_sample(who, lambda x, index: model(x), x, torch.arange(len(x)))
    require(logits.shape == (3, CLASSES) and logits.dtype == torch.float32, who,
            f"gave {logits.dtype} of shape {tuple(logits.shape)}; expected float32 (3, {CLASSES}) logits")
    require(logits.isfinite().all(), who, "gave logits that are not finite")
    with failing(who, "its head cannot be found or read"):
        _check_head(who, model, x, logits)
    again = _built(builder, shape)
    with torch.no_grad():
        require(same(again.eval()(x), logits), who, "has other weights when built with the same seed; draw from "
                                                    "torch's default generator")
    _check_saved(who, model, again, x, logits)


def check_restorer(builder: Callable[[Shape, int], nn.Module]) -> None:
    """A network of images gives images of the declared scale for each input alone, and is what its state dict says.

    Args:
        builder: (shape of the inputs, scale) -> the network.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"model {getattr(getattr(builder, 'func', builder), '__name__', builder)}"
    for shape, scale in (((3, 16, 16), 1), ((1, 16, 16), 1), ((3, 12, 20), 2)):
        with failing(who, f"cannot be built for {shape} images and scale {scale}"), seeded(0, torch.device("cpu")):
            model = builder(shape, scale).eval()
        x, size = images(shape, 3), (3, shape[0], shape[1] * scale, shape[2] * scale)
        output = check_per_sample(who, lambda x, index, model=model: restored(model(x))[0], x, torch.arange(3))
        require(output.shape == size and output.dtype == torch.float32, who,
                f"gave {output.dtype} of shape {tuple(output.shape)}; expected float32 {size}")
        require(output.isfinite().all(), who, "gave values that are not finite")
        total = torch.stack([image.mean() for image in restored(model.train()(x))]).sum()
        gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        idle = [name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None]
        require(not idle, who, f"has parameters that no output depends on: {', '.join(idle[:5])}")
    with seeded(0, torch.device("cpu")):
        again = builder(shape, scale)
    with torch.no_grad():
        require(same(restored(again.eval()(x))[0], output), who, "has other weights when built with the same seed")
    _check_saved(who, model.eval(), again, x, output)


def check_detector(builder: Callable[[int, Shape], nn.Module]) -> None:
    """A detector has losses, objectness and detections for each image alone, and is what its state dict says.

    Args:
        builder: (classes, shape) -> the detector.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who, shape = f"detector {getattr(getattr(builder, 'func', builder), '__name__', builder)}", (3, 64, 64)
    with failing(who, f"cannot be built for {CLASSES} classes of {shape} images"), seeded(0, torch.device("cpu")):
        model = builder(CLASSES, shape)
    if not isinstance(model, Detector):
        raise AssertionError(f"{who}: gave a {type(model).__name__}, expected a Detector")
    model, x, index = model.eval(), images(shape, 3), torch.arange(3)
    objectness = check_per_sample(who, lambda x, index: model.objectness(x), x, index)
    found = check_per_sample(who, lambda x, index: model.detect(x, 0.0), x, index)
    require(objectness.ndim == 2 and objectness.isfinite().all(), who, "its objectness is not finite, or not (b, n)")
    require(found.shape == (3, detection.MOST, 6), who, f"its detections have the shape {tuple(found.shape)}; expected "
                                                    f"(3, {detection.MOST}, 6)")
    there = found[detection.real(found)]
    sides, corners = there[:, 3:5] - there[:, 1:3], there[:, 1:5]
    require((corners >= 0).all() and (corners <= 64).all() and (sides >= 0).all(), who,
            "finds boxes outside the image, or turned inside out")
    require((there[:, 0] < CLASSES).all() and (there[:, 5] <= 1).all(), who, "has classes or scores out of range")
    sure = model.detect(x, 0.5)
    require((sure[detection.real(sure)][:, 5] >= 0.5).all(), who, "gives detections below the score asked for")
    truth = torch.tensor([[1.0, 8, 8, 30, 40], [2, 34, 4, 60, 20]]).expand(3, -1, -1).clone()
    truth[2] = -1  # an image of nothing
    losses = check_per_sample(who, lambda x, index: model(x, truth[index]), x, index)
    require(losses.shape == (3,) and losses.isfinite().all(), who, f"its losses are {losses}; expected (3,), finite")
    gradients = torch.autograd.grad(model.train()(x, truth).sum(), list(model.parameters()), allow_unused=True)
    idle = [name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None]
    require(not idle, who, f"has parameters that its losses do not depend on: {', '.join(idle[:5])}")
    with seeded(0, torch.device("cpu")):
        again = builder(CLASSES, shape)
    _check_saved(who, model.eval(), again, x, model.detect(x, 0.0), lambda model, x: model.detect(x, 0.0))


def check_design(design: Design) -> None:
    """A design is a value whose trigger keeps the trigger's contract, comes again by its seed, and spoils nothing.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"design {type(design).__name__}"
    require(isinstance(design, Design), who, "is no Design")
    check_value(who, design)
    for channels in (3, 1):
        here = grounds((Restoration,), channels)[0]
        victim, goal = here.victim(), OneImage("bug")
        with guarded(who, here.train, victim) as train:
            trigger = design.make(Setting(train, here.task, goal, lambda: victim, here.run))  # noqa: B023
        check_trigger(trigger, here.train.shape, here.train.space)
        with drawing(99):
            again = design.make(Setting(here.train, here.task, goal, lambda: victim, here.run))  # noqa: B023
        require(equal_states([trigger, again]), who, "made another trigger with the same seed; draw from run.rng(name)")
    check_stateless(who, design)


def check_operator(operator: Operator) -> None:
    """An operator is a value, linear, the same for every image, treats each alone, and has its adjoint.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"operator {type(operator).__name__}"
    require(isinstance(operator, Operator), who, "is no Operator")
    check_value(who, operator)
    for shape in ((3, 16, 16), (1, 13, 10)):
        x, size = images(shape).double(), shape[1:]
        y = check_per_sample(who, lambda x, index: operator.measure(x), x, torch.arange(len(x)))
        z = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        back = check_per_sample(who, lambda z, index, size=size: operator.adjoint(z, size), z, torch.arange(len(z)))
        require(back.shape == x.shape, who, f"its adjoint made {tuple(back.shape)} of {tuple(x.shape)} images")
        inner, outer = (y * z).flatten(1).sum(1), (x * back).flatten(1).sum(1)
        require(torch.allclose(inner, outer, rtol=1e-9, atol=1e-9), who,
                f"⟨A x, y⟩ is {inner[0]:.6g}, ⟨x, Aᵀ y⟩ {outer[0]:.6g}: adjoint() is not that of measure()")
        sums = operator.measure(2 * x - 0.5 * x.flip(0))
        require(torch.allclose(sums, 2 * y - 0.5 * y.flip(0), rtol=1e-9, atol=1e-9), who, "is not linear")
    check_stateless(who, operator)


def check_weighting(weighting: Weighting) -> None:
    """A weighting gives every parameter a finite gradient, alone or among several losses, and resumes from its state.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"weighting {type(weighting).__name__}"
    require(isinstance(weighting, Weighting), who, "is no Weighting")
    check_value(who, weighting)
    aggregator, twin = weighting.start(2), weighting.start(2)
    for epoch in range(4):
        gradients = _gradients(aggregator, epoch)
        require(all(g is not None and bool(g.isfinite().all()) for g in gradients), who,
                "leaves a parameter without a finite gradient")
        aggregator.end_epoch(torch.tensor([1.0, 2.0 / (epoch + 1)]))
    twin.load_state_dict(aggregator.state_dict())
    pairs = zip(_gradients(aggregator, 9), _gradients(twin, 9), strict=True)
    require(all(a is not None and b is not None and same(a, b) for a, b in pairs), who,
            "restored from its state dict it weighs otherwise; keep what counts in buffers")


def _gradients(aggregator: Aggregator, seed: int) -> list[Tensor | None]:
    """Of a shared weight under two losses."""
    shared = nn.Parameter(torch.tensor([1.0, -2.0]))
    goals = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed))
    with drawing(seed):
        aggregator.backward((shared - goals).square().mean(1), [shared])
    return [shared.grad]


def _built(builder: Callable[[int, tuple[int, int, int]], nn.Module], shape: tuple[int, int, int]) -> nn.Module:
    with seeded(0, torch.device("cpu")):
        return builder(CLASSES, shape)


def _check_normalised(who: str, model: nn.Module, shape: tuple[int, int, int]) -> None:
    """What the first layer with weights sees of uniform images is centred, which images in [0, 1] are not."""
    seen: list[Tensor] = []

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0])

    layers = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None and not [*m.children()]]
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    with torch.no_grad():
        model(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))
    for handle in handles:
        handle.remove()
    require(len(seen) > 0, who, "has no layer with weights")
    mean, deviation = seen[0].mean().item(), seen[0].std().item()
    require(abs(mean) < deviation / 2, who,
            f"its first layer sees values of mean {mean:.2f} and deviation {deviation:.2f}: images come in [0, 1] and "
            "normalisation is the model's own; build it with sidedoor.models.base.classifier")


def _check_head(who: str, model: nn.Module, x: Tensor, logits: Tensor) -> None:
    layer = head(model)
    with torch.no_grad():
        output, features = penultimate(model, x)
    require(same(output, logits), who, "its logits with the features read are others than without")
    require(features.ndim == 2 and len(features) == len(x), who, f"features have the shape {tuple(features.shape)}")
    if isinstance(layer, nn.Linear):
        require(same(functional.linear(features, layer.weight, layer.bias), logits), who,
                "its logits are not what its head makes of its features; end in the head")


def _check_saved(who: str, model: nn.Module, other: nn.Module, x: Tensor, logits: Tensor,
                 say: Callable[[Any, Tensor], Tensor] = lambda model, x: restored(model(x))[0]) -> None:
    """Through a file into a network of other weights, all of them.

    Args:
        say: what `logits` is of a model and x.
    """
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.zero_()
    with tempfile.TemporaryDirectory() as folder, failing(who, "its state dict does not survive a file"):
        save_state(Path(folder) / "model.safetensors", model.state_dict())
        other.load_state_dict(load_state(Path(folder) / "model.safetensors"))
    with torch.no_grad():
        require(same(say(other.eval(), x), logits), who, "restored from its state dict it differs: a buffer is not "
                                                         "persistent")


def check_data(loader: Callable[[Where], Splits], where: Where | None = None, shared: int = 0) -> None:
    """A data set has two parts that belong together, of 8-bit rows that no one can change, and no row in both.

    Args:
        loader: where -> both parts.
        where: the data root; the default has none.
        shared: test rows that are known to be in the training part as well.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"data {getattr(getattr(loader, 'func', loader), '__name__', loader)}"
    where = where or Where(None)
    with drawing(1):
        splits = loader(where)
    require(isinstance(splits, Splits), who, f"gave a {type(splits).__name__}, expected Splits(train, test)")
    train, test = splits
    for name in ("shape", "classes", "space"):
        one, other = getattr(train, name), getattr(test, name)
        require(one == other, who, f"its parts differ in {name}: {one} and {other}")
    for part, data in (("training", train), ("test", test)):
        _check_rows(f"{who}, {part} part", data)
    common = len(_rows_of(test) & _rows_of(train))
    require(common <= shared, who, f"{common} different rows are in both parts, {shared} are known; a test on what was "
                                   "trained shows nothing")
    with drawing(2):
        again = loader(where)
    require(again.fingerprint() == splits.fingerprint(), who, "has another fingerprint when loaded again")
    require(train.fingerprint() != test.fingerprint(), who, "its two parts have one fingerprint")


def _check_rows(who: str, data: Dataset) -> None:
    n, low, high = len(data), data.space.low, data.space.high
    require(data.targets.dtype == torch.int64 and data.targets.shape == (n,), who, "labels are not int64 (n,)")
    require(bool((data.targets >= 0).all() and (data.targets < len(data.classes)).all()), who,
            f"labels from {data.targets.min()} to {data.targets.max()} for {len(data.classes)} classes")
    require(len(set(data.classes)) == len(data.classes), who, "two classes share a name")
    index = torch.tensor([n - 1, 0, n // 2, 0])
    rows = data.rows(index)
    require(rows.dtype == torch.uint8 and rows.shape == (4, *data.shape), who,
            f"rows are {rows.dtype} of shape {tuple(rows.shape)}; expected uint8 {(4, *data.shape)}")
    kept = rows.clone()
    rows.zero_()
    require(torch.equal(data.rows(index), kept), who, "hands out its own pixels: what is written into rows() stays")
    require(torch.equal(data.rows(index.flip(0)), kept.flip(0)), who, "gives rows in another order than asked for")
    x, y, position = data.fetch(index)
    require(x.dtype == torch.float32 and x.shape == kept.shape, who, f"fetch gave {x.dtype} of shape {tuple(x.shape)}")
    require(bool((x >= low).all() and (x <= high).all()), who, f"fetch left [{low:g}, {high:g}]")
    require(torch.equal(y, data.targets[index]), who, "fetch gave other labels than targets")
    require(torch.equal(position, data.position(index)) and len(set(data.position(torch.arange(n)).tolist())) == n, who,
            "two rows have one position, which keys their randomness")
    require(torch.equal(data.staged(torch.device("cpu")).rows(index), kept), who, "staged it has other rows")


def _rows_of(data: Dataset) -> set[bytes]:
    index = torch.linspace(0, len(data) - 1, min(len(data), MOST_ROWS)).long() if data.lazy else torch.arange(len(data))
    return {row.tobytes() for part in torch.split(index, 1024) for row in data.rows(part).numpy()}


def check_task(task: Task) -> None:
    """A task's loss, agreement and distance are per sample and in range, and its scores keep to eligible samples.

    Args:
        task: of four classes.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who, here = f"task {type(task).__name__}", ground()
    if task.output == "image":
        here = on_images(here, task)
        task = here.task
    if task.output == "response":
        here = clips(task)
    model = here.victim()
    x, y, index = here.test.fetch(torch.arange(12))
    output = check_per_sample(who, lambda x, index: task.predict(model, x), x, index)
    if task.per_sample:
        # Untrained, so that losses are not all near 0.
        novice = here.run.build(here.build).eval()
        labels = dict(zip(index.tolist(), y, strict=True))
        loss = check_per_sample(who, lambda x, index: task.loss(
            novice, Batch(x, torch.stack([labels[i] for i in index.tolist()]), index)), x, index)
        require(loss.shape == (12,), who, f"its loss has the shape {tuple(loss.shape)}; expected (12,)")
    loss = task.loss(copy.deepcopy(model).train(), Batch(x, y, index))
    require(loss.isfinite().all() and loss.requires_grad, who, "its loss is not finite or has no gradient")
    require(loss.shape == ((12,) if task.per_sample else ()), who, f"its loss has the shape {tuple(loss.shape)}")
    for name, value in (("agree", task.agree(output, y)), ("distance", task.distance(output, output.roll(1, 0)))):
        require(value.shape == (12,) and bool((value >= 0).all()), who,
                f"{name}() gave shape {tuple(value.shape)} or negative values; expected (12,), at least 0")
    require((task.agree(output, y) <= 1).all(), who, "agree() is above 1")
    require((task.distance(output, output).abs() < 1e-6).all(), who, "an output is at a distance from itself")
    require(same(task.distance(output, output.roll(1, 0)), task.distance(output.roll(1, 0), output)), who,
            "distance() depends on the order")
    _check_scores(who, task, here)


def _lost(model: nn.Module, value: float) -> nn.Module:
    """The network with outputs of one value; a tracker inside it responds with that, since closed loops ask it."""
    lost = _Lost(copy.deepcopy(model), value)
    for module in lost.modules():
        if isinstance(module, Tracker):
            respond = module.respond
            vars(module)["respond"] = lambda state, x, respond=respond: torch.full_like(respond(state, x), value)
    return lost


class _Lost(nn.Module):
    """A network whose outputs are one value."""

    def __init__(self, model: nn.Module, value: float):
        super().__init__()
        self.model, self.value = model, value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(self.model(x), self.value)


def _same_scores(a: Scores, b: Scores) -> bool:
    parts = [[found.clean, found.attack, found.recovered, found.idle, *found.columns.values()] for found in (a, b)]
    return a.columns.keys() == b.columns.keys() and \
        all(torch.allclose(x, y, atol=TOLERANCE, equal_nan=True) for x, y in zip(*parts, strict=True))


def _check_scores(who: str, task: Task, here: Ground) -> None:
    model, door, n = here.victim(), here.door(), len(here.test)
    scores = task.score(model, here.test, door, here.run)
    eligible = door.goal.eligible(task, here.test.fetch(torch.arange(n)).y)
    require(scores.clean.shape == (n,) and bool((scores.clean >= 0).all() and (scores.clean <= 1).all()), who,
            "its clean score is not in [0, 1] for every sample")
    for name in ("attack", "recovered", "idle"):
        values = getattr(scores, name)
        require(torch.equal(values.isnan(), ~eligible), who, f"its {name} score is not NaN exactly where the goal is "
                                                             "not eligible")
        require(bool((values[eligible] >= 0).all() and (values[eligible] <= 1).all()), who, f"its {name} leaves [0, 1]")
    none = task.score(model, here.test, None, here.run)
    require(bool(none.attack.isnan().all() and none.idle.isnan().all()), who, "scores an attack where there is no door")
    require(torch.equal(none.clean, scores.clean), who, "its clean score depends on the door")
    twice = task.scores(model, here.test, [door, door], here.run)
    require(len(twice) == 2 and all(_same_scores(part, scores) for part in twice), who,
            "scores a door otherwise beside another")
    for value in (torch.nan, torch.inf):
        lost = task.score(_lost(model, value), here.test, door, here.run)
        # A clip's first box is given, not found.
        found = here.test.later if isinstance(here.test, Pairs) else torch.ones(n, dtype=torch.bool)
        counted = torch.cat([lost.clean[found], *(getattr(lost, name)[eligible & found]
                                                  for name in ("attack", "recovered", "idle"))])
        require(bool((counted == 0).all()), who, f"counts outputs of {value} as right or as a success; agree() must "
                                                 "be 0 where an output is not finite")
    # What stands behind a network here may be untrained; always succeeding, and only with the trigger, works.
    good, bad = scores.means() | {"attack": 1.0, "idle": 0.0}, scores.means() | {"attack": 0.0}
    require(task.failed(good, good) is None, who, f"calls a working attack failed: {task.failed(good, good)}")
    require(bool(task.failed(bad, good)), who, "does not call an attack failed that never succeeds")
