"""The contracts of the six stages of defence catch methods that break them; each here breaks one rule."""

from __future__ import annotations

import contextlib
import copy
import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Defense, Needs, Stage
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.defenses.purifiers.base import Purifier
from sidedoor.defenses.repair.base import Repair
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Exhibit, Finding, Rule
from sidedoor.tasks.task import Supervised, Task
from sidedoor.testing import check_defense
from sidedoor.types import Build, Images, Index, Purify

calls = itertools.count()


class Sieve(DataFilter):
    """Keeps every rule on its ground: the brightness of the corner with the square."""

    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return train.fetch(torch.arange(len(train))).x[..., -3:, -3:].mean((1, 2, 3))


class InvertedSieve(Sieve):
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return -super().score(train, task, build, run)


class ByLabelSieve(Sieve):
    """Suspects the class that has poison, and cannot tell it from the rest of that class."""

    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return -train.targets.float()


class Excused(InvertedSieve):
    sign_tested_in: ClassVar[str] = "tests/contracts/test_broken_defenses.py::test_a_broken_defense_is_caught"


class ShortSieve(Sieve):
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return super().score(train, task, build, run)[1:]


class UndefinedSieve(Sieve):
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return super().score(train, task, build, run) / 0


class RandomSieve(Sieve):
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return super().score(train, task, build, run) + next(calls)


class OracleSieve(Sieve):
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return train.is_poisoned()  # type: ignore[attr-defined]


class ClosureSieve(Sieve):
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        with contextlib.suppress(Exception):
            assert train._rows.__closure__  # type: ignore[attr-defined]
        return super().score(train, task, build, run)


class RelabellingSieve(Sieve):
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        train.targets.zero_()
        return super().score(train, task, build, run)


class DrawingSieve(Sieve):
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        torch.randperm(3)
        return super().score(train, task, build, run)


class Honest(TrainingDefense):
    """Keeps every rule: trains as a victim does."""

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return run.fit(run.build(build), train, Supervised(task), name="victim")


class Lazy(Honest):
    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return run.build(build)


class Wrapping(Honest):
    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return nn.Sequential(super().train(train, task, build, run))


class Bursting(Honest):
    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        model = super().train(train, task, build, run)
        next(model.parameters()).data.fill_(torch.nan)
        return model


class Scoreless(Honest):
    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return torch.zeros(3)


class Changing(Honest):
    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> Any:
        return super().train(train, task, build, replace(run, seed=next(calls)))


class Tuner(Repair):
    """Keeps every rule: trains a copy."""

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        return run.fit(copy.deepcopy(model).requires_grad_(), clean, Supervised(task), name="tune")


class InPlace(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        return run.fit(model, clean, Supervised(task), name="tune")


class Same(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        return model


class ModeChanging(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        return super().repair(model.train(), clean, task, run)


class Freezing(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired = super().repair(model, clean, task, run)
        model.requires_grad_(False)
        return repaired


class Hooking(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired = super().repair(model, clean, task, run)
        model.register_forward_hook(lambda *_: None)
        return repaired


class Differentiating(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired = super().repair(model, clean, task, run)
        parameter = [*model.parameters()][-1]
        parameter.grad = torch.zeros_like(parameter)
        return repaired


class Sharing(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        return copy.copy(model)


class Masked(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired = super().repair(model, clean, task, run)
        repaired.register_buffer("mask", torch.ones(1))
        return repaired


class Basing(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        return super().repair(model, clean.base, task, run)  # type: ignore[attr-defined]


class Wavering(Tuner):
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        return super().repair(model, clean, task, replace(run, seed=next(calls)))


@dataclass(frozen=True)
class Auditor(ModelAudit):
    """Keeps every rule on its ground: how often the square leads to each class; `spoil` changes what it found."""

    needs: ClassVar[Needs] = Needs(model="labels", clean="images")

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        x = clean.fetch(torch.arange(len(clean))).x.clone()
        x[..., -3:, -3:] = 1
        trigger, mask = torch.zeros(clean.shape), torch.zeros(clean.shape[1:])
        exhibits = (Exhibit("trigger", "picture", "recovered", trigger), Exhibit("mask", "mask", "recovered", mask))
        shares = tuple(task.predict(model, x).mean(0).tolist())
        return self.spoil(Finding(max(shares), Rule(1.0, 2.0), (0,), shares, exhibits), model)

    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        return finding


class Fifth(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        return replace(finding, suspected=(0, 4))


class InvertedAuditor(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        return replace(finding, score=-finding.score)


class Constant(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        return replace(finding, score=1.0)


class Speechless(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        if finding.score < 0.9:
            raise NotApplicable("no trigger")
        return finding


class ThreeClasses(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        return replace(finding, per_class=(0.0, 1.0, 2.0))


class Batched(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        return replace(finding, exhibits=(Exhibit("trigger", "picture", "", torch.zeros(1, 3, 16, 16)),))


class Negative(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        return replace(finding, exhibits=(Exhibit("mask", "mask", "", torch.full((16, 16), -0.5)),))


class Square(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        return replace(finding, exhibits=(Exhibit("gains", "curve", "", torch.zeros(2, 2)),))


class ModeLeaving(Auditor):
    needs: ClassVar[Needs] = Needs(model="weights", clean="images")

    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        model.train()
        return finding


class Moody(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Finding:
        return replace(finding, score=float(next(calls)))


class Verdict(Auditor):
    def spoil(self, finding: Finding, model: nn.Module) -> Any:
        return True


class Corner(InputDetector):
    """Keeps every rule on its ground: the brightness of the corner with the square."""

    needs: ClassVar[Needs] = Needs()

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: x[..., -3:, -3:].mean((1, 2, 3))


class Inverted(Corner):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: -x[..., -3:, -3:].mean((1, 2, 3))


class Relative(Corner):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: x[..., -3:, -3:].mean((1, 2, 3)) - x[..., -3:, -3:].mean()


class Noisy(Corner):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: x[..., -3:, -3:].mean((1, 2, 3)) + torch.rand(len(x))


class Columned(Corner):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: x[..., -3:, -3:].mean((1, 2, 3))[:, None]


class Infinite(Corner):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: x[..., -3:, -3:].mean((1, 2, 3)) / 0


class Erasing(Corner):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: x[..., -3:, -3:].mean((1, 2, 3)) + x.zero_().sum()


class TrainModed(Corner):
    needs: ClassVar[Needs] = Needs(model="weights")

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: x[..., -3:, -3:].mean((1, 2, 3)) + model.train()(x)[:, 0]


class Undeclared(InputDetector):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: x[..., -3:, -3:].mean((1, 2, 3))


class SeededAnew(Corner):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        offset = next(calls)
        return lambda x, index: x[..., -3:, -3:].mean((1, 2, 3)) + offset


class Mirror(Purifier):
    """Keeps every rule: mirrors some images, chosen by their index."""

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        seed = run.rng("mirror").initial_seed()

        def purify(x: Images, index: Index) -> Any:
            mirrored = random.integers(seed, index, 2).bool()[:, None, None, None]

            def undo(output: Any) -> Any:
                return torch.where(mirrored, output.flip(3), output) if output.ndim == 4 else output

            return self.spoil(torch.where(mirrored, x.flip(3), x)), undo

        return purify

    def spoil(self, x: Images) -> Images:
        return x


class Cropping(Mirror):
    def spoil(self, x: Images) -> Images:
        return x[..., 1:, 1:]


class Glowing(Mirror):
    def spoil(self, x: Images) -> Images:
        return x + 0.7


class Blurry(Mirror):
    def spoil(self, x: Images) -> Images:
        return (x + torch.rand_like(x)) / 2


class Mixing(Mirror):
    def spoil(self, x: Images) -> Images:
        return (x + x.mean(0)) / 2


class NoUndo(Mirror):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Any:
        return lambda x, index: (x, None)


class Overdone(Mirror):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Any:
        return lambda x, index: (x, lambda output: output.flip(1))


class Relabelling(Mirror):
    """Keeps every rule: says that it permutes classes, and does."""

    relabels: ClassVar[bool] = True

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Any:
        return lambda x, index: (x, lambda output: self.permuted(output, index) if output.ndim == 2 else output)

    def permuted(self, output: Tensor, index: Index) -> Tensor:
        return output.roll(1, 1)


class Overturning(Relabelling):
    def permuted(self, output: Tensor, index: Index) -> Tensor:
        return torch.where(index[:, None] % 2 == 0, output, output.flip(1))


class Merging(Relabelling):
    def permuted(self, output: Tensor, index: Index) -> Tensor:
        return output[:, :1].expand_as(output)


class Sorting(Relabelling):
    def permuted(self, output: Tensor, index: Index) -> Tensor:
        return output.sort(1).values


class Holding(Mirror):
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Any:
        object.__setattr__(self, "model", model)
        return super().fit(model, clean, task, run)


class Stageless(Defense):
    stage: ClassVar[Stage] = Stage("prayer", "pray", "hopes", 2)
    needs: ClassVar[Needs] = Needs()


BROKEN = [
    (ShortSieve, r"expected floats \(200,\)"), (UndefinedSieve, "not finite"),
    (RandomSieve, "scored otherwise with the same seed"), (OracleSieve, "read `is_poisoned`"),
    (ClosureSieve, "read _rows"), (RelabellingSieve, "changed the data set"),
    (DrawingSieve, "default generator of torch"),
    (InvertedSieve, r"above poisoned ones of the same label \(AUROC 0"), (ByLabelSieve, r"\(AUROC 0\.5\)"),
    (Lazy, "nothing was trained"), (Wrapping, "differs from the architecture's"), (Bursting, "finite outputs"),
    (Scoreless, "gave a Tensor, expected a model"), (Changing, "something else with the same seed"),
    (InPlace, "changed the weights or buffers"), (Same, "gave back the model"), (ModeChanging, "the training flags"),
    (Freezing, "the requires_grad flags"), (Hooking, "the hooks"),
    (Differentiating, "the gradients"), (Sharing, "shares weights"), (Masked, "by mask; bake"), (Basing, "read `base`"),
    (Wavering, "repaired otherwise with the same seed"),
    (Fifth, r"suspects \(0, 4\)"), (ThreeClasses, "per_class is"),
    (Batched, "trigger has the shape"), (Negative, "mask leaves"), (Square, "gains is no curve"),
    (ModeLeaving, "the training flags"), (Moody, "found .* then .* with the same seed"),
    (Verdict, "gave a bool, expected a Finding"),
    (InvertedAuditor, r"clean model \(-0\.\d+\) no lower than a backdoored one \(-1"),
    (Constant, r"clean model \(1\.0\) no lower"), (Speechless, "says nothing of a clean model: .*no trigger"),
    (Inverted, "above stamped ones"), (Relative, "by its neighbours"), (Noisy, "something else the second time"),
    (Columned, r"expected floats \(8,\)"), (Infinite, "not finite"), (Erasing, "wrote into its input"),
    (TrainModed, "something else the second time|neighbours|changed the weights or buffers"),
    (SeededAnew, "fitted again with the same seed"),
    (Cropping, "keeps its shape"), (Glowing, r"left \[0, 1\]"), (Blurry, "something else the second time"),
    (Mixing, "by its neighbours"), (NoUndo, "expected a function that realigns"), (Overdone, "no place to realign"),
    (Overturning, "alike for all inputs"), (Merging, "alike for all inputs"), (Sorting, "alike for all inputs"),
    (Holding, "keeps model on the instance"), (Stageless, "no known stage: prayer"),
    (Undeclared, "declares no `needs`"),
]


@pytest.mark.parametrize("sound", [Sieve, Excused, Honest, Tuner, Auditor, Corner, Mirror, Relabelling])
def test_the_defenses_that_the_broken_ones_change_are_sound(sound: type[Defense]) -> None:
    check_defense(sound())


@pytest.mark.parametrize(("defense", "message"), BROKEN, ids=[defense.__name__ for defense, _ in BROKEN])
def test_a_broken_defense_is_caught(defense: type[Defense], message: str) -> None:
    with pytest.raises(AssertionError, match=f"defence {defense.__name__}: .*({message})"):
        check_defense(defense())
