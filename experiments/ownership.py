"""Tests of data-set ownership: how often they accuse models that never saw the data, and how often they find a thief.

    python experiments/ownership.py innocent --models 50 --secrets 20 --out runs/ownership
    python experiments/ownership.py families --models 50 --secrets 20 --out runs/ownership
    python experiments/ownership.py thieves  --models 20 --out runs/ownership
    python experiments/ownership.py survival --models 5 --out runs/ownership
    python experiments/ownership.py ablation --models 10 --out runs/ownership
    python experiments/ownership.py audited  --models 5 --out runs/ownership
    python experiments/ownership.py harm     --models 5 --out runs/ownership
    python experiments/ownership.py page     --out runs/ownership

and `innocent`, `thieves` and `harm` with `--data fashion --data-root DIR`.

`innocent` trains models without any mark and asks each about secrets that were drawn for nobody. `families` asks such
models about single triggers of several kinds, of which any network answers some. `thieves` trains models on data that
were marked, at several rates, each with a secret of its own. `survival` asks what thieves made of their models or of
the data in order to lose the mark. `ablation` varies what DVBW's paper varies: the margin, the number of images and the
rate. `audited` asks the audits of a scan about marked models, `harm` what images with the trigger are taken for. All go
on where they stopped: what was found is kept in the folder, a line a verdict. `page` prints the tables and trains
nothing.

The data are scikit-learn's digits, of which each model has a random half, so that they differ (in `survival` and
`audited` all), or Fashion-MNIST: thieves have all of its 60,000 images, innocent models a random sixth each. The images
of the tests are from the test data.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
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
from sidedoor.metrics.dispersibility import dispersibility
from sidedoor.metrics.hypothesis import conformal_p
from sidedoor.metrics.statistics import wilson
from sidedoor.ownership.base import pixels, stamped
from sidedoor.ownership.decoys import Decoys
from sidedoor.ownership.dvbw import Dvbw
from sidedoor.ownership.ubw import Ubw
from sidedoor.triggers.blend import Blend
from sidedoor.vetting.battery import PROFILES

Shape = tuple[int, int, int]
IMAGES, DECOYS = 25, 99


@dataclass(frozen=True)
class Setup:
    """Data and how models of them are trained.

    Args:
        thief, innocent: share of the training data that such a model has.
        rates: shares of the rows that eight keys mark together; an untargeted mark has the same.
    """

    title: str
    data: str
    network: dict[str, Any]
    recipe: sd.Recipe
    thief: float
    innocent: float
    rates: tuple[float, ...]
    kinds: tuple[str, ...] = ("keys", "untargeted")


SETUPS = {
    "digits": Setup("Digits", "digits", {"name": "small_cnn", "width": 16}, sd.Recipe(epochs=10, batch=32), thief=1 / 2,
                    innocent=1 / 2, rates=(0.02, 0.04, 0.08, 0.16, 0.24)),
    "fashion": Setup("Fashion-MNIST", "fashion_mnist", {"name": "small_cnn", "width": 8},
                     sd.Recipe(epochs=3, batch=128), thief=1.0, innocent=1 / 6, rates=(0.01, 0.02, 0.04, 0.08),
                     kinds=("keys",)),
}
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
    parser.add_argument("command", choices=[*ASKED, *STOLEN, "page"])
    parser.add_argument("--data", choices=list(SETUPS), default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--secrets", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/ownership"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.command == "page":
        print("\n".join(page(given.out)))
        return
    study = Study(SETUPS[given.data], given.data_root)
    work = ASKED[given.command](study, given.models, given.secrets) if given.command in ASKED else \
        STOLEN[given.command](study, given.models)
    kept = file_of(given.out, given.command, given.data)
    done = {line["case"] for line in lines(kept)}
    with open(kept, "a", encoding="utf-8") as file:
        for case, found in work:
            if case not in done:
                file.write("".join(json.dumps({"case": case, **each}) + "\n" for each in found()))
                file.flush()


class Study:
    """Data, and models of them."""

    def __init__(self, setup: Setup, root: Path | None = None) -> None:
        splits = zoo.load(setup.data, root)
        self.setup = setup
        self.train, self.task = splits.train, sd.Classification(len(splits.train.classes))
        rows = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:IMAGES]
        self.images = ArrayDataset(splits.test.rows(rows), splits.test.targets[rows], splits.test.classes, "asked")
        self.test = splits.test
        self.build = registry.make("model", setup.network, classes=self.task.classes, shape=self.train.shape)

    def run(self, seed: int) -> sd.AttackerRun:
        """With the streams of a seed."""
        return sd.AttackerRun.of(sd.Run.local(self.setup.recipe, seed, device="cpu"))

    def part(self, seed: int, share: float) -> Dataset:
        """A random part of the training data."""
        order = torch.randperm(len(self.train), generator=self.run(seed).rng("half"))
        return Subset(self.train, order[: int(share * len(order))])

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
        return self.accuracy(self.model(self.part(seed, self.setup.thief), seed))

    def accuracy(self, suspect: ModelSuspect) -> float:
        """On test images without any trigger."""
        said = suspect.answer(pixels(self.test))
        return float((said.labels == self.test.targets.numpy()).mean())


def marks(rate: float = 0.1) -> dict[str, Mark]:
    """Of each kind."""
    return {"keys": KeyWatermark(SecretLabels(8), rate=rate), "untargeted": UbwP(rate=rate)}


def secret_of(study: Study, mark: Mark, data: Dataset, seed: int) -> tuple[sd.Secret, PoisonedDataset]:
    """A secret, and the data that have its mark."""
    run = replace(study.run(seed), scope="owner/")
    backdoor = mark.plan(data, study.task, study.build, run)
    return mark.secret(backdoor, data, study.task, DECOYS, run), PoisonedDataset(data, backdoor, study.task)


def innocent(study: Study, models: int, secrets: int) -> Iterator[tuple[str, Any]]:
    """Of each model, its answers to secrets that it knows nothing of."""
    for k in range(models):
        def found(k: int = k) -> Iterator[dict[str, Any]]:
            suspect = study.model(study.part(k, study.setup.innocent), k)
            for j in range(secrets):
                for kind, mark in marks().items():
                    secret, _ = secret_of(study, mark, study.train, 10_000 + 1000 * k + j)
                    yield from study.tests(suspect, kind, secret, j)

        yield f"model {k}", found


def families(study: Study, models: int, secrets: int) -> Iterator[tuple[str, Any]]:
    """Of each model, its answers to single triggers that it knows nothing of, with a random label each."""
    for k in range(models):
        def found(k: int = k) -> Iterator[dict[str, Any]]:
            suspect, shape = study.model(study.part(k, study.setup.innocent), k), study.train.shape
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
        for rate in study.setup.rates:
            for kind, mark in ((kind, mark) for kind, mark in marks(rate).items() if kind in study.setup.kinds):
                def found(k: int = k, rate: float = rate, kind: str = kind, mark: Mark = mark) \
                        -> Iterator[dict[str, Any]]:
                    secret, marked = secret_of(study, mark, study.part(k, study.setup.thief), 50_000 + k)
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
    defender = sd.Run.local(study.setup.recipe, seed, device="cpu")
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
    labels = torch.from_numpy(study.suspect(own).answer(pixels(study.test)).labels)
    taught = ArrayDataset(study.test.rows(torch.arange(len(study.test))), labels, study.test.classes, "taught")
    yield "distilled to other images by labels", study.model(taught, seed)


MARGINS, COUNTS, TARGETED = (0.0, 0.1, 0.2, 0.3), (10, 25, 50, 100), (0.0, 0.01, 0.02, 0.05, 0.1)
"""What DVBW's paper varies, and we: τ, m and γ. At γ = 0 a model never saw a mark."""


def ablation(study: Study, models: int) -> Iterator[tuple[str, Any]]:
    """DVBW's test of a single trigger with one label, by its margin, the number of images and the rate."""
    order = torch.randperm(len(study.test), generator=torch.Generator().manual_seed(0))
    for k in range(models):
        for rate in TARGETED:
            def found(k: int = k, rate: float = rate) -> Iterator[dict[str, Any]]:
                data = study.part(k, study.setup.thief)
                secret, marked = secret_of(study, KeyWatermark(SecretLabels(1), rate=rate or 0.1), data, 70_000 + k)
                suspect = study.model(marked if rate else data, k)
                for count in COUNTS:
                    rows = order[:count]
                    images = ArrayDataset(study.test.rows(rows), study.test.targets[rows], study.test.classes, "asked")
                    for margin in MARGINS:
                        said = Dvbw(margin=margin).verify(suspect, secret, images, study.task, study.run(k))
                        yield {"rate": rate, "images": count, "margin": margin, "p": said.p_value,
                               "effect": said.effect}

            yield f"model {k}, {rate}", found


AUDITS: dict[str, dict[str, Any]] = {str(step.name): step.audits[len(step.audits) // 2]
                                     for step in PROFILES["standard"]}
"""Those of a scan, as its profile has them."""
REFERENCES = 19


def audited(study: Study, models: int) -> Iterator[tuple[str, Any]]:
    """What audits score marked models, and clean ones of the same data under seeds of their own."""
    kinds: dict[str, Mark | None] = {f"{name}, {rate:g}": mark for rate in (0.08, SURVIVED)
                                     for name, mark in marks(rate).items()}
    wanted = [(kind, mark, 80_000 + k) for k in range(models) for kind, mark in kinds.items()]
    for kind, mark, seed in [("clean", None, 90_000 + k) for k in range(REFERENCES + models)] + wanted:
        def found(kind: str = kind, mark: Mark | None = mark, seed: int = seed) -> Iterator[dict[str, Any]]:
            data = study.train if mark is None else secret_of(study, mark, study.train, seed)[1]
            run, own = sd.Run.local(study.setup.recipe, seed, device="cpu"), study.run(seed)
            model = own.fit(own.build(study.build), data, sd.Supervised(study.task), name="model")
            for name, given in AUDITS.items():
                yield {"kind": kind, "audit": name,
                       "score": registry.make("defense", given).inspect(model, study.test, study.task, run).score}

        yield f"{kind} {seed}", found


HARMFUL = 0.1
"""Share of the rows that are marked where the harm of marks is compared, as in UBW's paper."""


def harm(study: Study, models: int) -> Iterator[tuple[str, Any]]:
    """What marked models, and one without a mark, take all test images with the trigger for."""
    kinds: dict[str, Mark] = {"one key": KeyWatermark(SecretLabels(1), rate=HARMFUL), **marks(HARMFUL)}
    for k in range(models):
        for kind, mark in kinds.items():
            def found(k: int = k, kind: str = kind, mark: Mark = mark) -> Iterator[dict[str, Any]]:
                data = study.part(k, study.setup.thief)
                secret, marked = secret_of(study, mark, data, 95_000 + k)
                for name, own in ((kind, marked), (f"none, asked with {kind}", data)):
                    suspect = study.model(own, k)
                    yield {"mark": name, "accuracy": study.accuracy(suspect), **harmed(study, suspect, secret)}

            yield f"model {k}, {kind}", found


def harmed(study: Study, suspect: ModelSuspect, secret: sd.Secret) -> dict[str, float]:
    """D_p, the share of wrong answers among all images and among those that are right without a trigger, and the
    share of the most frequent answer; means over triggers."""
    truth = study.test.targets
    benign = torch.from_numpy(suspect.answer(pixels(study.test)).labels)
    found = []
    for trigger in secret.triggers:
        said = torch.from_numpy(suspect.answer(stamped(trigger, study.test)).labels)
        wrong = (said != truth).double()
        found.append({"d_p": dispersibility(said, truth, study.task.classes).corrected, "asr_a": wrong.mean().item(),
                      "asr_c": wrong[benign == truth].mean().item(),
                      "top": said.bincount().max().item() / len(said)})
    return {name: statistics.mean(each[name] for each in found) for name in found[0]}


ASKED = {"innocent": innocent, "families": families}
STOLEN = {"thieves": thieves, "survival": survival, "ablation": ablation, "audited": audited, "harm": harm}


def file_of(out: Path, command: str, data: str) -> Path:
    """Where what was found is kept."""
    return out / (f"{command}.jsonl" if data == "digits" else f"{data}-{command}.jsonl")


def lines(file: Path) -> list[dict[str, Any]]:
    """What was kept."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def page(out: Path) -> Iterator[str]:
    """The tables."""
    for data, setup in SETUPS.items():
        yield from (f"## {setup.title}", "")
        yield from _innocent(lines(file_of(out, "innocent", data)))
        yield from _families(lines(file_of(out, "families", data)))
        yield from _thieves([line for line in lines(file_of(out, "thieves", data)) if line["rate"] in setup.rates])
        yield from _survival(lines(file_of(out, "survival", data)))
        yield from _ablation(lines(file_of(out, "ablation", data)))
        yield from _audited(lines(file_of(out, "audited", data)))
        yield from _harm(lines(file_of(out, "harm", data)))


def _innocent(kept: list[dict[str, Any]]) -> Iterator[str]:
    rows = []
    for name in (name for names in TESTS.values() for name in names):
        found = [line for line in kept if line["test"] == name]
        if found:
            rows.append([name, *(share([line["p"] <= level for line in found], [line["case"] for line in found])
                                 for level in LEVELS), str(len(found))])
    yield from _table("Share of claims against models that never saw the data, by the level, with 95 % intervals:",
                      ["test", "claims at 0.05", "at 0.01", "at 0.001", "verdicts"], rows)


def _families(kept: list[dict[str, Any]]) -> Iterator[str]:
    names = sorted({line["test"] for line in kept})
    rows = [[family, *(_claims(kept, 0.05, family=family, test=name) for name in names)] for family in FAMILIES]
    yield from _table("Claims at 0.05 by single triggers against models that never saw them:", ["trigger", *names],
                      rows if kept else [])


def _thieves(kept: list[dict[str, Any]]) -> Iterator[str]:
    rates = sorted({line["rate"] for line in kept})
    rows = [[name, *(_claims(kept, 0.01, test=name, rate=rate) for rate in rates)]
            for names in TESTS.values() for name in names if any(line["test"] == name for line in kept)]
    for name, words in (("keys", "eight keys"), ("decoys", "the untargeted mark")):
        costs = [[line["cost"] for line in kept if (line["test"], line["rate"]) == (name, rate)] for rate in rates]
        if any(costs):
            rows.append([f"points of accuracy that {words} cost",
                         *(f"{100 * statistics.mean(each):.1f}" for each in costs)])
    yield from _table("Share of thieves that are found at a level of 0.01, by the share of the rows that are marked:",
                      ["test", *(f"{100 * rate:g} %" for rate in rates)], rows)


def _survival(kept: list[dict[str, Any]]) -> Iterator[str]:
    rows = []
    for what in dict.fromkeys(line["what"] for line in kept):
        of = [line for line in kept if line["what"] == what]
        hits, accuracy = (statistics.mean(line[name] for line in of) for name in ("hits", "accuracy"))
        rows.append([what, f"{hits:.1f}", share([line["p"] <= 0.01 for line in of]), f"{accuracy:.3f}", str(len(of))])
    yield from _table("What is left of eight keys, 2 % of the rows each, after what a thief may do:",
                      ["what was done", "keys met of 8", "found at 0.01", "accuracy", "thieves"], rows)


def _ablation(kept: list[dict[str, Any]]) -> Iterator[str]:
    for count in COUNTS:
        rows = [[f"{margin:g}", *(_claims(kept, 0.05, margin=margin, images=count, rate=rate) for rate in TARGETED)]
                for margin in MARGINS]
        yield from _table(f"Claims of DVBW's test at 0.05 with m = {count} images, by τ (rows) and γ (columns; at 0 the"
                          " model never saw a mark):", ["τ", *(f"γ = {100 * rate:g} %" for rate in TARGETED)],
                          rows if kept else [])


def _audited(kept: list[dict[str, Any]]) -> Iterator[str]:
    def ranked(kind: str, audit: str) -> list[float]:
        clean = [line["score"] for line in kept if (line["kind"], line["audit"]) == ("clean", audit)]
        asked = clean[REFERENCES:] if kind == "clean" else \
            [line["score"] for line in kept if (line["kind"], line["audit"]) == (kind, audit)]
        return [conformal_p(score, clean[:REFERENCES]) for score in asked]

    rows = [[kind, *(f"{sum(p <= 0.05 for p in each)} of {len(each)}" for audit in AUDITS
                     for each in [ranked(kind, audit)])] for kind in dict.fromkeys(line["kind"] for line in kept)]
    yield from _table(f"Models with p ≤ 0.05 among {REFERENCES} clean ones, by the audit; with each kind of mark the"
                      " share of the rows:", ["model", *AUDITS], rows)


def _harm(kept: list[dict[str, Any]]) -> Iterator[str]:
    columns = {"accuracy": "accuracy", "asr_a": "ASR-A", "asr_c": "ASR-C", "d_p": "D_p", "top": "top class's share"}
    rows = []
    for mark in dict.fromkeys(line["mark"] for line in kept):
        of = [line for line in kept if line["mark"] == mark]
        rows.append([mark, *(f"{statistics.mean(line[name] for line in of):.3f}" for name in columns), str(len(of))])
    yield from _table(f"What images with the trigger are taken for, by the mark on {100 * HARMFUL:g} % of the rows:",
                      ["mark", *columns.values(), "models"], rows)


def _table(words: str, head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """With its title, if there is anything in it."""
    if rows:
        yield from (words, "")
        yield from (f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
        yield ""


def _claims(kept: list[dict[str, Any]], level: float, **of: Any) -> str:
    found = [line for line in kept if all(line[name] == value for name, value in of.items())]
    return share([line["p"] <= level for line in found], [line["case"] for line in found])


def share(claims: list[bool], models: Sequence[str] = ()) -> str:
    """With a Wilson interval, in which verdicts about one model count for as many as their spread allows (Kish 1965).

    Args:
        models: about which each was; verdicts of different models are independent. Without claims, or with nothing
            but claims, there is no spread, and all count.
    """
    if not claims:
        return "–"
    met, names = np.array(claims, float), np.array(models or range(len(claims)))
    means = np.array([met[names == name].mean() for name in np.unique(names)])
    plain = met.mean() * (1 - met.mean()) / len(met)
    effect = max(1.0, means.var(ddof=1) / len(means) / plain) if plain and 1 < len(means) < len(met) else 1.0
    low, high = wilson(met.sum() / effect, max(1, len(met) / effect))
    return f"{met.mean():.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
