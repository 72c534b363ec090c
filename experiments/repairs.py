"""The page of repairs and training defences, from the stores of its studies.

    sidedoor sweep experiments/repairs_screen.toml --workers 1 --out runs/repairs --data-root DIR
    sidedoor sweep experiments/training_screen.toml --workers 1 --out runs/repairs --data-root DIR
    sidedoor sweep experiments/repairs.toml --workers 1 --out runs/repairs --data-root DIR
    sidedoor sweep experiments/repairs_long.toml --workers 1 --out runs/repairs --data-root DIR
    sidedoor sweep experiments/training_long.toml --workers 1 --out runs/repairs --data-root DIR
    sidedoor sweep experiments/repairs_few.toml --workers 1 --out runs/repairs --data-root DIR
    sidedoor sweep experiments/repairs_common.toml --workers 1 --out runs/common --data-root DIR
    sidedoor sweep experiments/pipelines.toml --workers 1 --out runs/repairs --data-root DIR
    python -m experiments.repairs --out runs/repairs > TABLES.md

Prints the tables, which docs/results/repairs.md has with remarks. Means are over attacks that worked, of the means over
their seeds; intervals resample attacks, then seeds (`sidedoor.metrics.comparison`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.defenses import AFTER, before_table, named
from experiments.pages import Lines, grouped, mean, stored, table
from sidedoor.bench.record import Record
from sidedoor.metrics.comparison import block_mean, der, hierarchical_interval, holm, net, signed_rank_p

FOLDER = Path(__file__).parent
BASELINE = "fine_tuning"
FORMS = ("int8", "bf16")
Number = Callable[[Record], float]


def before(record: Record, name: str) -> float:
    return (record.undefended or {}).get(name) or 0.0


def pair(record: Record, name: str) -> tuple[float, float]:
    """A mean before and after."""
    return before(record, name), getattr(record, name) or 0.0


def der_of(record: Record) -> float:
    return der(pair(record, "clean"), pair(record, "attack"))


def net_of(record: Record) -> float:
    return net(pair(record, "clean"), pair(record, "attack"), pair(record, "recovered"))


def defended(record: Record) -> str:
    """The defence, or the pipeline."""
    given = record.spec.get("defense")
    return " + ".join(str(part["name"]) for part in given) if isinstance(given, list) else named(record, "defense")


def by_defense(found: Sequence[Record]) -> dict[str, list[Record]]:
    return grouped([record for record in found if defended(record)], defended)


def blocks(found: Sequence[Record], value: Number) -> dict[str, list[float]]:
    """Of seeds whose attack worked, by attack."""
    done = [record for record in found if record.status == "done"]
    return {attack: [value(record) for record in of]
            for attack, of in grouped(done, lambda record: named(record, "attack")).items()}


def with_interval(found: Sequence[Record], value: Number) -> str:
    by_attack = blocks(found, value)
    if not by_attack:
        return ""
    middle = 100 * block_mean(list(by_attack.values()))
    if len(by_attack) < 2:
        return f"{middle:z.1f}"
    low, high = hierarchical_interval(list(by_attack.values()))
    return f"{middle:z.1f} [{100 * low:z.1f}, {100 * high:z.1f}]"


def ranked(found: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Defences by their mean `net`, the best first; those without a result last."""
    def key(item: tuple[str, list[Record]]) -> float:
        by_attack = blocks(item[1], net_of)
        return -block_mean(list(by_attack.values())) if by_attack else 2.0
    return sorted(by_defense(found).items(), key=key)


def effects(found: Sequence[Record]) -> Lines:
    """All defences over all attacks: DER, net, seconds, and the comparison with fine-tuning."""
    found = list(found)
    lines = ranked(found)
    p = compared(dict(lines))
    rows = [[f"`{name}`", with_interval(of, der_of), with_interval(of, net_of), p.get(name, ""),
             mean([r for r in of if r.status == "done"], lambda r: r.timing.get("defense"), 0)] for name, of in lines]
    return table(["defence", "DER %", "net %", f"p, net against `{BASELINE}` (Holm)", "s"], rows)


def compared(found: dict[str, list[Record]]) -> dict[str, str]:
    """Holm's p-values of each against the baseline, over the attacks that both have."""
    base = blocks(found.get(BASELINE, []), net_of)
    raw = {}
    for name, of in found.items():
        own = blocks(of, net_of)
        common = [attack for attack in own if attack in base]
        if name != BASELINE and len(common) > 1:
            raw[name] = signed_rank_p([own[a] for a in common], [base[a] for a in common])
    return {name: f"{value:.2f}" for name, value in zip(raw, holm(list(raw.values())), strict=True)}


def single(found: Sequence[Record]) -> Lines:
    """C-Acc, ASR and R-Acc of each defence under each attack."""
    attacks = list(dict.fromkeys(named(record, "attack") for record in found))
    rows = []
    for name, of in ranked(found):
        row = [f"`{name}`"]
        for attack in attacks:
            some = [record for record in of if named(record, "attack") == attack]
            done = [record for record in some if record.status == "done"]
            row.append(" / ".join(mean(done, value, 1).split(" ±")[0] for _, value, _ in AFTER) if done
                       else some[0].status if some else "not run")
        rows.append(row)
    return table(["C-Acc / ASR / R-Acc %", *attacks], rows)


def lasting(found: Sequence[Record]) -> Lines:
    """What a few poisoned images bring back, beside what they teach models that were never attacked."""
    some = [record for record in found if record.status == "done" and "retuned_5" in record.columns]
    if not some:
        return []
    names = [name for name in ("retuned_1", "retuned_5", "retuned_20", "relearned_5", "repaired_relearned_5")
             if any(name in record.columns for record in some)]
    forms = [f"{form}_{what}" for form in FORMS for what in ("clean", "attack")
             if any(f"{form}_{what}" in record.columns for record in some)]
    rows = [[f"`{name}`", mean(of, lambda r: 100 * (r.attack or 0.0), 1).split(" ±")[0],
             *(mean(of, _column(column), 1).split(" ±")[0] for column in (*names, *forms))]
            for name, of in by_defense(some).items()]
    return table(["defence, means over attacks and seeds", "ASR %", *names, *forms], rows)


def _column(name: str) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        found = record.columns.get(name)
        return None if found is None else 100 * found
    return value


def oracle(found: Sequence[Record]) -> Lines:
    """Strength by the defender's rule beside the strength that test data would have chosen."""
    some = [r for r in found if r.status == "done" and any(name.startswith("oracle") for name in r.columns)]
    if not some:
        return []
    names = sorted({name for record in some for name in record.columns if name.startswith("oracle")})
    rows = [[f"`{name}`", *(mean(of, value, 1) for _, value, _ in AFTER[:2]),
             *(mean(of, lambda r, c=column: r.columns.get(c), 3) for column in names)]  # type: ignore[misc]
            for name, of in by_defense(some).items()]
    return table(["strength", *(f"defender's rule: {name}" for name, _, _ in AFTER[:2]), *names], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/repairs"))
    parser.add_argument("--common", type=Path, default=Path("runs/common"))
    given = parser.parse_args()

    def of(name: str) -> list[Record]:
        return stored(given.out, FOLDER, name)

    screen = [*of("repairs_screen"), *of("training_screen")]
    for title, found in (("Screen", screen), ("Four times the budget: repairs", of("repairs_long")),
                         ("Four times the budget: training", of("training_long")),
                         ("Main table", of("repairs")),
                         ("One per cent of clean data", of("repairs_few")),
                         ("CIFAR-10, the common victims", stored(given.common, FOLDER, "repairs_common")),
                         ("Pipelines", of("pipelines"))):
        if found:
            print("\n".join([f"## {title}", "", *before_table(found), *effects(found), *single(found),
                             *lasting(found), *oracle(found)]))


if __name__ == "__main__":
    main()
