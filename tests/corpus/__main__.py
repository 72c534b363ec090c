"""Read everything in the corpus, each in a process of its own with limits, and say what came of it.

    python -m tests.corpus [--only KIND] [--verbose]

Exit code 1 if code in an input was run, a reader failed with anything but the house's own errors, a reader hung, took
more memory than its input's size allows, or refused what is good.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.corpus.run import EXPECTED, Outcome, all_items, run

FAULTS = ("executed", "traceback", "hang", "memory", "wrongly refused")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", help="of one kind")
    parser.add_argument("--verbose", action="store_true", help="name every input")
    given = parser.parse_args()
    items = [item for item in all_items() if given.only in (None, item.kind)]
    start, outcomes = time.monotonic(), list[Outcome]()
    for outcome in run(items):
        outcomes.append(outcome)
        if given.verbose or outcome.what in FAULTS:
            print(f"{outcome.item.kind:8} {outcome.item.name:40} {outcome.what:16} {outcome.memory / 2**20:6.0f} MB "
                  f"{outcome.seconds:6.1f} s  {outcome.said[:150]}", flush=True)
    print(_table(outcomes))
    print(f"{len(outcomes)} inputs in {time.monotonic() - start:.0f} s; "
          + ", ".join(f"{fault} {sum(o.what == fault for o in outcomes)}" for fault in FAULTS))
    return int(any(outcome.what in FAULTS for outcome in outcomes))


def _table(outcomes: list[Outcome]) -> str:
    lines = []
    for kind in dict.fromkeys(outcome.item.kind for outcome in outcomes):
        found = Counter(outcome.what for outcome in outcomes if outcome.item.kind == kind)
        most = max(outcome.memory for outcome in outcomes if outcome.item.kind == kind)
        lines.append(f"{kind:8} {found.total():4} inputs (at least {EXPECTED.get(kind, 0)}): "
                     f"{', '.join(f'{what} {n}' for what, n in sorted(found.items()))}; at most {most / 2**20:.0f} MB "
                     "more than a small one")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
