"""What `run` and `sweep` would do and what it would take, said without doing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidedoor.cli._options import (
    AsJson,
    Device,
    Download,
    Out,
    Root,
    Settings,
    emit,
    machine,
    note,
    open_store,
    read_specs,
    say,
)

if TYPE_CHECKING:
    from sidedoor.bench.forecast import Forecast, Training
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.plan import Step
    from sidedoor.bench.spec import Spec
    from sidedoor.bench.store import Store
    from sidedoor.bench.times import Time

_SHELF = {"inspection": "models of poisoned data that filters look at", "shadows": "pools of shadow models",
          "attack": "networks that attacks make triggers with", "task": "networks of the task"}
"""What the kinds of networks on the shelf are."""


def plan(file: Annotated[Path, typer.Argument(help="A specification, with or without a table [grid].",
                                              metavar="GRID.toml")],
         cells: Annotated[bool, typer.Option("--cells", help="A line for each cell, too.")] = False,
         settings: Settings = [], out: Out = Path("runs"), as_json: AsJson = False,  # noqa: B006
         root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Say what a file would run: cells, models, hours by the records of the folder, disk; train nothing."""
    from sidedoor.bench.spec import read, tier_of

    note(f"reading {file}")
    here, store = machine(root, download, device), open_store(out)
    tier = tier_of(read(file, tuple(settings)))
    show(read_specs(file, settings, here), store, here, as_json, cells=cells, tier=tier)


def show(specs: Sequence[Spec], store: Store, here: Machine, as_json: bool, *, cells: bool = True, tier: str = "") \
        -> None:
    """Load the data, build the networks, and print what would become of the cells.

    Args:
        cells: whether each has a line.
        tier: of the file.
    """
    from sidedoor.bench.forecast import forecast
    from sidedoor.bench.plan import check_networks, planned, steps

    missing: dict[str, str] = {}
    found = steps(planned(specs, here, missing), store)
    check_networks([step.cell for step in found if step.state == "to run"
                    and step.cell.spec.data["name"] not in missing], here)
    made = forecast(found, store, here, missing)
    if as_json:
        emit(plain(made, tier))
        return
    for line in lines(made, cells=cells, tier=tier):
        say(line)


def lines(made: Forecast, *, cells: bool = False, tier: str = "") -> list[str]:
    """A head that counts, then a line for each cell if they are wanted; below, what the whole would take."""
    counts, models = Counter(step.state for step in made.steps), sum(len(step.trains) for step in made.steps)
    head = (f"{len(made.steps)} cells: {', '.join(f'{count} {state}' for state, count in counts.items())}; "
            f"{models} models to train")
    return [*([f"tier: {tier}"] if tier else []), head, *(_cells(made.steps) if cells else []),
            *(f"data: {name} cannot be loaded ({why}); what the folder has of its cells is not known"
              for name, why in made.missing.items()),
            *_refused(made), *_trainings(made), *_shelf(made), *_hours(made), *_disk(made)]


def _cells(steps: Sequence[Step]) -> list[str]:
    """Cells with the same model share it."""
    return _columns([("state", "key", "model", "cell", ""), *(
        (step.state, step.cell.key, step.cell.model, str(step.cell), _more(step)) for step in steps)])


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _more(step: Step) -> str:
    own, others = step.cell.model in step.trains, len(set(step.trains) - {step.cell.model})
    trained = ["its model"] * own + [f"{others} clean"] * bool(others)
    return step.reason or (f"trains {' and '.join(trained)}" if trained else "")


def _refused(made: Forecast) -> list[str]:
    """Why cells are not applicable, each reason once, with the attacks and defences that it is about."""
    return [f"not applicable, {len(of)}: {reason} "
            f"(attacks: {_listed([cell.spec.attack_name for cell in of])}; "
            f"defences: {_listed([cell.spec.defense_name for cell in of])})" for reason, of in made.refused.items()]


def _listed(of: Iterable[str], most: int = 6) -> str:
    """Each once, the first of them by name."""
    several = list(dict.fromkeys(of))
    return ", ".join(several[:most]) + (f" and {len(several) - most} more" if len(several) > most else "")


def _trainings(made: Forecast) -> list[str]:
    """Models by attack, those of several seeds in one line."""
    from sidedoor.report.tables import duration

    grouped: dict[str, list[Training]] = {}
    for training, name in zip(made.trainings, _names(made.trainings), strict=True):
        grouped.setdefault(name, []).append(training)
    rows = [("model", "to train", "there", "cells that need each", "time of each")]
    for name, of in grouped.items():
        known = [training.time.seconds for training in of if training.time]
        cells = sorted({training.cells for training in of})
        rows.append((name, str(sum(not training.there for training in of)), str(sum(t.there for t in of)),
                     " to ".join(map(str, dict.fromkeys((cells[0], cells[-1])))),
                     duration(sum(known) / len(known)) if known else "unknown"))
    return _columns(rows) if grouped else []


def _names(trainings: Sequence[Training]) -> list[str]:
    """What tells models apart beside their seeds."""
    from sidedoor.bench.labels import labels

    return [", ".join(filter(None, (label.setting, "clean" if label.attack == "none" else label.attack)))
            for label in labels([training.spec.to_json() for training in trainings])]


def _shelf(made: Forecast) -> list[str]:
    return [f"shared, {_SHELF.get(kind, kind)}: {models} for {cells} cells"
            for kind, (models, cells) in made.shelf.items()]


def _hours(made: Forecast) -> list[str]:
    from sidedoor.report.tables import duration

    cells, models = made.unknown
    unknown = [f"{count} {what}" for count, what in ((cells, "cells"), (models, "models")) if count]
    if not made.times and not made.to_train:
        return []
    said = [f"time: {duration(made.seconds)} one after another, by the folder's {made.records} records on "
            f"{made.device}{_known_from(made)}"] if made.levels else []
    if unknown:
        said.append(f"time unknown: {' and '.join(unknown)}, of which the folder has no record on {made.device}: "
                    f"{'; '.join(_unknown(made))}")
    if made.chain:
        said.append(f"longest chain: {duration(made.chain_seconds)}, whatever the number of workers: "
                    f"{', then '.join(_chain(made))}")
    return said


def _known_from(made: Forecast) -> str:
    from sidedoor.bench.times import LEVELS

    further = [f"{count} by {LEVELS[level]}" for level, count in sorted(made.levels.items()) if level]
    return f" ({', '.join(further)})" if further else ""


def _unknown(made: Forecast) -> list[str]:
    """What models, and what defences, have no time."""
    models = [name for training, name in zip(made.trainings, _names(made.trainings), strict=True)
              if not training.there and training.time is None]
    defenses = [step.cell.spec.defense_name for step in made.steps
                if step.cell.key in made.times and made.times[step.cell.key] is None]
    return [f"{what} {_listed(of)}" for what, of in (("models of", models), ("cells with", defenses)) if of]


def _chain(made: Forecast) -> list[str]:
    called = {training.key: f"{name}, seed {training.spec.seed}"
              for training, name in zip(made.trainings, _names(made.trainings), strict=True)}
    called |= {step.cell.key: str(step.cell) for step in made.steps}
    return [called[key] for key in made.chain]


def _disk(made: Forecast) -> list[str]:
    known = [training.bytes for training in made.to_train if training.bytes is not None]
    said = [f"{len(known)} models, {_size(sum(known))}"] if known else []
    if blank := len(made.to_train) - len(known):
        said.append(f"{blank} models of unknown size")
    if made.times and made.arrays:
        said.append(f"figures of {len(made.times)} cells, about {_size(made.arrays)}")
    return [f"disk: {'; '.join(said)}"] if said else []


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count < 2**30 else f"{count / 2**30:.1f} GB"


def plain(made: Forecast, tier: str) -> dict[str, Any]:
    """As JSON."""
    cells, models = made.unknown
    return {
        "tier": tier, "cells": [_plain(step, made.times.get(step.cell.key)) for step in made.steps],
        "refused": [{"reason": reason, "cells": list(map(str, of))} for reason, of in made.refused.items()],
        "models": [{"key": t.key, "name": name, "seed": t.spec.seed, "cells": t.cells, "there": t.there,
                    "bytes": t.bytes, "seconds": _seconds(t.time)}
                   for t, name in zip(made.trainings, _names(made.trainings), strict=True)],
        "shelf": {kind: {"networks": count, "cells": needing} for kind, (count, needing) in made.shelf.items()},
        "seconds": made.seconds, "unknown": {"cells": cells, "models": models}, "records": made.records,
        "device": made.device, "chain": {"seconds": made.chain_seconds, "keys": list(made.chain)},
        "disk": {"models": _total(t.bytes for t in made.to_train), "arrays": made.arrays},
        "missing": dict(made.missing),
    }


def _total(sizes: Iterable[int | None]) -> int | None:
    """None where one is unknown."""
    found = list(sizes)
    return None if None in found else sum(filter(None, found))


def _seconds(time: Time | None) -> float | None:
    return time.seconds if time else None


def _plain(step: Step, time: Time | None) -> dict[str, Any]:
    return {"key": step.cell.key, "state": step.state, "model": step.cell.model, "trains": list(step.trains),
            "reason": step.reason, "seconds": _seconds(time), "spec": step.cell.spec.to_json()}
