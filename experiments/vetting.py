"""Scans and audits of clean and backdoored small models: how often they alarm, and how often they find.

    python experiments/vetting.py scan   --data digits|fashion --out runs/vetting --data-root DIR
    python experiments/vetting.py audits --data digits|fashion --out runs/vetting --data-root DIR
    python experiments/vetting.py page   --out runs/vetting > docs/results/vetting.md

`scan` trains models of each kind below, `small_cnn` on scikit-learn's digits or, narrower, on 10,000 images of
Fashion-MNIST, and scans each as if it had been given, with 19 clean models that are trained once for all. `audits` asks
audits that are not part of a scan about some of the same models. Both go on where they stopped: what was found is kept
in the folder, a line a model. `page` prints the tables and trains nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sidedoor as sd
from experiments.pages import archive
from sidedoor import zoo
from sidedoor.algorithms.adversarial.training import Robust
from sidedoor.bench.machine import Machine
from sidedoor.bench.run import run as run_cell
from sidedoor.bench.spec import cells
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.augment import augmentation
from sidedoor.data.base import ArrayDataset, halves
from sidedoor.engine import Recipe, Run
from sidedoor.metrics.hypothesis import beta_binomial_bound
from sidedoor.metrics.statistics import auroc, wilson
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.vetting.battery import PROFILES, Notebook

RECIPES = {"digits": Recipe(epochs=15), "fashion": Recipe(epochs=5)}
NETWORKS: dict[str, dict[str, Any]] = {"digits": {"name": "small_cnn"}, "fashion": {"name": "small_cnn", "width": 8}}
SUBSET = 10_000
FIRST_SEED = 1000
"""Of the suspects; clean models that they are compared with have the seeds from 1."""
ALPHA = 0.05
REFERENCES = 19
ATTACKS: dict[str, dict[str, Any]] = {
    "badnets 10 %": {"name": "badnets", "rate": 0.1}, "blended 10 %": {"name": "blended", "rate": 0.1},
    "badnets 1 %": {"name": "badnets", "rate": 0.01}, "blended 1 %": {"name": "blended", "rate": 0.01},
}
CONTROLS = ("doubled class", "augmented", "adversarial")
COUNTS = {"digits": {"clean": 20, **dict.fromkeys(ATTACKS, 10), **dict.fromkeys(CONTROLS, 3)},
          "fashion": {"clean": 20, "badnets 10 %": 10, "blended 10 %": 10, "badnets 1 %": 5, "blended 1 %": 5,
                      **dict.fromkeys(CONTROLS, 3)}}
CHEAP = ("abs", "free_eagle", "dl_tnd", "df_tnd", "debackdoor")
DEAR = ("tabor", "pixel_inversion", "cbd", "umd", "feature_re", "bti_dbf", "mesa", "ulp", "mntd", "weight_classifier",
        "k_arm")
AUDITED = {"clean": 10, "badnets 10 %": 5, "blended 10 %": 5}
DEARLY_AUDITED = {"clean": 5, "badnets 10 %": 3, "blended 10 %": 2}


@dataclass(frozen=True)
class Made:
    """A suspect.

    Args:
        success: of its attack, on images that are not of the target class; None for a clean model.
        took: whether the attack did, by the rules of the benchmark.
    """

    file: Path
    kind: str
    seed: int
    success: float | None = None
    took: bool = True


class Study:
    """Suspects of one data set, and what was found of them."""

    def __init__(self, name: str, out: Path, root: Path | None):
        self.name, self.out, self.root, self.recipe = name, out, root, RECIPES[name]
        out.mkdir(parents=True, exist_ok=True)
        self.reference: dict[str, Any] = {"name": "digits"} if name == "digits" else \
            {"name": "npz", "path": str(_subset(out.resolve() / "fashion.npz", root))}
        self.splits = zoo.load(self.reference, root)
        self.network = NETWORKS[name]
        self.task = Classification(len(self.splits.train.classes))
        self.build = zoo.network(self.network, self.splits.train)

    def suspects(self, counts: dict[str, int]) -> Iterator[Made]:
        """One of each kind after the other, so that what there was no time for lacks from all."""
        for number in range(max(counts.values())):
            for kind, count in counts.items():
                if number < count:
                    make = self.control if kind in CONTROLS else self.cell
                    yield make(kind, FIRST_SEED + number)

    def cell(self, kind: str, seed: int) -> Made:
        """A model of the benchmark."""
        table = {"data": self.reference, "model": self.network, "seed": seed, "recipe": vars(self.recipe)}
        attack = ATTACKS.get(kind)
        store = Store(self.out / "store")
        record = run_cell(cells(table | ({"attack": attack} if attack else {}))[0], store, Machine(self.root))
        return Made(store.folder(record.planted) / "model.safetensors", kind, seed, record.attack,
                    record.status == "done")

    def control(self, kind: str, seed: int) -> Made:
        """A clean model that was trained in another way."""
        data, objective = self.splits.train, Supervised(self.task)
        augment = augmentation(("crop", "noise", "jitter", "affine")) if kind == "augmented" else None
        if kind == "adversarial":
            objective = Robust(self.task.loss, epsilon=8.0, iterations=5)
        if kind == "doubled class":
            rows = torch.cat([torch.arange(len(data)), torch.nonzero(data.targets == 0)[:, 0]])
            data = ArrayDataset(data.rows(rows), data.targets[rows], data.classes, kind)
        run = Run(Run.local().fabric, self.recipe, seed, augment, shelf=Shelf(self.out / "controls"))

        def make(own: Run) -> nn.Module:
            return own.fit(own.build(self.build), data, objective, name=kind)

        key = {"control": kind, "seed": seed, "data": data.fingerprint(), "recipe": vars(self.recipe)}
        model = run.artefact(key, self.build, make)
        file = self.out / "controls" / f"{kind.replace(' ', '-')}-{self.name}-{seed}.safetensors"
        if not file.exists():
            from safetensors.torch import save_model
            save_model(model, str(file))
        return Made(file, kind, seed)

    def scan(self) -> None:
        for made in self.todo("scan", COUNTS[self.name]):
            start = time.process_time()
            settings = sd.ScanSettings(ALPHA, REFERENCES, minutes=60, recipe=self.recipe)
            found = sd.scan(made.file, self.splits, architecture=self.network, settings=settings,
                            out=self.out / f"scan-{self.name}")
            asked = {audited.name: {"score": audited.told.finding.score, "p": audited.p,
                                    "paper": audited.told.finding.paper.flagged if audited.told.finding.paper else None,
                                    "seconds": audited.told.seconds}
                     for audited in found.audits if audited.told and audited.told.finding}
            self.note("scan", made, {"verdict": found.verdict, "p": found.p, "label": found.label, "audits": asked,
                                     "seconds": time.process_time() - start, "why": found.why})

    def audit(self, names: tuple[str, ...], counts: dict[str, int]) -> None:
        """All of one model before the next, so that what there was no time for lacks from all alike."""
        images, _ = halves(self.splits.test, 0)
        run = Run(Run.local().fabric, self.recipe, 0, shelf=Shelf(self.out / "shadows"))
        notebook = Notebook(self.out / "audits", images, self.task, run)
        known = {name: self.known(name) for name in names}
        for made in self.suspects(counts):
            for name in names:
                if (made.kind, made.seed) in known[name]:
                    continue
                told = notebook.told({"name": name}, made.file.parent.name + made.file.stem, self.opener(made))
                finding = told.finding
                self.note(name, made, {"score": finding.score if finding else None, "seconds": told.seconds,
                                       "paper": finding.paper.flagged if finding and finding.paper else None,
                                       "label": finding.suspected[0] if finding and finding.suspected else None,
                                       "reason": told.reason})

    def opener(self, made: Made) -> Callable[[], nn.Module]:
        return zoo.network({**self.network, "weights": str(made.file)}, self.splits.train)

    def todo(self, what: str, counts: dict[str, int]) -> Iterator[Made]:
        """Suspects about which this is not known yet."""
        known = self.known(what)
        for made in self.suspects(counts):
            if (made.kind, made.seed) not in known:
                yield made

    def known(self, what: str) -> set[tuple[str, int]]:
        return {(line["kind"], line["seed"]) for line in lines(self.out, self.name, what)}

    def note(self, what: str, made: Made, said: dict[str, Any]) -> None:
        line = {"kind": made.kind, "seed": made.seed, "success": made.success, "took": made.took, **said}
        with (self.out / f"{self.name}-{what}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(self.name, what, made.kind, made.seed, said.get("verdict", said.get("score")), flush=True)


def lines(out: Path, name: str, what: str) -> list[dict[str, Any]]:
    """What is known of the models of a data set."""
    file = out / f"{name}-{what}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def page(out: Path) -> list[str]:
    """The tables as Markdown."""
    text = []
    for name in RECIPES:
        scans = [line for line in lines(out, name, "scan") if line["took"]]
        said = [*(_scans(scans) if scans else []), *_audits(out, name, scans)]
        text += [f"## {name}", "", *said] if said else []
    return text


def _scans(scans: list[dict[str, Any]]) -> list[str]:
    rows = []
    for kind in COUNTS["digits"]:
        of = [line for line in scans if line["kind"] == kind]
        if of:
            verdicts = [line["verdict"] for line in of]
            low, high = wilson(verdicts.count("finding"), len(of))
            right = [line["label"] == 0 for line in of if line["verdict"] == "finding"]
            rows.append([kind, str(len(of)), _percent(line["success"] for line in of),
                         f"{verdicts.count('finding')} [{low:.0%}, {high:.0%}]",
                         *(str(verdicts.count(verdict)) for verdict in ("suspicious", "no finding", "inconclusive")),
                         f"{sum(right)} of {len(right)}" if kind in ATTACKS and right else "",
                         f"{statistics.median(line['seconds'] for line in of):.0f}"])
    clean = sum(line["kind"] == "clean" for line in scans)
    return [*_table(("model", "n", "ASR %", "finding", "suspicious", "no finding", "inconclusive", "right class",
                     "seconds"), rows),
            f"Bound on false findings among {clean} clean models that share {REFERENCES} references, at 99 %: "
            f"{beta_binomial_bound(REFERENCES, clean, ALPHA)}.", ""]


def _audits(out: Path, name: str, scans: list[dict[str, Any]]) -> list[str]:
    """Every audit by its own score: those of a scan over all models, further ones over some."""
    asked = {step.name for step in PROFILES["standard"]}
    found = {audit: [{**line, **line["audits"][audit]} for line in scans if audit in line["audits"]]
             for audit in sorted(asked)}
    found |= {audit: [line for line in lines(out, name, audit) if line["took"] and line["score"] is not None]
              for audit in (*CHEAP, *DEAR)}
    rows = []
    for audit, of in found.items():
        clean = [line for line in of if line["kind"] == "clean"]
        if not clean:
            continue
        row = [f"`{audit}`", str(len(clean))]
        for kind in ATTACKS:
            bad = [line["score"] for line in of if line["kind"] == kind]
            row.append(f"{auroc(bad, [line['score'] for line in clean]):.2f} ({len(bad)})" if bad else "")
        ranked = [line["p"] <= ALPHA for line in of if line["kind"].endswith(" 10 %") and line.get("p") is not None]
        row.append(_share(ranked))
        row.append(_share([line["p"] <= ALPHA for line in clean if line.get("p") is not None]))
        row.append(_share([line["paper"] for line in of if line["kind"] in ATTACKS and line["paper"] is not None]))
        row.append(_share([line["paper"] for line in clean if line["paper"] is not None]))
        row.append(f"{statistics.median(line['seconds'] for line in of):.1f}")
        rows.append(row)
    if not rows:
        return []
    return _table(("audit", "clean", *(f"AUROC, {kind}" for kind in ATTACKS), "power at .05, 10 %",
                   "false alarms at .05", "paper's rule: backdoored", "paper's rule: clean", "seconds"), rows)


def _share(values: list[bool]) -> str:
    if not values:
        return ""
    low, high = wilson(sum(values), len(values))
    return f"{sum(values)} of {len(values)} [{low:.2f}, {high:.2f}]"


def _percent(values: Iterable[float | None]) -> str:
    given = [value for value in values if value is not None]
    return f"{100 * statistics.mean(given):.0f}" if given else ""


def _table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] + [""]


def _subset(file: Path, root: Path | None) -> Path:
    """The first images of Fashion-MNIST as an archive: all of them would take six times as long to train on."""
    if not file.exists():
        splits = zoo.load("fashion_mnist", root)
        archive(file, {"train": (splits.train, torch.arange(SUBSET)),
                       "test": (splits.test, torch.arange(len(splits.test)))})
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scan", "audits", "page"))
    parser.add_argument("--data", choices=tuple(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("runs/vetting"))
    parser.add_argument("--data-root", type=Path)
    given = parser.parse_args()
    if given.what == "page":
        print("\n".join(page(given.out)))
        return
    study = Study(given.data or "digits", given.out, given.data_root)
    if given.what == "scan":
        study.scan()
    else:
        study.audit((*CHEAP, *DEAR), DEARLY_AUDITED)
        study.audit(CHEAP, AUDITED)


if __name__ == "__main__":
    main()
