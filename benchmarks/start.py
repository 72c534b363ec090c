"""How long `sidedoor --help` takes, beside an interpreter that does nothing, in the same run.

    python benchmarks/start.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "sidedoor --help": [sys.executable, "-m", "sidedoor", "--help"],
    "sidedoor list": [sys.executable, "-m", "sidedoor", "list"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    figures: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(8):
        for name, command in COMMANDS.items():
            figures[name].append(seconds(command))
    base = statistics.median(figures["python -c pass"])
    for name, values in figures.items():
        print(f"{name:<18} median {statistics.median(values):.3f} s, largest {max(values):.3f} s, "
              f"{statistics.median(values) / base:.1f} times an empty interpreter")


if __name__ == "__main__":
    main()
