"""Explanations held against backdoors: the tables of GLBW's evaluation, and whether ranks of explainers are stable.

    python experiments/explanations.py run  --out runs/explanations
    python experiments/explanations.py run  --data gtsrb32.npz --network resnet18 --width 8 --out runs/explained-signs
    python experiments/explanations.py page --out runs/explanations

`run` trains, for each seed, a clean model, and for each seed and trigger (a white 3×3 square and a 5×5 compass, both in
a corner) BadNets, BWTP and GLBW; explains triggered test images of each by every explainer; reverses triggers by three
inversions; and asks about patterns unlike the trigger. It goes on where it stopped: what was found is kept in the
folder, a line a model. The clean sibling explains the images of BadNets alone, since those of the others are the same
but for a few. `page` prints the tables and trains nothing.

The data are scikit-learn's digits, or an .npz with train_images and test_images. On one core a model of digits takes
about a minute, the whole about 20 minutes; ResNet-18 of width 8 on 32 pixels a side takes several times as long.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

import sidedoor as sd
from sidedoor import registry, zoo
from sidedoor.apps.explain import explain, explainers_of
from sidedoor.backdoor.base import AttackerRun
from sidedoor.data.base import Dataset, Subset
from sidedoor.engine import Recipe
from sidedoor.explain.generalisation import reversed_triggers
from sidedoor.metrics.agreement import kendalls_w
from sidedoor.metrics.statistics import t_interval

TRIGGERS = {"square": "111/111/111", "compass": "00100/01110/11111/01110/00100"}
ATTACKS = ("badnets", "bwtp", "glbw")
INVERSIONS = ("neural_cleanse", "tabor", "pixel_inversion")
TOOK = 0.5
"""Attack success below which there is nothing to explain."""
PAPER = ("gradient", "guided_backprop", "grad_cam", "guided_grad_cam", "occlusion", "feature_ablation", "lime")
"""The seven methods of the paper, over which ranks are compared."""
Line = dict[str, Any]


def study(options: argparse.Namespace) -> None:
    """Everything that is not in the file yet."""
    archive = options.data.endswith(".npz")
    splits = zoo.load({"name": "npz", "path": options.data} if archive else {"name": options.data})
    build = zoo.network({"name": options.network, "width": options.width}, splits.train)
    done = {(line["trigger"], line["seed"], line["attack"]) for line in lines(options.out)}
    for seed in range(options.seeds):
        wanted = [(trigger, attack) for trigger in options.triggers for attack in ATTACKS
                  if (trigger, seed, attack) not in done]
        if not wanted:
            continue
        run = AttackerRun.of(sd.Run.local(Recipe(epochs=options.epochs, batch=options.batch), seed, device="cpu"))
        task = sd.Classification(len(splits.train.classes))
        clean = run.clean_model(build, splits.train, task)
        for trigger, attack in wanted:
            start = time.monotonic()
            found = one(attack, TRIGGERS[trigger], clean, splits.train, splits.test, task, build, run, options)
            line = {"trigger": trigger, "seed": seed, "attack": attack, "seconds": time.monotonic() - start} | found
            with (options.out / "explanations.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
            print(f"{trigger} {seed} {attack}: {line['seconds']:.0f} s, accuracy {found['clean']:.3f}, attack success "
                  f"{found['asr']:.3f}", flush=True)


def one(attack: str, pattern: str, clean: nn.Module, train: Dataset, test: Dataset, task: sd.Task, build: sd.Build,
        run: AttackerRun, options: argparse.Namespace) -> Line:
    """All figures of a model."""
    data_attack = {"name": "badnets", "rate": options.rate, "pattern": pattern}
    limits = {"trigger_weight": options.trigger_weight, "limit_weight": options.limit_weight,
              "epochs": options.limited_epochs}
    method = registry.make("attack", data_attack if attack == "badnets" else
                           {"name": attack, "attack": data_attack, **limits})
    backdoor = method.plan(train, task, build, run)
    own = replace(run, scope=f"{attack}/{pattern}/")
    if backdoor.train is None:
        model = own.fit(own.build(build), sd.PoisonedDataset(train, backdoor, task), sd.Supervised(task), name="victim")
        door = backdoor.doors[0]
    else:
        planted = backdoor.train(train, task, build, own)
        model, door = planted.model, planted.doors[0]
    means = sd.evaluate(model, test, task, (door,), run).means()
    figures = {"clean": means["clean"], "asr": means["attack"], "starts": options.starts}
    if means["attack"] < TOOK:
        return figures
    sibling = clean if attack == "badnets" else None
    found = explain(explainers_of(options.methods), model, sibling, test, task, door, options.images, run)
    others = Subset(train, torch.nonzero(door.goal.eligible(task, train.targets))[:, 0])
    inversions = {name: inversion(name, options) for name in INVERSIONS}
    reverse = reversed_triggers(inversions, model, others, int(found.images.target[0]), found.images.area[0],
                                options.starts, run)
    return figures | {"explained": found.to_json(), "reversed": [asdict(each) for each in reverse]}


def inversion(name: str, options: argparse.Namespace) -> Any:
    """An inversion of one budget for all."""
    return registry.make("defense", {"name": name, "epochs": options.inversion_epochs, "samples": 256, "batch": 64,
                                     "success": 0.95, "patience": 2, "stopping": 20})


def lines(out: Path) -> list[Line]:
    """What was found so far; a line that a crash left half written is dropped."""
    file = out / "explanations.jsonl"
    found = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            print(f"left out: half a line in {file}")
    return found


# Tables.


def page(options: argparse.Namespace) -> None:
    """Every table, from the lines alone."""
    given = lines(options.out)
    found = [line for line in given if "explained" in line]
    if not found:
        raise SystemExit(f"nothing in {options.out}; run the study first")
    for line in given:
        if "explained" not in line:
            print(f"left out, since the attack did not take: {line['attack']}, {line['trigger']}, seed {line['seed']}: "
                  f"attack success {100 * line['asr']:.1f} %")
    for attack in ATTACKS:
        of = [line for line in found if line["attack"] == attack]
        if of:
            print(f"\n### {attack}, {len(of)} models\n")
            print(explainer_table(of))
    print("\n### Effectiveness and generalisation\n")
    print(effect_table(found))
    print("\n### Agreement of the ranks of the paper's seven methods over seeds and triggers\n")
    print(agreement_table(found))


def value(line: Line, name: str, of: str, field: str) -> float | None:
    """A figure of one row of a model's table."""
    for row in line["explained"]["rows"]:
        if row["name"] == name and row["of"] == of and row["found"] is not None:
            return row["found"][field]  # type: ignore[no-any-return]
    return None


def over(values: Sequence[float | None], scale: float = 100, digits: int = 1) -> str:
    """A mean with its interval over models, as far as shares (`scale` 100) and lengths go; of two the range."""
    given = [scale * each for each in values if each is not None]
    if not given:
        return "–"
    mean, low, high = t_interval(given)
    if len(given) == 2:
        low, high = min(given), max(given)
    if low is None or high is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{max(low, 0.0):.{digits}f}, {min(high, 100.0 if scale == 100 else high):.{digits}f}]"


def explainer_table(of: Sequence[Line]) -> str:
    """A row for each explainer, baseline, and explainer on the clean sibling."""
    rows = list(dict.fromkeys((row["name"], row["of"]) for line in of for row in line["explained"]["rows"]))
    ranks = {kind: mean_ranks(of, kind) for kind in ("box_iou", "iou")}
    made = [["method", "model", "IoU, %", "rank", "pointing, %", "box IoU, %", "rank", "RR, %", "RD, %", "no box, %",
             "CC, s"]]
    for name, model in rows:
        def figure(field: str, digits: int = 1, scale: float = 100, name: str = name, model: str = model) -> str:
            return over([value(line, name, model, field) for line in of], scale, digits)

        def rank(kind: str, name: str = name, model: str = model) -> str:
            return f"{ranks[kind][name]:.1f}" if model == "model" and name in ranks[kind] else ""

        made.append([name, "" if model == "none" else model, figure("iou"), rank("iou"), figure("pointing"),
                     figure("box_iou"), rank("box_iou"), figure("recovered"), figure("difference"), figure("boxless"),
                     figure("seconds", 3, 1)])
    chance = over([line["explained"]["chance"] for line in of], digits=2)
    return f"{table(made)}\n\nA map that knows nothing: {chance} %."


def scores(of: Sequence[Line], field: str) -> np.ndarray:
    """A row for each model, a column for each of the paper's methods that all models have."""
    return np.array([[value(line, name, "model", field) for name in methods_of(of)] for line in of], dtype=float)


def methods_of(of: Sequence[Line]) -> list[str]:
    return [name for name in PAPER if all(value(line, name, "model", "iou") is not None for line in of)]


def mean_ranks(of: Sequence[Line], field: str) -> dict[str, float]:
    """1 for the best."""
    given = scores(of, field)
    return dict(zip(methods_of(of), stats.rankdata(-given, axis=1).mean(0), strict=True)) if given.size else {}


def effect_table(found: Sequence[Line]) -> str:
    """By attack and trigger."""
    made = [["attack", "trigger", "models", "BA, %", "ASR, %", "Chamfer, px", "L1, px", "reversed, px", "found",
             "ladder area", "covered trigger restores, %", "covered elsewhere, %"]]
    for attack in ATTACKS:
        for trigger in TRIGGERS:
            of = [line for line in found if (line["attack"], line["trigger"]) == (attack, trigger)]
            if not of:
                continue

            def mean(field: str, of: Sequence[Line] = of) -> str:
                each = [[one[field] for one in line["reversed"]] for line in of]
                return over([float(np.mean(part)) if part else None for part in each], 1, 2)

            count = f"{sum(len(line['reversed']) for line in of)}/{sum(3 * line['starts'] for line in of)}"
            made.append([attack, trigger, str(len(of)), over([line["clean"] for line in of]),
                         over([line["asr"] for line in of]), mean("chamfer"), mean("l1"), mean("pixels"), count,
                         over([line["explained"]["generalisation"] for line in of], 1, 3),
                         *(over([line["explained"]["deletion"][key] for line in of])
                           for key in ("trigger", "elsewhere"))])
    return table(made)


def agreement_table(found: Sequence[Line]) -> str:
    """Kendall's W of the ranks under each evaluation, and how the mean ranks of the two evaluations agree."""
    made = [["attack", "judges", "vanilla (box IoU): W", "p", "standardised (IoU): W", "p", "Spearman of the two"]]
    for attack in ATTACKS:
        of = [line for line in found if line["attack"] == attack]
        if len(of) < 2 or len(methods_of(of)) < 2:
            continue
        given = {field: scores(of, field) for field in ("box_iou", "iou")}
        agreed = {field: kendalls_w(each) for field, each in given.items()}
        rho = stats.spearmanr(agreed["box_iou"].ranks, agreed["iou"].ranks).statistic
        made.append([attack, str(len(of)), *(text for field in ("box_iou", "iou") for text in
                                             (f"{agreed[field].w:.2f}", f"{agreed[field].p:.3f}")), f"{rho:.2f}"])
    return table(made)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="digits", help="digits, or an .npz")
    parser.add_argument("--network", default="small_cnn")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--triggers", nargs="+", default=list(TRIGGERS), choices=list(TRIGGERS))
    parser.add_argument("--methods", nargs="*", default=[], help="explainers; all if none are given")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--starts", type=int, default=5, help="of each inversion")
    parser.add_argument("--inversion-epochs", type=int, default=60)
    parser.add_argument("--limited-epochs", type=int, default=10, help="of the second phase of BWTP and GLBW")
    parser.add_argument("--trigger-weight", type=float, default=1.0)
    parser.add_argument("--limit-weight", type=float, default=1.0)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    what: dict[str, Callable[[argparse.Namespace], None]] = {"run": study, "page": page}
    what[options.what](options)


if __name__ == "__main__":
    main()
