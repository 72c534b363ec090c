"""The one training loop, and everything ambient that a method is handed: device, recipe, seed, folder, progress.

Determinism: whatever is drawn inside an epoch (order, augmentation, dropout, an objective's own draws) comes from
streams keyed by (seed, phase, epoch, rank), so an epoch that is repeated after a kill draws the same numbers, and a
checkpoint needs no generator state.

Several devices: each rank takes its share of every batch, gradients are averaged by hand rather than by a wrapping
module, so that hooks, several forward passes a step and per-task gradients work as on one device.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import hashlib
import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from sidedoor.core import random
from sidedoor.core.checkpoint import Checkpoints, Shelf, load_weights
from sidedoor.core.progress import Progress, Silent
from sidedoor.data.base import Dataset, split
from sidedoor.errors import CannotComplete, ConfigError, Diverged
from sidedoor.method import Count, Method, NonNegative, Positive, Share
from sidedoor.multitask.base import Aggregator, Losses, Sum, stacked
from sidedoor.types import Batch, Build

Augment = Callable[[Batch], Batch]
CHECKPOINT_SECONDS = 20.0
"""A phase is checkpointed at the first epoch end after so many seconds, so short phases write only their end."""

HELD_OUT = 1 / 7
AT_ONCE = {"cpu": 2**17}
"""Most input values in one forward pass by kind of device, 2**20 on others; a single row may have more."""
LARGEST_BATCH = 512 * 3 * 64 * 64
"""Input values in one batch of values that are measured per sample."""
KNOWN = frozenset({"sidedoor", "torch", "torchvision", "timm"})
"""Packages whose networks run in any memory format."""


@dataclass(frozen=True)
class Recipe(Method):
    """How a phase is optimised.

    Args:
        optimizer: "sgd" (with momentum) or "adam".
        lr: the peak learning rate.
        momentum: of SGD; the first beta of Adam.
        weight_decay: strength of the L2 penalty.
        schedule: "cosine" to zero, "one_cycle" (Smith and Topin 2018), "step" (×0.1 at 50 % and 75 %) or "constant".
        epochs: passes over the data.
        batch: samples a step, over all devices.
        clip: largest norm of the gradient; 0 for none.
        patience: epochs without a better validation loss before stopping; 0 for never. Where a phase is given no
            validation data it holds out a seventh of its own, and never trains on them.
        precision: "bf16" is mixed precision: twice as fast, on processors with AVX512-BF16 too.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Positive = 0.05
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Literal["cosine", "one_cycle", "step", "constant"] = "one_cycle"
    epochs: Count = 10
    batch: Count = 128
    clip: NonNegative = 0.0
    patience: int = 0
    precision: Literal["32", "bf16"] = "32"

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimiser."""
        if self.optimizer == "adam":
            betas = (self.momentum, 0.999)
            return torch.optim.Adam(parameters, lr=self.lr, betas=betas, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def scale(self, progress: float) -> float:
        """The learning rate at a share of the phase, relative to its peak."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.schedule == "one_cycle":
            rising = 0.3
            if progress < rising:
                return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / rising))
            return 0.5 * (1 + math.cos(math.pi * (progress - rising) / (1 - rising)))
        if self.schedule == "step":
            return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
        return 1.0


@dataclass
class Player:
    """A party beside the model: a generator, an adversary, learned weights.

    Args:
        parameters: what it trains.
        recipe: how; schedule and steps follow the phase.
        losses: (model, batch) -> (t,) losses for its own step after the model's; None: it shares the model's backward
            pass and steps on the gradients that its parameters received there.
    """

    parameters: list[nn.Parameter]
    recipe: Recipe
    losses: Callable[[nn.Module, Batch], Tensor] | None = None


class Objective(nn.Module, ABC):
    """What changes inside the loop. Its state dict is checkpointed, so generators and weightings resume.

    Random draws use torch's default generators, which the loop seeds for every epoch.

    Attributes:
        combine: how several losses become one gradient.
    """

    combine: Aggregator

    def __init__(self, combine: Aggregator | None = None) -> None:
        super().__init__()
        self.combine = combine or Sum()

    def start(self, model: nn.Module, run: Run) -> None:
        """Called once before the first step."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """One loss per task, always as many and in the same order; scalars where each has a graph of its own."""

    def players(self, model: nn.Module) -> list[Player]:
        """The parties beside the model."""
        return []

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        """Called after each epoch (from 0); True stops the phase."""
        return False


@dataclass(frozen=True)
class Run:
    """Everything ambient, passed explicitly.

    Args:
        recipe: how the victim trains; phases may bring their own.
        seed: of all streams.
        augment: Batch -> Batch on the device, drawing from torch's default generators.
        fabric: devices; `Run.local()` for one.
        checkpoints: where phases are kept, so that they resume; None keeps nothing.
        scope: prefix of the names of streams and phases.
        history: what happened in each finished phase, by name: a list of {"epoch", "loss", "lr", "seconds"}, and
            "loss_0", "loss_1", ... of an objective of several losses.
        shelf: where networks are kept that many runs share; None keeps nothing.
        root: the data root, where files of weights are looked for too.
    """

    fabric: Fabric
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    augment: Augment | None = None
    checkpoints: Checkpoints | None = None
    progress: Progress = field(default_factory=Silent)
    scope: str = ""
    history: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    shelf: Shelf | None = None
    root: Path | None = None

    @classmethod
    def local(cls, recipe: Recipe | None = None, seed: int = 0, augment: Augment | None = None,
              device: str = "auto", progress: Progress | None = None) -> Self:
        """A run on one device of this machine, without files."""
        return cls(fabric(device), recipe or Recipe(), seed, augment, progress=progress or Silent())

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def autocast(self) -> torch.autocast:
        """What networks compute in, by the recipe."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def within(self, scope: str) -> Self:
        """The same run with its own streams and phase names, for one method among several."""
        return replace(self, scope=f"{self.scope}{scope}/")

    def of_seed(self, seed: int | None) -> Self:
        """The same run with the streams of another seed; as it is for None."""
        return self if seed is None else replace(self, seed=seed)

    def rng(self, name: str) -> torch.Generator:
        """A generator of the named stream; a new stream never shifts another."""
        return torch.Generator().manual_seed(random.seed_of(self.seed, self.scope + name))

    def build(self, build: Build) -> nn.Module:
        """A network on the device, its initial weights from a named stream."""
        with seeded(random.seed_of(self.seed, self.scope + "weights"), self.device):
            return self.placed(build())

    def placed(self, model: nn.Module) -> nn.Module:
        """A network on the device in the memory format that is fastest there: channels last on CPUs and CUDA.

        Inputs may stay contiguous: the first convolution takes its weight's format, and the layers behind it follow. A
        network with modules of somebody else's is left contiguous, since they may flatten maps by `view`, which
        channels last forbids.
        """
        # Training in float32 on one thread with AVX2, 32×32 images, against contiguous weights: small_cnn 1.4 times as
        # fast, cifar_resnet, densenet, resnet18, preact_resnet18, resnext29, vgg19_bn 1.1 to 1.3, autoencoder 0.9 to
        # 1.2 by its kernel, dncnn, unet 1.1 to 1.2, vit 1.0; inputs converted beforehand gain nothing more.
        model = model.to(self.device)
        fast = self.device.type in ("cpu", "cuda") or self.recipe.precision == "bf16"
        return model.to(memory_format=torch.channels_last) if fast and _known(model) else model

    def frozen(self, model: nn.Module) -> nn.Module:
        """A copy to look at, as `placed`, in evaluation mode, its parameters without gradients; the model's mode,
        gradients and statistics stay as they are whatever happens.
        """
        # Batch normalisation is not folded into convolutions: that makes forward passes 0.8 to 1.06 times as fast, and
        # gradients at the input 1.06 to 1.2. Nothing is compiled: that takes 25 to 60 s a network and batch size.
        return self.placed(copy.deepcopy(model)).eval().requires_grad_(False)

    def chunks(self, count: int, values: int) -> Iterator[slice]:
        """Parts of `count` rows for one forward pass each, the one bound on its memory.

        Args:
            values: numbers in the input of a row.
        """
        size = max(1, AT_ONCE.get(self.device.type, 2**20) // values)
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def fit(self, model: nn.Module, data: Dataset, objective: Objective, *, name: str,
            recipe: Recipe | None = None, valid: Dataset | None = None) -> nn.Module:
        """Train `model` in place and return it. The name finds the phase's checkpoint: a finished phase is loaded.

        Raises:
            Diverged: a loss that is not finite, with epoch, learning rate and loss.
            ConfigError: the data set is empty, or too small to hold validation data out.
        """
        recipe = recipe or self.recipe
        if len(data) == 0:
            raise ConfigError(f"phase {name!r}: an empty data set given; expected at least one sample")
        if recipe.patience and valid is None:
            data, valid = split(data, HELD_OUT, random.seed_of(self.seed, f"{self.scope}{name}/held out"))
        if len(data) < self.fabric.world_size:
            raise ConfigError(f"phase {name!r}: {len(data)} samples for {self.fabric.world_size} devices; expected at "
                              "least one for each")
        model = self.placed(model)
        with seeded(random.seed_of(self.seed, self.scope + name), self.device):
            objective.to(self.device).start(model, self)
            _Phase(replace(self, recipe=recipe), model, data, objective, self.scope + name, valid).run_epochs()
        return model.eval()

    def artefact(self, key: dict[str, Any], build: Build, make: Callable[[Run], nn.Module],
                 scope: str | None = None) -> nn.Module:
        """A network that runs share: made once, by a run with streams of its own, and kept by the hash of its key.

        Args:
            key: all that decides it, as JSON values; say the fingerprint of the data and the seed.
            build: an untrained one, to load the kept weights into.
            make: trains one.
            scope: of the streams it is made with; None: one of its own.
        """
        key = key | ({} if self.recipe.precision == "32" else {"precision": self.recipe.precision})
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        run = replace(self, scope=f"artefact-{name}/" if scope is None else scope, history={})
        if self.shelf is None:
            return make(run).eval()
        with self.shelf.alone(name) if self.fabric.is_global_zero else contextlib.nullcontext():
            self.fabric.barrier()
            if (kept := self.shelf.load(name)) is not None:
                model = self.placed(build())
                load_weights(model, kept, f"network {name} of the shelf")
                return model.eval()
            model = make(replace(run, checkpoints=self.shelf.checkpoints(name))).eval()
            if self.fabric.is_global_zero:
                self.shelf.save(name, model.state_dict(), key)
        return model

    def per_sample(self, model: nn.Module, data: Dataset,
                   f: Callable[[Batch], dict[str, Tensor]], batch: int = 512) -> dict[str, Tensor]:
        """Columns of per-sample values over a data set, in its order, on the CPU.

        The model is put into evaluation mode, gradients are off; with several devices each takes its share of rows
        and every rank gets all of them.

        Args:
            batch: samples of a forward pass, at most; fewer where they are larger than 64 pixels a side.
        """
        if len(data) == 0:
            raise ConfigError("an empty data set given; expected at least one sample")
        batch = min(batch, max(1, LARGEST_BATCH // math.prod(data.shape)))
        world = self.fabric.world_size
        # Ranks take equally many rows, so that they can be gathered; the surplus repeats the first and is cut off.
        mine = torch.arange(self.fabric.global_rank, math.ceil(len(data) / world) * world, world) % len(data)
        was_training = model.training
        model.eval()
        steps = math.ceil(len(mine) / batch)
        with torch.no_grad(), self.autocast(), self.progress.task("per sample", steps) as advance:
            parts = []
            for index in torch.split(mine, batch):
                parts.append(f(data.fetch(index, self.device)))
                advance()
        model.train(was_training)
        columns = {name: torch.cat([part[name].detach().float().cpu() for part in parts]) for name in parts[0]}
        return {name: self._gathered(column)[: len(data)] for name, column in columns.items()}

    def _gathered(self, column: Tensor) -> Tensor:
        """The rows of all ranks, in the order of the data set."""
        if self.fabric.world_size == 1:
            return column
        everyone: Tensor = self.fabric.all_gather(column.to(self.device))  # type: ignore[assignment]
        return everyone.transpose(0, 1).flatten(0, 1).cpu()


def _known(model: nn.Module) -> bool:
    """Whether all modules are of packages whose networks run in any memory format."""
    return all(type(module).__module__.partition(".")[0] in KNOWN for module in model.modules())


def fabric(device: str = "auto", devices: int = 1) -> Fabric:
    """Devices to compute on.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" (the second GPU alone) or "mps".
        devices: how many of them.

    Raises:
        CannotComplete: the device is not there.
        ConfigError: several devices where one is named.
    """
    _keep_freed_memory()
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    accelerator, _, place = name.partition(":")
    if place and devices != 1:
        raise ConfigError(f"{devices} devices given with {name!r}, which is one; expected {accelerator!r}")
    try:
        return Fabric(accelerator=accelerator, devices=[int(place)] if place else devices,
                      strategy="auto" if devices == 1 else "ddp")
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        raise CannotComplete(f"cannot compute on {devices} × {name}: {error}; `sidedoor doctor` lists devices") \
            from error


@functools.cache
def _keep_freed_memory() -> None:
    """Let the C library keep what tensors leave instead of giving it back to the system and asking again.

    Small networks allocate and free megabytes many times a step, and the page faults cost a fifth of it. Nothing
    happens where the library is not GNU's.
    """
    mmap_threshold, trim_threshold = -3, -1  # of mallopt(3); 32 MiB is the most that the first takes
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 1 << 30)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's default generators seeded for the block, and put back as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def memory_format_of(model: nn.Module) -> Literal["channels_last", "contiguous"]:
    """How the weights of convolutions lie in memory; those of 1×1 kernels or one channel lie the same in both."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    last = any(w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in weights)
    return "channels_last" if last else "contiguous"


class _Phase:
    """One call of `Run.fit`: steps, epochs, checkpoints."""

    def __init__(self, run: Run, model: nn.Module, data: Dataset, objective: Objective, name: str,
                 valid: Dataset | None):
        recipe = run.recipe
        self.run, self.model, self.objective, self.name, self.recipe = run, model, objective, name, recipe
        self.data, self.valid = data.staged(run.device), valid
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.players = objective.players(model)
        self.optimisers = [recipe.optimiser([*self.parameters, *objective.combine.parameters()]),
                           *(player.recipe.optimiser(player.parameters) for player in self.players)]
        self.recipes = [recipe, *(player.recipe for player in self.players)]
        self.steps = _steps(len(data), recipe.batch, run.fabric.world_size)
        self.history: list[dict[str, float]] = []
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.waited = 0

    def run_epochs(self) -> None:
        first, done = self.resume()
        saved = time.monotonic()
        left = 0 if done else self.recipe.epochs - first  # only this is shown: what was done before took no time now
        with self.run.progress.task(self.name, left * self.steps) as advance:
            for epoch in range(first, first + left):
                torch.manual_seed(random.seed_of(self.run.seed, f"{self.name}/{epoch}/{self.run.fabric.global_rank}"))
                self.train_epoch(epoch, advance)
                # Not `or`: both must see every epoch.
                stop = any([self.objective.end_epoch(self.model, epoch), self.out_of_patience()])
                if stop or epoch + 1 == self.recipe.epochs or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save(epoch + 1, done=stop or epoch + 1 == self.recipe.epochs)
                    saved = time.monotonic()
                if stop:
                    break
        if self.best is not None:
            self.model.load_state_dict(self.best[1])
        self.run.history[self.name] = self.history

    def train_epoch(self, epoch: int, advance: Callable[..., None]) -> None:
        self.model.train()
        start, summed = time.monotonic(), torch.zeros((), device=self.run.device)
        for step, batch in enumerate(self.batches(epoch)):
            lr = self.set_lr(epoch * self.steps + step)
            summed = summed + self.step(batch)
            if step % 50 == 49 or step + 1 == self.steps:
                self.check_finite(summed.sum() / (step + 1), epoch, lr)
            advance(1, f"epoch {epoch + 1}/{self.recipe.epochs}")
        self.average_buffers()
        means = self.mean_over_ranks(summed / self.steps)
        self.objective.combine.end_epoch(means)
        parts = {f"loss_{i}": mean for i, mean in enumerate(means.tolist())} if len(means) > 1 else {}
        self.history.append({"epoch": epoch + 1, "loss": means.sum().item(), "lr": lr,
                             "seconds": time.monotonic() - start} | parts)

    def mean_over_ranks(self, losses: Tensor) -> Tensor:
        """Every rank weighs its tasks alike."""
        if self.run.fabric.world_size > 1:
            _average([losses], self.run.fabric)
        return losses

    def batches(self, epoch: int) -> Iterator[Batch]:
        """This rank's share of the epoch's batches, augmented; fetched ahead where rows are decoded on demand."""
        fabric = self.run.fabric
        order = torch.randperm(len(self.data), generator=self.run.rng(f"{self.name}/order/{epoch}"))
        chunks = torch.split(order, self.recipe.batch)
        shares = [chunk[fabric.global_rank :: fabric.world_size].contiguous() for chunk in chunks]
        fetch = functools.partial(self.data.at(epoch).fetch, device=self.run.device)
        for batch in (_ahead if self.data.lazy else map)(fetch, shares[: self.steps]):
            yield self.run.augment(batch) if self.run.augment else batch

    def set_lr(self, step: int) -> float:
        progress = step / (self.recipe.epochs * self.steps)
        for optimiser, recipe in zip(self.optimisers, self.recipes, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * recipe.scale(progress)
        return self.recipe.lr * self.recipe.scale(progress)

    def step(self, batch: Batch) -> Tensor:
        """One step of the model and of every player; the model's losses."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        with self.run.autocast():
            losses = self.objective.losses(self.model, batch)
        self.objective.combine.backward(losses, self.parameters)
        self.apply(self.optimisers[0], [*self.parameters, *self.objective.combine.parameters()], self.recipe)
        for optimiser, player in zip(self.optimisers[1:], self.players, strict=True):
            if player.losses is not None:
                with self.run.autocast():
                    own = player.losses(self.model, batch).sum()
                gradients = torch.autograd.grad(own, player.parameters, allow_unused=True)
                for parameter, gradient in zip(player.parameters, gradients, strict=True):
                    parameter.grad = gradient
            self.apply(optimiser, player.parameters, player.recipe)
        return stacked(losses).detach()

    def apply(self, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], recipe: Recipe) -> None:
        if self.run.fabric.world_size > 1:
            _average([p.grad for p in parameters if p.grad is not None], self.run.fabric)
        if recipe.clip:
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimiser.step()

    def average_buffers(self) -> None:
        """Ranks see different samples; their running statistics become one."""
        if self.run.fabric.world_size > 1:
            _average([b for b in self.model.buffers() if b.is_floating_point()], self.run.fabric)

    def check_finite(self, loss: Tensor, epoch: int, lr: float) -> None:
        if not torch.isfinite(loss):
            before = f"; the epoch before had {self.history[-1]['loss']:.3g}" if self.history else ""
            raise Diverged(f"phase {self.name!r}: the loss became {loss.item()} in epoch {epoch + 1} of "
                           f"{self.recipe.epochs} at learning rate {lr:.3g}{before}; lower `lr`, set `clip`, "
                           "or look for broken inputs")

    def out_of_patience(self) -> bool:
        """Whether the validation loss has not improved for `patience` epochs; keeps the best weights."""
        if self.valid is None:
            return False

        def rows(batch: Batch) -> dict[str, Tensor]:
            loss = stacked(self.objective.losses(self.model, batch)).sum()
            return {"loss": loss.expand(len(batch.index))}

        loss = self.run.per_sample(self.model, self.valid, rows)["loss"].mean().item()
        self.history[-1]["valid"] = loss
        if self.best is None or loss < self.best[0]:
            self.best = (loss, {k: v.detach().clone() for k, v in self.model.state_dict().items()})
            self.waited = 0
        else:
            self.waited += 1
        return 0 < self.recipe.patience <= self.waited

    def save(self, epoch: int, *, done: bool) -> None:
        if self.run.checkpoints is None or not self.run.fabric.is_global_zero:
            return
        self.run.checkpoints.save(self.name, {
            "epoch": epoch, "done": done, "history": self.history, "model": self.model.state_dict(),
            "objective": self.objective.state_dict(), "waited": self.waited,
            "best": list(self.best) if self.best else None,
            "optimisers": None if done else [o.state_dict() for o in self.optimisers],
        })

    def resume(self) -> tuple[int, bool]:
        """Load the phase's checkpoint if there is one: (epochs done, whether the phase is finished)."""
        self.run.fabric.barrier()
        state = self.run.checkpoints.load(self.name) if self.run.checkpoints else None
        if state is None:
            return 0, False
        load_weights(self.model, state["model"], f"the checkpoint of phase {self.name!r}")
        load_weights(self.objective, state["objective"], f"the checkpoint of phase {self.name!r}")
        self.history, self.waited = state["history"], state["waited"]
        self.best = tuple(state["best"]) if state["best"] else None
        if not state["done"]:
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
        return state["epoch"], state["done"]


def _steps(samples: int, batch: int, world: int) -> int:
    """Steps an epoch. A last batch too small for batch statistics on every rank is left out, unless it is alone."""
    whole, rest = divmod(samples, batch)
    return max(whole + (rest >= 2 * world), 1)


def _average(tensors: list[Tensor], fabric: Fabric) -> None:
    """Replace tensors by their mean over the ranks, in one collective."""
    flat = torch.cat([t.detach().flatten() for t in tensors])
    mean: Tensor = fabric.all_reduce(flat, reduce_op="mean")  # type: ignore[assignment]
    for tensor, part in zip(tensors, torch.split(mean, [t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def _ahead(fetch: Callable[[Tensor], Batch], shares: list[Tensor]) -> Iterator[Batch]:
    """Fetch one batch ahead of its use, in a thread."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fetch, shares[0])
        for share in shares[1:]:
            ready, waiting = waiting.result(), pool.submit(fetch, share)
            yield ready
        yield waiting.result()
