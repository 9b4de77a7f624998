"""What do a linear head and its loss cost, fused or not: time and memory of forward and backward on the CPU?

    python benchmarks/linear.py --n 512 --d 256 --k 200000 [--out results.csv]
    python benchmarks/linear.py --curve --out results.csv --figure curve.svg

Float32. Each competitor has a process of its own, in which nothing else ever was; they take turns, round by round.
Memory is the highest resident size of a round, less what was resident before it (input, weight, bias) and less the
gradients that it leaves. The base of all ratios is a linear layer followed by `lgl_inr_loss`.
"""

import argparse
import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor
from torch.nn import functional as F

import steelyard
from losses import machine
from steelyard._common.files import write_csv
from steelyard.losses import lgl_inr_linear, logistic_linear
from steelyard.losses.functional import lgl_inr_loss, logistic_loss
from steelyard.report.style import STYLE, look

BASELINE = "linear + lgl_inr_loss"
Head = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # input, weight, bias, target -> loss


def _one_hot(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(F.linear(x, w, b), F.one_hot(y, len(w)).to(x.dtype))


def _torch_fused(**given: Any) -> Head:
    options = torch.nn.LinearCrossEntropyOptions(**given)
    return lambda x, w, b, y: F.linear_cross_entropy(x, w, y, linear_bias=b, options=options)


COMPETITORS: dict[str, Head] = {
    BASELINE: lambda x, w, b, y: lgl_inr_loss(F.linear(x, w, b), y),
    "lgl_inr_linear": lambda x, w, b, y: lgl_inr_linear(x, w, y, linear_bias=b),
    "lgl_inr_linear, 4096 sampled": lambda x, w, b, y: lgl_inr_linear(
        x, w, y, linear_bias=b, num_sampled=min(4096, len(w))
    ),
    "linear + logistic_loss": lambda x, w, b, y: logistic_loss(F.linear(x, w, b), y),
    "logistic_linear": lambda x, w, b, y: logistic_linear(x, w, y, linear_bias=b),
    "linear + torch one-hot BCE": _one_hot,
    "linear + torch cross-entropy": lambda x, w, b, y: F.cross_entropy(F.linear(x, w, b), y),
    # Its own choice of rows at a time is a slow one here, so a better one stands beside it.
    "torch linear_cross_entropy, 128 rows": _torch_fused(batch_chunk_size=128, chunking_method=None),
    "torch linear_cross_entropy, default": _torch_fused(),
}


def serve(name: str, n: int, d: int, k: int, threads: int, pipe: Any) -> None:
    """In a process of its own: make the head once, and measure a round whenever asked."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator).requires_grad_()
    w = (torch.randn(k, d, generator=generator) / d**0.5).requires_grad_()
    b = torch.zeros(k, requires_grad=True)
    y = torch.randint(k, (n,), generator=generator)
    head = COMPETITORS[name]
    small = [p[:64].detach().requires_grad_() for p in (x, w, b)]
    head(*small, y[:64] % 64).backward()  # loads what is loaded lazily
    while pipe.recv():
        for p in (x, w, b):
            p.grad = None
        ctypes.CDLL(None).malloc_trim(0)  # or memory that a former round gave back would count as there
        before = _resident()
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts anew
        start = time.perf_counter()
        head(x, w, b, y).backward()
        seconds = time.perf_counter() - start
        grads = sum(p.grad.numel() * p.grad.element_size() for p in (x, w, b) if p.grad is not None)
        pipe.send((seconds, _resident("VmHWM") - before - grads))


def _resident(key: str = "VmRSS") -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(n: int, d: int, k: int, rounds: int, threads: int, names: list[str]) -> dict[str, tuple[float, float]]:
    """Median seconds and bytes of each competitor."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], there = context.Pipe()
        processes.append(context.Process(target=serve, args=(name, n, d, k, threads, there), daemon=True))
        processes[-1].start()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            result = pipe.recv()
            if turn > 0:  # the first round warms up
                found[name].append(result)
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()
    return {
        name: (statistics.median(s for s, _ in results), statistics.median(m for _, m in results))
        for name, results in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=512, help="samples")
    parser.add_argument("--d", type=int, default=256, help="features")
    parser.add_argument("--k", type=int, default=200_000, help="classes")
    parser.add_argument(
        "--curve", action="store_true", help="several shapes about these, to see what cost grows with"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    parser.add_argument("--figure", type=Path, help="SVG of the times to write as well, and NAME-memory.svg")
    arguments = parser.parse_args()
    n, d, k = arguments.n, arguments.d, arguments.k
    shapes = [(n, d, k)]
    if arguments.curve:
        shapes = [(n, d, size) for size in (k // 64, k // 16, k // 4, k)]
        shapes += [(size, d, k // 4) for size in (n // 4, n * 2)] + [(n, size, k // 4) for size in (d // 4, d * 2)]
    setting = machine(arguments.threads)
    print(f"{setting}; torch {torch.__version__}, steelyard {steelyard.__version__}")
    rows: list[list[Any]] = []
    for shape in shapes:
        names = list(COMPETITORS)
        medians = measure(*shape, arguments.rounds, arguments.threads, names)
        print(f"\n(N, D, K) = {shape}, {arguments.rounds} rounds")
        time_base, memory_base = medians[BASELINE]
        for name, (seconds, size) in medians.items():
            print(
                f"  {name:36s} {1e3 * seconds:9.1f} ms {seconds / time_base:6.2f} x   "
                f"{size / 2**20:8.1f} MiB extra {size / memory_base:6.3f} x"
            )
            figures = f"{1e3 * seconds:.3f}", f"{seconds / time_base:.3f}", f"{size / 2**20:.2f}"
            rows.append(
                [*shape, name, *figures, f"{size / memory_base:.4f}", arguments.rounds, setting, torch.__version__]
            )
    if arguments.out is not None:
        head = "N D K head median_ms ratio_of_time extra_MiB ratio_of_memory rounds machine torch"
        write_csv(arguments.out, head.split(), rows)
    if arguments.figure is not None:
        memory = arguments.figure.with_stem(f"{arguments.figure.stem}-memory")
        draw(rows, arguments.figure, column=4, x="N D K", y="forward and backward, ms", title="Time")
        draw(rows, memory, column=6, x="N K", y="memory beyond input, head and gradients, MiB", title="Memory")


def draw(rows: list[list[Any]], file: Path, *, column: int, x: str, y: str, title: str) -> None:
    """A column of the rows against the size of the problem."""
    with mpl.rc_context(STYLE | {"svg.hashsalt": file.stem, "savefig.facecolor": "white"}):
        figure = Figure((9.2, 4.4), layout="constrained")
        axes = figure.subplots()
        for i, name in enumerate(COMPETITORS):
            colour, marker = look(i)
            points = [
                (r[0] * r[2] * (r[1] if x == "N D K" else 1), float(r[column])) for r in rows if r[3] == name
            ]
            axes.plot(*np.array(sorted(points)).T, marker, color=colour, ms=4.5, alpha=0.65, label=name)
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(f"{title} of a head with its loss against the size of the problem")
        axes.grid()
        figure.legend(loc="outside upper left", ncols=4, fontsize=8.5)
        figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
