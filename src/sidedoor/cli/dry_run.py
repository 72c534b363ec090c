"""What `run` and `sweep` would do, said without doing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sidedoor.cli._options import emit, say

if TYPE_CHECKING:
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.plan import Step
    from sidedoor.bench.spec import Spec
    from sidedoor.bench.store import Store


def show(specs: Sequence[Spec], store: Store, here: Machine, as_json: bool) -> None:
    """Load the data, build the networks, and print what would become of each cell."""
    from sidedoor.bench.plan import check_networks, planned, steps

    found = steps(planned(specs, here), store)
    check_networks([step.cell for step in found if step.state == "to run"], here)
    if as_json:
        emit([_plain(step) for step in found])
        return
    for line in lines(found):
        say(line)


def lines(found: Sequence[Step]) -> list[str]:
    """A head that counts, then a line for each cell; those with the same model share it."""
    from sidedoor.bench.labels import names

    counts, models = Counter(step.state for step in found), sum(len(step.trains) for step in found)
    head = f"{len(found)} cells: {', '.join(f'{count} {state}' for state, count in counts.items())}; " \
           f"{models} models to train"
    rows = [("state", "key", "model", "cell", ""), *(
        (step.state, step.cell.key, step.cell.model, name, _more(step))
        for step, name in zip(found, names([step.cell.spec.to_json() for step in found]), strict=True))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [head, *("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
                    for row in rows)]


def _more(step: Step) -> str:
    own, others = step.cell.model in step.trains, len(set(step.trains) - {step.cell.model})
    trained = ["its model"] * own + [f"{others} clean"] * bool(others)
    return step.reason or (f"trains {' and '.join(trained)}" if trained else "")


def _plain(step: Step) -> dict[str, Any]:
    return {"key": step.cell.key, "state": step.state, "model": step.cell.model, "trains": list(step.trains),
            "reason": step.reason, "spec": step.cell.spec.to_json()}
