"""Whether audits see backdoors in models as they are deployed: rounded to 8-bit integers, or bfloat16, both simulated.

    python -m experiments.quantised --out runs/vetting > TABLE.md

Asks the audits of a scan about clean and backdoored digits models of experiments/vetting.py in three forms each; what
was found is kept in the folder. Ten models of each kind take about half an hour of one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from experiments.pages import table
from experiments.vetting import Made, Study, lines
from sidedoor.algorithms import rounded
from sidedoor.data.base import halves
from sidedoor.engine import Run
from sidedoor.metrics.statistics import auroc
from sidedoor.vetting.battery import PROFILES, Notebook

KINDS = {"clean": 10, "badnets 10 %": 10, "blended 10 %": 10}
FORMS = ("float32", "int8", "bf16")
CALIBRATION = 256
"""Clean images that show how large activations become."""
WHAT = "quantised"


def form(name: str, opener: Callable[[], nn.Module], images: torch.Tensor) -> nn.Module:
    model = opener().eval()
    if name == "int8":
        return rounded.int8(model, images)
    return rounded.bf16(model) if name == "bf16" else model


def asked(study: Study, made: Made) -> Iterator[dict[str, object]]:
    """A line for each form of a model: its success under attack, and the score of each audit."""
    images, held_out = halves(study.splits.test, 0)
    run = Run(Run.local().fabric, study.recipe, 0)
    notebook = Notebook(study.out / "audits", images, study.task, run)
    few = images.fetch(torch.arange(min(CALIBRATION, len(images)))).x
    for name in FORMS:
        model = form(name, study.opener(made), few)
        scores = {}
        for step in PROFILES["standard"]:
            audit = step.audits[len(step.audits) // 2]
            told = notebook.told(audit, f"{made.file.parent.name}{made.file.stem}/{name}", lambda m=model: m)
            scores[step.name] = told.finding.score if told.finding else None
        x, y, _ = held_out.fetch(torch.arange(len(held_out)))
        with torch.no_grad():
            accuracy = (model(x).argmax(1) == y).float().mean().item()
        yield {"kind": made.kind, "seed": made.seed, "took": made.took, "form": name, "scores": scores,
               "accuracy": accuracy}


def measure(study: Study) -> None:
    known = {(line["kind"], line["seed"]) for line in lines(study.out, study.name, WHAT)}
    for made in study.suspects(KINDS):
        if (made.kind, made.seed) not in known:
            found = list(asked(study, made))
            with (study.out / f"{study.name}-{WHAT}.jsonl").open("a") as file:
                file.write("".join(f"{json.dumps(line)}\n" for line in found))


def page(out: Path, name: str) -> list[str]:
    """AUROC of each audit among models of the same form."""
    found = [line for line in lines(out, name, WHAT) if line["took"]]
    audits = list(dict.fromkeys(audit for line in found for audit in line["scores"]))
    kinds = [kind for kind in KINDS if kind != "clean"]

    def scores(audit: str, kind: str, of: str) -> list[float]:
        return [line["scores"][audit] for line in found
                if line["kind"] == kind and line["form"] == of and line["scores"].get(audit) is not None]

    rows = [[f"`{audit}`", *(f"{value:.2f}" if value is not None else "" for kind in kinds for of in FORMS
                             for value in [auroc(scores(audit, kind, of), scores(audit, "clean", of))])]
            for audit in audits]
    counts = {kind: len({line["seed"] for line in found if line["kind"] == kind}) for kind in KINDS}
    return [*table(["AUROC", *(f"{kind}: {of}" for kind in kinds for of in FORMS)], rows),
            "Models: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()) + ".", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/vetting"))
    given = parser.parse_args()
    study = Study("digits", given.out, None)
    measure(study)
    print("\n".join(page(given.out, study.name)))


if __name__ == "__main__":
    main()
