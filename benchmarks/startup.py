"""How long does it take to start, against `import torch` in the same run?

    python benchmarks/startup.py [--out startup.csv] [--rounds 15]

Every case is a process of its own, and the cases take turns, so that a busy moment hits all. The first turn, which
writes the bytecode that an installed package has, does not count. Reported are medians of
seconds, wall clock and processor, and the ratio of each case to `import torch`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from steelyard._common.files import write_csv

CASES = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import steelyard": ["-c", "import steelyard"],
    "all public names": ["-c", "from steelyard import *"],
    "the losses": ["-c", "import steelyard.losses"],
    "a metric": ["-c", "from steelyard.balance import MeanConfusion"],
    "steelyard --help": ["-m", "steelyard", "--help"],
    "a wrong option": ["-m", "steelyard", "audit", "--wrong"],
}
BASELINE = "import torch"


def measure(arguments: list[str]) -> tuple[float, float]:
    """Return the seconds of one process: wall clock, and processor with its children."""
    before, start = os.times(), time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode != (2 if "--wrong" in arguments else 0):
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for turn in range(arguments.rounds + 1):
        for name, command in CASES.items():
            found = measure(command)
            if turn > 0:
                times[name].append(found)
    medians = {name: [statistics.median(one) for one in zip(*found, strict=True)] for name, found in times.items()}
    rows = []
    for name, (wall, cpu) in medians.items():
        ratios = wall / medians[BASELINE][0], cpu / medians[BASELINE][1]
        print(f"{name:20s} {wall:7.3f} s  {ratios[0]:5.2f} x   processor {cpu:7.3f} s  {ratios[1]:5.2f} x")
        rows.append([name, f"{wall:.4f}", f"{ratios[0]:.3f}", f"{cpu:.4f}", f"{ratios[1]:.3f}", arguments.rounds])
    if arguments.out is not None:
        write_csv(
            arguments.out,
            ["start", "seconds", "ratio_to_torch", "cpu_seconds", "cpu_ratio_to_torch", "rounds"],
            rows,
        )


if __name__ == "__main__":
    main()
