"""How fast are the losses on a GPU, and how near to what its memory allows?

    python benchmarks/gpu.py [--out results.csv] [--rounds 50]

Forward and backward on (N, K) logits. The competitors take turns, each after the caches are flushed; reported are
medians between CUDA events, launches included where the GPU waits for them, and the memory that a turn needs at
its peak beside the logits and their gradient. The bound is that of moving the least possible: the logits read
forward and backward, the gradient written, at the bandwidth that a large copy reaches on the same GPU. Liger's
cross-entropy takes part if its package is installed; it writes over its logits, so it gets its own.
"""

import argparse
import csv
import statistics
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

import steelyard
from steelyard.kernels import lgl_inr_triton
from steelyard.losses.functional import lgl_inr_loss

SHAPES = [(256, 1000), (1024, 21_841), (1024, 100_000), (4096, 131_072)]
DTYPES = [torch.float32, torch.bfloat16]
LOOP_CLASSES = 1000  # a loop over more takes seconds
TRITON, TORCH = "lgl_inr_loss, Triton", "lgl_inr_loss, torch"
Loss = Callable[[Tensor], Tensor]


def torch_path(z: Tensor, target: Tensor) -> Tensor:
    with mock.patch.object(lgl_inr_triton, "takes", return_value=False):
        return lgl_inr_loss(z, target)


def loop_over_classes(z: Tensor, target: Tensor) -> Tensor:
    """LGL-INR as one writes it down: class by class, derivatives left to autograd."""
    z, classes = z.float(), z.shape[1]
    present = target.unique().tolist()
    rows = [z[target == k] for k in present]
    P = torch.stack([torch.sigmoid(r).mean(0) for r in rows])
    A = torch.stack([F.softplus(r).mean(0) for r in rows])
    own = F.one_hot(torch.tensor(present, device=z.device), classes).bool()
    omega = torch.softmax(P.masked_fill(own, -torch.inf), 0)
    pull = torch.stack([F.softplus(-r[:, k]).mean() for k, r in zip(present, rows, strict=True)])
    return ((omega * A).sum() + pull.sum()) / classes


def competitors(target: Tensor, classes: int) -> dict[str, Loss]:
    torch._dynamo.reset()  # or it would generalise over the shapes of this run
    compiled = torch.compile(F.cross_entropy, dynamic=False)
    losses: dict[str, Loss] = {
        "torch cross-entropy": lambda z: F.cross_entropy(z, target),
        "torch cross-entropy, compiled": lambda z: compiled(z, target),
        "torch one-hot BCE": lambda z: F.binary_cross_entropy_with_logits(
            z, F.one_hot(target, classes).to(z.dtype)
        ),
        TORCH: lambda z: torch_path(z, target),
        TRITON: lambda z: lgl_inr_loss(z, target),
    }
    try:
        from liger_kernel.transformers import LigerCrossEntropyLoss
    except ImportError:
        pass
    else:
        liger = LigerCrossEntropyLoss()
        losses["Liger cross-entropy"] = lambda z: liger(z, target)
    if classes <= LOOP_CLASSES:
        losses["LGL-INR, loop over classes"] = lambda z: loop_over_classes(z, target)
    return losses


def check(logits: Tensor, losses: dict[str, Loss]) -> None:
    """No time for wrong results: both paths of LGL-INR give the same loss and gradient."""
    results = []
    for name in (TORCH, TRITON):
        loss = losses[name](logits)
        results.append((loss.detach(), *torch.autograd.grad(loss * logits.shape[1], logits)))
    coarse = 2e-2 if logits.dtype == torch.bfloat16 else 1e-3
    torch.testing.assert_close(results[1], results[0], rtol=coarse, atol=1e-6)


def one_turn(loss: Loss, logits: Tensor, flush: Tensor) -> float:
    """Seconds of one forward and backward."""
    logits.grad = None
    flush.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    loss(logits).backward()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def extra_memory(loss: Loss, logits: Tensor) -> int:
    """Bytes at the peak of one forward and backward, beside the logits and their gradient."""
    logits.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(logits).backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - logits.nbytes


def measure(rows: int, classes: int, dtype: torch.dtype, rounds: int) -> dict[str, tuple[float, int] | None]:
    """Median seconds and extra bytes of each competitor; None for one that ran out of memory."""
    generator = torch.Generator("cuda").manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator, device="cuda").to(dtype)
    target = torch.randint(classes, (rows,), generator=generator, device="cuda")
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    losses = competitors(target, classes)
    own = {name: logits.clone() if name.startswith("Liger") else logits for name in losses}
    leaf = {name: z.detach().requires_grad_() for name, z in own.items()}
    check(leaf[TRITON], losses)
    memory: dict[str, int] = {}
    for name in list(losses):
        try:
            one_turn(losses[name], leaf[name], flush)  # compiles
            memory[name] = extra_memory(losses[name], leaf[name])
        except torch.cuda.OutOfMemoryError:
            del losses[name]
        leaf[name].grad = None
        torch.cuda.empty_cache()
    times: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(rounds + 3):
        for name, loss in losses.items():
            seconds = one_turn(loss, leaf[name], flush)
            leaf[name].grad = None
            if turn >= 3:  # the first ones warm up
                times[name].append(seconds)
    return {name: (statistics.median(times[name]), memory[name]) if name in losses else None for name in leaf}


def bandwidth() -> float:
    """Bytes per second, read and written, of a copy of 1 GiB."""
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    destination = torch.empty_like(source)
    seconds = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        destination.copy_(source)
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return 2 * source.nbytes / statistics.median(seconds[5:])


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a CUDA device, and torch sees none")
    if not lgl_inr_triton.takes(torch.empty(1, 1, device="cuda"), 1.0):
        raise SystemExit("benchmarks/gpu.py needs triton and a GPU of compute capability 8.0 or later")
    peak = bandwidth()
    machine = [torch.cuda.get_device_name(), driver(), torch.__version__, installed("triton")]
    print(f"{machine[0]}, driver {machine[1]}, {peak / 1e12:.2f} TB/s in a copy")
    print(f"torch {machine[2]}, triton {machine[3]}, steelyard {steelyard.__version__}")
    lines = []
    for n, k in SHAPES:
        for dtype in DTYPES:
            name_of_dtype = str(dtype).removeprefix("torch.")
            bound = 3 * n * k * dtype.itemsize / peak
            print(f"\n(N, K) = ({n}, {k}), {name_of_dtype}; bound {1e3 * bound:.3f} ms")
            for name, result in measure(n, k, dtype, arguments.rounds).items():
                if result is None:
                    print(f"  {name:30s} out of memory")
                    figures = ["", "", ""]
                else:
                    seconds, extra = result
                    print(
                        f"  {name:30s} {1e3 * seconds:9.3f} ms  {bound / seconds:6.1%} of the bound  "
                        f"{extra / 2**20:9.1f} MiB extra"
                    )
                    figures = [f"{1e3 * seconds:.4f}", f"{extra / 2**20:.1f}", f"{bound / seconds:.4f}"]
                lines.append([n, k, name_of_dtype, name, *figures, arguments.rounds, *machine])
            torch.cuda.empty_cache()
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            measured = ["median_ms", "extra_MiB", "share_of_bandwidth_bound"]
            about = ["rounds", "gpu", "driver", "torch", "triton"]
            writer.writerow(["N", "K", "dtype", "loss", *measured, *about])
            writer.writerows(lines)


if __name__ == "__main__":
    main()
