"""Tests of data-set ownership: how often they accuse models that never saw the data, and how often they find a thief.

    python experiments/ownership.py innocent --models 50 --secrets 20 --out runs/ownership
    python experiments/ownership.py families --models 50 --secrets 20 --out runs/ownership
    python experiments/ownership.py thieves  --models 20 --out runs/ownership
    python experiments/ownership.py survival --models 5 --out runs/ownership
    python experiments/ownership.py page     --out runs/ownership

`innocent` trains models on scikit-learn's digits without any mark and asks each about secrets that were drawn for
nobody. `families` asks such models about single triggers of several kinds, of which any network answers some. `thieves`
trains models on data that were marked, at several rates, each with a secret of its own. `survival` asks what thieves
made of their models or of the data in order to lose the mark. All go on where they stopped: what was found is kept in
the folder, a line a verdict. `page` prints the tables and trains nothing. Models are trained on a random half of the
training data each, so that they differ, except in `survival`; the images of the tests are from the test data.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sidedoor as sd
from sidedoor import registry, zoo
from sidedoor.attacks.poisoning._random_patch import random_patch
from sidedoor.attacks.poisoning.key_watermark import KeyWatermark
from sidedoor.attacks.poisoning.ubw_p import UbwP
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.claims.suspects.model import ModelSuspect
from sidedoor.data.augment import augmentation
from sidedoor.data.base import ArrayDataset, Dataset, Subset
from sidedoor.goals.secret_labels import SecretLabels
from sidedoor.metrics.statistics import wilson
from sidedoor.ownership.decoys import Decoys
from sidedoor.ownership.ubw import Ubw
from sidedoor.triggers.blend import Blend

Shape = tuple[int, int, int]
RECIPE = sd.Recipe(epochs=10, batch=32)
NETWORK = {"name": "small_cnn", "width": 16}
IMAGES, DECOYS = 25, 99
RATES = (0.02, 0.04, 0.08, 0.16, 0.24)
"""Shares of the rows that eight keys mark together; an untargeted mark has the same."""
TESTS = {"keys": ("keys", "keys_soft", "keys_sequential", "dvbw", "dvbw_label_only"), "untargeted": ("decoys", "ubw")}
FAMILIES: dict[str, Callable[[Shape, torch.Generator], sd.Trigger]] = {
    "3×3 patch": lambda shape, rng: random_patch(shape, 3, rng),
    "5×5 patch": lambda shape, rng: random_patch(shape, 5, rng),
    "noise blended 0.2": lambda shape, rng: Blend(torch.rand(shape, generator=rng), 0.2),
    "noise blended 0.4": lambda shape, rng: Blend(torch.rand(shape, generator=rng), 0.4),
}
SINGLE = ({"name": "decoys", "alpha": 0.05}, "dvbw", {"name": "dvbw", "margin": 0.0}, "ubw",
          {"name": "ubw", "margin": 0.0})
"""What single triggers are tested by."""
LEVELS = (0.05, 0.01, 0.001)
Mark = KeyWatermark | UbwP


def main() -> None:
    """One of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["innocent", "families", "thieves", "survival", "page"])
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--secrets", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/ownership"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.command == "page":
        print("\n".join(page(given.out)))
        return
    study = Study()
    asked = {"innocent": innocent, "families": families}
    work = asked[given.command](study, given.models, given.secrets) if given.command in asked else \
        {"thieves": thieves, "survival": survival}[given.command](study, given.models)
    kept = given.out / f"{given.command}.jsonl"
    done = {line["case"] for line in lines(kept)}
    with open(kept, "a", encoding="utf-8") as file:
        for case, found in work:
            if case not in done:
                file.write("".join(json.dumps({"case": case, **each}) + "\n" for each in found()))
                file.flush()


class Study:
    """The digits, and models of them."""

    def __init__(self) -> None:
        splits = zoo.load("digits")
        self.train, self.task = splits.train, sd.Classification(len(splits.train.classes))
        rows = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:IMAGES]
        self.images = ArrayDataset(splits.test.rows(rows), splits.test.targets[rows], splits.test.classes, "asked")
        self.test = splits.test
        self.build = registry.make("model", NETWORK, classes=self.task.classes, shape=self.train.shape)

    def run(self, seed: int) -> sd.AttackerRun:
        """With the streams of a seed."""
        return sd.AttackerRun.of(sd.Run.local(RECIPE, seed, device="cpu"))

    def half(self, seed: int) -> Dataset:
        """A random half of the training data."""
        order = torch.randperm(len(self.train), generator=self.run(seed).rng("half"))
        return Subset(self.train, order[: len(order) // 2])

    def model(self, data: Dataset, seed: int) -> ModelSuspect:
        """Trained on data."""
        run = self.run(seed)
        trained = run.fit(run.build(self.build), data, sd.Supervised(self.task), name="model")
        return self.suspect(trained)

    def suspect(self, model: nn.Module) -> ModelSuspect:
        return ModelSuspect(model, self.task.classes, sd.Run.local(device="cpu"))

    def tests(self, suspect: ModelSuspect, kind: str, secret: sd.Secret, seed: int) -> Iterator[dict[str, Any]]:
        """All tests that are for a kind of mark."""
        for name in TESTS[kind]:
            test = registry.make("verifier", name)
            verdict = test.verify(suspect, secret, self.images, self.task, self.run(seed))
            yield {"test": name, "p": verdict.p_value, "effect": verdict.effect, "statistic": verdict.statistic}

    @functools.cache  # noqa: B019  (there is one study)
    def unmarked(self, seed: int) -> float:
        """Accuracy of a model of data without marks."""
        return self.accuracy(self.model(self.half(seed), seed))

    def accuracy(self, suspect: ModelSuspect) -> float:
        """On test images without any trigger."""
        every = torch.arange(len(self.test))
        said = suspect.answer(self.test.rows(every).permute(0, 2, 3, 1).contiguous().numpy())
        return float((said.labels == self.test.targets.numpy()).mean())


def marks(rate: float = 0.1) -> dict[str, Mark]:
    """Of each kind."""
    return {"keys": KeyWatermark(SecretLabels(8), rate=rate), "untargeted": UbwP(rate=rate)}


def secret_of(study: Study, mark: Mark, data: Dataset, seed: int) -> tuple[sd.Secret, Dataset]:
    """A secret, and the data that have its mark."""
    run = replace(study.run(seed), scope="owner/")
    backdoor = mark.plan(data, study.task, study.build, run)
    return mark.secret(backdoor, data, study.task, DECOYS, run), PoisonedDataset(data, backdoor, study.task)


def innocent(study: Study, models: int, secrets: int) -> Iterator[tuple[str, Any]]:
    """Of each model, its answers to secrets that it knows nothing of."""
    for k in range(models):
        def found(k: int = k) -> Iterator[dict[str, Any]]:
            suspect = study.model(study.half(k), k)
            for j in range(secrets):
                for kind, mark in marks().items():
                    secret, _ = secret_of(study, mark, study.train, 10_000 + 1000 * k + j)
                    yield from study.tests(suspect, kind, secret, j)

        yield f"model {k}", found


def families(study: Study, models: int, secrets: int) -> Iterator[tuple[str, Any]]:
    """Of each model, its answers to single triggers that it knows nothing of, with a random label each."""
    for k in range(models):
        def found(k: int = k) -> Iterator[dict[str, Any]]:
            suspect, shape = study.model(study.half(k), k), study.train.shape
            for family, make in FAMILIES.items():
                for j in range(secrets):
                    rng = study.run(10_000 + 1000 * k + j).rng(family)
                    label = int(torch.randint(study.task.classes, (), generator=rng))
                    secret = sd.Secret((make(shape, rng),), (label,), tuple(make(shape, rng) for _ in range(DECOYS)))
                    unled = replace(secret, labels=())
                    for given in SINGLE:
                        test = registry.make("verifier", given)
                        kept = unled if isinstance(test, Ubw | Decoys) else secret
                        said = test.verify(suspect, kept, study.images, study.task, study.run(j))
                        name = f"{registry.name_of(test)} τ={getattr(test, 'margin', '')}".removesuffix(" τ=")
                        yield {"family": family, "test": name, "p": said.p_value, "effect": said.effect}

        yield f"model {k}", found


def thieves(study: Study, models: int) -> Iterator[tuple[str, Any]]:
    """Models of marked data, with what the mark costs."""
    for k in range(models):
        for rate in RATES:
            for kind, mark in marks(rate).items():
                def found(k: int = k, rate: float = rate, kind: str = kind, mark: Mark = mark) \
                        -> Iterator[dict[str, Any]]:
                    secret, marked = secret_of(study, mark, study.half(k), 50_000 + k)
                    suspect = study.model(marked, k)
                    cost = study.unmarked(k) - study.accuracy(suspect)
                    for each in study.tests(suspect, kind, secret, k):
                        yield {"rate": rate, "cost": cost, **each}

                yield f"model {k}, {kind}, {rate}", found


SURVIVED = 0.16
"""Share of the rows that are marked: 2 % for each of eight keys."""
OTHER_NETWORK = {"name": "resnet18", "width": 8}
REPAIRS = ({"name": "fine_tuning", "epochs": 40}, "fine_pruning", "super_fine_tuning", "unlearn_trigger")
FILTERS = ("spectral_signatures", "scan_filter")


def survival(study: Study, models: int) -> Iterator[tuple[str, Any]]:
    """What is left of eight keys after what a thief may do; the thief has a tenth of the clean test images."""
    for k in range(models):
        def found(k: int = k) -> Iterator[dict[str, Any]]:
            secret, marked = secret_of(study, marks(SURVIVED)["keys"], study.train, 50_000 + k)
            for name, suspect in stolen(study, marked, k):
                test = registry.make("verifier", "keys")
                verdict = test.verify(suspect, secret, study.images, study.task, study.run(k))
                yield {"what": name, "p": verdict.p_value, "hits": verdict.statistic,
                       "accuracy": study.accuracy(suspect)}

        yield f"model {k}", found


def stolen(study: Study, marked: PoisonedDataset, seed: int) -> Iterator[tuple[str, ModelSuspect]]:
    """A thief's model, and what else the thief may make of the data or of the model."""
    run, view = study.run(seed), seal(marked)[0]
    defender = sd.Run.local(RECIPE, seed, device="cpu")
    few = Subset(study.test, torch.randperm(len(study.test), generator=run.rng("thief"))[: len(study.test) // 4])
    own = run.fit(run.build(study.build), view, sd.Supervised(study.task), name="model")
    yield "nothing", study.suspect(own)
    for given in REPAIRS:
        repair = registry.make("defense", given)
        try:
            yield registry.name_of(repair), study.suspect(repair.repair(own, few, study.task, defender))
        except sd.NotApplicable:
            yield registry.name_of(repair), study.suspect(own)
    for given in FILTERS:
        method = registry.make("defense", given)
        extra = (few,) if given == "scan_filter" else ()
        scores = method.score(view, *extra, study.task, study.build, defender.within(given))
        kept = Subset(view, scores.argsort()[: round(0.76 * len(view))].sort().values)
        yield f"{given}, then trained anew", study.model(kept, seed)
    order = torch.randperm(len(view), generator=run.rng("part"))
    yield "half of the release", study.model(Subset(view, order[: len(view) // 2]), seed)
    moved = replace(run, augment=augmentation(("crop", "noise")))
    yield "trained with crops and noise", study.suspect(
        moved.fit(moved.build(study.build), view, sd.Supervised(study.task), name="moved"))
    other = registry.make("model", OTHER_NETWORK, classes=study.task.classes, shape=study.train.shape)
    yield "another network", study.suspect(run.fit(run.build(other), view, sd.Supervised(study.task), name="other"))
    rows = study.test.rows(torch.arange(len(study.test)))
    labels = torch.from_numpy(study.suspect(own).answer(rows.permute(0, 2, 3, 1).contiguous().numpy()).labels)
    taught = ArrayDataset(rows, labels, study.test.classes, "taught")
    yield "distilled to other images by labels", study.model(taught, seed)


def lines(file: Path) -> list[dict[str, Any]]:
    """What was kept."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def page(out: Path) -> Iterator[str]:
    """The tables."""
    yield from ("Share of claims against models that never saw the data, by the level, with 95 % intervals:", "")
    yield "| test | claims at 0.05 | at 0.01 | at 0.001 | verdicts |"
    yield "|---|---|---|---|---|"
    for name in (name for names in TESTS.values() for name in names):
        found = [line["p"] for line in lines(out / "innocent.jsonl") if line["test"] == name]
        if found:
            yield f"| {name} | {' | '.join(share([p <= level for p in found]) for level in LEVELS)} | {len(found)} |"
    yield from ("", "Claims at 0.05 by single triggers against models that never saw them:", "")
    kept = lines(out / "families.jsonl")
    names = sorted({line["test"] for line in kept})
    yield f"| trigger | {' | '.join(names)} |"
    yield f"|---|{'---|' * len(names)}"
    for family in FAMILIES:
        own = [[line["p"] <= 0.05 for line in kept if (line["family"], line["test"]) == (family, name)]
               for name in names]
        yield f"| {family} | {' | '.join(share(each) for each in own)} |"
    yield from ("", "Share of thieves that are found at a level of 0.01, by the share of the rows that are marked:", "")
    kept = lines(out / "thieves.jsonl")
    rates = sorted({line["rate"] for line in kept})
    yield f"| test | {' | '.join(f'{100 * rate:g} %' for rate in rates)} |"
    yield f"|---|{'---|' * len(rates)}"
    for name in (name for names in TESTS.values() for name in names):
        own = [[line["p"] <= 0.01 for line in kept if (line["test"], line["rate"]) == (name, rate)] for rate in rates]
        yield f"| {name} | {' | '.join(share(each) for each in own)} |"
    for name, words in (("keys", "eight keys"), ("decoys", "the untargeted mark")):
        costs = [[line["cost"] for line in kept if (line["test"], line["rate"]) == (name, rate)] for rate in rates]
        yield f"| points of accuracy that {words} cost | " + " | ".join(
            f"{100 * sum(each) / max(1, len(each)):.1f}" for each in costs) + " |"


    yield from ("", "What is left of eight keys, 2 % of the rows each, after what a thief may do:", "")
    yield "| what was done | keys met of 8 | found at 0.01 | accuracy | thieves |"
    yield "|---|---|---|---|---|"
    kept = lines(out / "survival.jsonl")
    for what in dict.fromkeys(line["what"] for line in kept):
        of = [line for line in kept if line["what"] == what]
        hits, accuracy = (sum(line[name] for line in of) / len(of) for name in ("hits", "accuracy"))
        yield f"| {what} | {hits:.1f} | {share([line['p'] <= 0.01 for line in of])} | {accuracy:.3f} | {len(of)} |"


def share(claims: list[bool]) -> str:
    """With its interval."""
    if not claims:
        return "–"
    low, high = wilson(sum(claims), len(claims))
    return f"{sum(claims) / len(claims):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
