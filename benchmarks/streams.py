"""How long does an audit of a file take, against reading it and a softmax of its logits in the same run?

    python benchmarks/streams.py [--out streams.csv] [--rounds 5] [--threads 2]

A parquet file of logits and labels is audited as `steelyard audit` does, intervals included, but for the page. The
two take turns; reported are the fastest of each, and their ratio.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from steelyard._common.files import write_csv
from steelyard.commands.audit import audit_file
from steelyard.data.predictions import open_predictions

SHAPES = ((200_000, 10), (2_000_000, 10), (400_000, 100), (40_000, 1000), (200_000, 1000))  # rows and classes


def write(path: Path, rows: int, classes: int) -> None:
    """Write logits of a fair model and labels, as float32 columns and int64."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (rows,), generator=generator)
    logits = torch.randn(rows, classes, generator=generator)
    logits[torch.arange(rows), target] += 2
    columns = {f"logit_{k}": logits[:, k].numpy() for k in range(classes)}
    pq.write_table(pa.table({"target": target.numpy(), **columns}), path, row_group_size=1 << 16)


def read(path: Path) -> None:
    """Read the file and take the softmax of each batch, as whoever needs probabilities does."""
    opened = open_predictions(path)
    for logits, _ in opened.batches():
        torch.softmax(logits, 1)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(path: Path, rounds: int) -> tuple[float, float]:
    """Return the fastest seconds of reading with a softmax, and of the audit; the first turn warms up."""
    times = [
        (seconds(lambda: read(path)), seconds(lambda: audit_file(path, loss="softmax"))) for _ in range(rounds + 1)
    ]
    reading, audit = (min(one) for one in zip(*times[1:], strict=True))
    return reading, audit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for number, classes in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "predictions.parquet")
            write(path, number, classes)
            reading, audit = measure(path, arguments.rounds)
        ratio = audit / reading
        print(f"{number} x {classes}: reading and softmax {reading:.3f} s, audit {audit:.3f} s, {ratio:.2f} x")
        times = [f"{reading:.4f}", f"{audit:.4f}", f"{ratio:.3f}"]
        rows.append([number, classes, *times, arguments.rounds, arguments.threads])
    if arguments.out is not None:
        write_csv(
            arguments.out,
            ["rows", "classes", "read_and_softmax_seconds", "audit_seconds", "ratio", "rounds", "threads"],
            rows,
        )


if __name__ == "__main__":
    main()
