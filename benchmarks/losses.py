"""How fast are the losses on the CPU, against torch's own in the same run?

    python benchmarks/losses.py [--out results.csv]

Forward and backward, float32. The competitors take turns, so that a busy moment hits all. Reported are medians
and the ratio of each to one-hot `F.binary_cross_entropy_with_logits`, which users write by hand. A plain copy
of the logits stands beside them, which no loss can beat.
"""

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

import steelyard
from steelyard._common.files import write_csv
from steelyard.kernels.lgl_inr import native as lgl_inr_native
from steelyard.losses.functional import lgl_inr_loss, logistic_loss, softmax_loss

SHAPES = [
    *((64, 10), (128, 10), (256, 2), (8192, 10), (512, 100)),
    *((256, 1000), (1024, 1000), (256, 10_000), (1024, 21_841)),
]
BASELINE = "torch one-hot BCE"
COPY = "a copy of the logits"


def competitors(target: Tensor, classes: int) -> dict[str, Callable[[Tensor], Tensor]]:
    weights = torch.linspace(0.5, 2, classes)
    return {
        COPY: lambda z: z.detach().clone(),
        BASELINE: lambda z: F.binary_cross_entropy_with_logits(z, F.one_hot(target, classes).to(z.dtype)),
        "torch cross-entropy": lambda z: F.cross_entropy(z, target),
        "torch cross-entropy, weighted": lambda z: F.cross_entropy(z, target, weight=weights),
        "softmax_loss": lambda z: softmax_loss(z, target),
        "softmax_loss, weighted": lambda z: softmax_loss(z, target, class_weights=weights),
        "logistic_loss": lambda z: logistic_loss(z, target),
        "lgl_inr_loss": lambda z: lgl_inr_loss(z, target),
        "lgl_inr_loss, detached": lambda z: lgl_inr_loss(z, target, detach_weights=True),
        "lgl_inr_loss, not compiled": lambda z: without_compiled(lambda: lgl_inr_loss(z, target)),
    }


def without_compiled(call: Callable[[], Tensor]) -> Tensor:
    """As where installation found no compiler."""
    with mock.patch.object(lgl_inr_native, "takes", return_value=False):
        return call()


def measure(rows: int, classes: int, rounds: int) -> dict[str, float]:
    """Median seconds of each competitor's forward and backward."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator, requires_grad=True)
    target = torch.randint(classes, (rows,), generator=generator)
    times: dict[str, list[float]] = {}
    order = random.Random(0)  # a turn starts with the cache and the heap that another left
    for turn in range(rounds + 2):
        for name, loss in order.sample(turns := [*competitors(target, classes).items()], len(turns)):
            logits.grad = None
            start = time.perf_counter()
            value = loss(logits)
            if value.requires_grad:  # a copy, the physical limit, has no backward
                value.backward()
            if turn >= 2:  # the first two warm up
                times.setdefault(name, []).append(time.perf_counter() - start)
    return {name: statistics.median(times[name]) for name in competitors(target, classes)}


def machine(threads: int) -> str:
    """What is measured on: processor, threads, and whether the compiled kernels are there."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processor = next(
        (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor()
    )
    return f"{processor}, {threads} threads, {'compiled' if lgl_inr_native.library() else 'no compiled'} kernels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = machine(arguments.threads)
    print(f"{setting}; torch {torch.__version__}, steelyard {steelyard.__version__}")
    rows = []
    for n, k in SHAPES:
        rounds = 51 if n * k < 5e6 else 15
        medians = measure(n, k, rounds)
        print(f"\n(N, K) = ({n}, {k}), {rounds} rounds")
        for name, seconds in medians.items():
            ratio = seconds / medians[BASELINE]
            print(f"  {name:28s} {1e3 * seconds:9.3f} ms  {ratio:5.2f} x")
            rows.append([n, k, name, f"{1e3 * seconds:.4f}", f"{ratio:.3f}", rounds, setting, torch.__version__])
    if arguments.out is not None:
        write_csv(
            arguments.out,
            ["N", "K", "loss", "median_ms", "ratio_to_one_hot_bce", "rounds", "machine", "torch"],
            rows,
        )


if __name__ == "__main__":
    main()
