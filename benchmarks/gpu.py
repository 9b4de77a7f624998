"""How fast are losses and heads on a GPU, and how near to what it allows?

    python benchmarks/gpu.py [--out results.csv] [--rounds 50] [--only logits|heads] [--clock MHZ]

Forward and backward. The competitors take turns, each after the caches are flushed; reported are medians between
CUDA events, launches included where the GPU waits for them, and the memory that a turn needs at its peak beside
its inputs and their gradients. Liger's losses take part if its package is installed.

Losses of (N, K) logits are held against the slower of two limits of LGL-INR. One is moving the least possible: the
logits read forward and backward, the gradient written, at the bandwidth that a large copy reaches on the same GPU.
The other is its special functions (exponentials and reciprocals), at 16 a clock and processor. Heads, K x D and
bfloat16, are held against their three matrix products at the rate of a large one.
"""

import argparse
import statistics
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

import steelyard
from steelyard._common.files import write_csv
from steelyard.kernels.lgl_inr import triton as lgl_inr_triton
from steelyard.losses import lgl_inr_linear, logistic_linear
from steelyard.losses.functional import lgl_inr_loss, logistic_loss

SHAPES = [(256, 1000), (1024, 21_841), (1024, 100_000), (4096, 131_072)]
DTYPES = [torch.float32, torch.bfloat16]
HEADS = [(1024, 768, 100_000), (1024, 768, 1_000_000)]  # (N, D, K)
DEVICE = "cuda"
FLUSHED = 256 << 20  # bytes that are written before a turn: more than any cache holds
LOOP_CLASSES = 1000  # a loop over more takes seconds
TRITON, TORCH = "lgl_inr_loss, Triton", "lgl_inr_loss, torch"
FUSED, UNFUSED = "LGLINRLinear", "linear + lgl_inr_loss"
SPECIAL_PER_CLOCK = 16  # a processor, in compute capabilities 8.0 to 10.0
Loss = Callable[..., Tensor]  # of the logits; of input, weight and bias


class Limits(NamedTuple):
    """What this GPU does at most, a second."""

    memory: float  # bytes, read and written
    special: float  # functions
    products: float  # floating-point operations of a bfloat16 product

    def of_logits(self, n: int, k: int, present: int, itemsize: int) -> tuple[float, str]:
        """The least seconds of LGL-INR with `present` classes in the batch, and what sets them."""
        moved = 3 * n * k * itemsize
        # Forward and backward an exponential and a reciprocal of each logit, an exponential of each class's mean;
        # the logarithm is a polynomial.
        special = 2 * (2 * n + present) * k
        return max((moved / self.memory, "memory"), (special / self.special, "special functions"))

    def of_head(self, n: int, d: int, k: int) -> tuple[float, str]:
        """The same of a head: the products of the logits and of the gradients of input and weight."""
        return 6 * n * k * d / self.products, "products"


class Result(NamedTuple):
    seconds: float
    extra: int  # bytes


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
    torch.compiler.reset()  # or it would generalise over the shapes of this run
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


def heads(target: Tensor) -> dict[str, Loss]:
    """Losses of a linear head, given input (N, D), weight (K, D) and bias (K,); those that this torch has."""

    def unfused(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, w, b), target)

    losses: dict[str, Loss] = {
        FUSED: lambda x, w, b: lgl_inr_linear(x, w, target, linear_bias=b),
        "LogisticLinear": lambda x, w, b: logistic_linear(x, w, target, linear_bias=b),
        UNFUSED: lambda x, w, b: lgl_inr_loss(F.linear(x, w, b), target),
        "linear + logistic_loss": lambda x, w, b: logistic_loss(F.linear(x, w, b), target),
        "linear + torch cross-entropy": unfused,
        "linear + torch cross-entropy, compiled": torch.compile(unfused, dynamic=False),
    }
    try:
        chunked = torch.compile(unfused, dynamic=False, options={"auto_chunker.enable": True})
        losses["linear + torch cross-entropy, compiled in chunks"] = chunked
    except RuntimeError as error:  # an older torch knows no such option
        print(f"left out: compiled in chunks ({error})")
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        for words, given in (("default", {}), ("256 rows", {"batch_chunk_size": 256, "chunking_method": None})):
            losses[f"torch linear_cross_entropy, {words}"] = torch_fused(target, given)
    else:
        print(f"left out: linear_cross_entropy, which torch {torch.__version__} has not")
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        pass
    else:
        liger = LigerFusedLinearCrossEntropyLoss()
        losses["Liger fused linear cross-entropy"] = lambda x, w, b: liger(w, x, target, b)
    return losses


def torch_fused(target: Tensor, given: dict[str, Any]) -> Loss:
    options = torch.nn.LinearCrossEntropyOptions(**given)
    return lambda x, w, b: F.linear_cross_entropy(x, w, target, linear_bias=b, options=options)


def check(leaves: Sequence[Tensor], losses: dict[str, Loss], names: tuple[str, str], scale: float) -> None:
    """No time for wrong results: two ways to LGL-INR give the same loss and gradients."""
    results = []
    for name in names:
        loss = losses[name](*leaves)
        results.append((loss.detach().float(), *torch.autograd.grad(loss * scale, leaves)))
    coarse = 1e-3 if leaves[0].dtype == torch.float32 else 2e-2
    for found, expected in zip(*results, strict=True):
        atol = 1e-6 if len(leaves) == 1 else coarse * expected.abs().max().item()  # products add roundings up
        torch.testing.assert_close(found, expected, rtol=coarse, atol=atol)


def one_turn(loss: Loss, leaves: Sequence[Tensor], flush: Tensor) -> float:
    """Seconds of one forward and backward."""
    forget(leaves)
    flush.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    loss(*leaves).backward()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def extra_memory(loss: Loss, leaves: Sequence[Tensor]) -> int:
    """Bytes at the peak of one forward and backward, beside the inputs and their gradients."""
    forget(leaves)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(*leaves).backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - sum(x.nbytes for x in leaves)


def forget(leaves: Sequence[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None


def logits_and_labels(n: int, k: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    logits = torch.randn(n, k, generator=generator, device=DEVICE).to(dtype)
    return [logits.requires_grad_()], torch.randint(k, (n,), generator=generator, device=DEVICE)


def head_and_labels(n: int, d: int, k: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    leaves = [
        torch.randn(n, d, generator=generator, device=DEVICE).bfloat16(),
        (torch.randn(k, d, generator=generator, device=DEVICE) / d**0.5).bfloat16(),
        torch.zeros(k, device=DEVICE).bfloat16(),
    ]
    return [x.requires_grad_() for x in leaves], torch.randint(k, (n,), generator=generator, device=DEVICE)


def measure(leaves: list[Tensor], losses: dict[str, Loss], rounds: int) -> dict[str, Result | None]:
    """What each competitor takes; None for one that ran out of memory."""
    flush = torch.empty(FLUSHED, dtype=torch.int8, device=DEVICE)
    # Liger's cross-entropy writes over its logits, so it gets its own.
    own = {
        name: [x.detach().clone().requires_grad_() for x in leaves] if name == "Liger cross-entropy" else leaves
        for name in losses
    }
    memory: dict[str, int] = {}
    for name, loss in losses.items():
        try:
            one_turn(loss, own[name], flush)  # compiles
            memory[name] = extra_memory(loss, own[name])
        except torch.cuda.OutOfMemoryError:
            pass
        forget(own[name])
        torch.cuda.empty_cache()
    times: dict[str, list[float]] = {name: [] for name in memory}
    for turn in range(rounds + 3):
        for name, taken in times.items():
            seconds = one_turn(losses[name], own[name], flush)
            forget(own[name])
            if turn >= 3:  # the first ones warm up
                taken.append(seconds)
    return {n: Result(statistics.median(times[n]), memory[n]) if n in memory else None for n in losses}


def bandwidth(size: int = 1 << 30) -> float:
    """Bytes per second, read and written, of a copy of `size` bytes."""
    source = torch.empty(size, dtype=torch.int8, device=DEVICE)
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


def product_rate(size: int = 8192) -> float:
    """Floating-point operations per second of a large product in bfloat16."""
    a = torch.randn(size, size, device=DEVICE).bfloat16()
    out = torch.empty_like(a)
    seconds = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.mm(a, a, out=out)
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return 2 * size**3 / statistics.median(seconds[5:])


def special_rate(properties: Any, clock: float | None) -> float:
    """Special functions per second, at the clock given in MHz, or else the highest that the device states."""
    if clock is None:
        stated = getattr(properties, "clock_rate", None)  # kHz
        clock = stated / 1e3 if stated else number_of_nvidia_smi("clocks.max.sm")
    if not clock:
        raise SystemExit("benchmarks/gpu.py cannot read the clock of this GPU; give it in MHz with --clock")
    return SPECIAL_PER_CLOCK * float(properties.multi_processor_count * clock * 1e6)


def nvidia_smi(field: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def number_of_nvidia_smi(field: str) -> float | None:
    try:
        return float(nvidia_smi(field))
    except ValueError:
        return None


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


COLUMNS = [
    *("what", "N", "D", "K", "dtype", "loss", "median_ms", "extra_MB", "share_of_limit", "limit"),
    *("rounds", "gpu", "driver", "torch", "triton"),
]


def report(
    problem: Sequence[Any], results: dict[str, Result | None], limit: tuple[float, str], about: Sequence[Any]
) -> tuple[list[str], list[list[Any]]]:
    """Lines to print and rows of the CSV, `COLUMNS`."""
    least, cause = limit
    lines, rows = [f"\n{' '.join(map(str, problem))}; {cause} allow {1e3 * least:.3f} ms"], []
    for name, result in results.items():
        if result is None:
            lines.append(f"  {name:38s} out of memory")
            figures = ["", "", ""]
        else:
            seconds, extra = result
            figures = [f"{1e3 * seconds:.4f}", f"{extra / 1e6:.1f}", f"{least / seconds:.4f}"]
            lines.append(
                f"  {name:38s} {1e3 * seconds:9.3f} ms  {least / seconds:6.1%} of the limit  "
                f"{extra / 1e6:9.1f} MB extra"
            )
        rows.append([*problem, name, *figures, cause, *about])
    return lines, rows


def write(rows: list[list[Any]], file: Path) -> None:
    write_csv(file, COLUMNS, rows)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", choices=["logits", "heads"])
    parser.add_argument("--clock", type=float, help="MHz of the GPU's processors. Default: the highest it states")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a CUDA device, and torch sees none")
    if not lgl_inr_triton.takes(torch.empty(1, 1, device=DEVICE), 1.0):
        raise SystemExit("benchmarks/gpu.py needs triton and a GPU of compute capability 8.0 or later")
    properties = torch.cuda.get_device_properties()
    limits = Limits(bandwidth(), special_rate(properties, arguments.clock), product_rate())
    about = [torch.cuda.get_device_name(), nvidia_smi("driver_version"), torch.__version__, installed("triton")]
    print(f"{about[0]}, driver {about[1]}, {limits.memory / 1e12:.2f} TB/s in a copy,")
    print(f"{limits.special / 1e12:.2f} T special functions/s, {limits.products / 1e12:.0f} TFLOP/s in a product")
    print(f"torch {about[2]}, triton {about[3]}, steelyard {steelyard.__version__}")
    about = [arguments.rounds, *about]
    rows = []

    def took(problem: Sequence[Any], results: dict[str, Result | None], limit: tuple[float, str]) -> None:
        lines, found = report(problem, results, limit, about)
        print(*lines, sep="\n", flush=True)
        rows.extend(found)
        torch.cuda.empty_cache()
        if arguments.out is not None:
            write(rows, arguments.out)  # after each problem: a later one may fail

    for n, k in SHAPES if arguments.only != "heads" else []:
        for dtype in DTYPES:
            leaves, target = logits_and_labels(n, k, dtype)
            losses = competitors(target, k)
            check(leaves, losses, (TRITON, TORCH), k)
            limit = limits.of_logits(n, k, len(target.unique()), dtype.itemsize)
            name = str(dtype).removeprefix("torch.")
            took(["logits", n, "", k, name], measure(leaves, losses, arguments.rounds), limit)
            del leaves
    for n, d, k in HEADS if arguments.only != "logits" else []:
        leaves, target = head_and_labels(n, d, k)
        losses = heads(target)
        if (n, d, k) == HEADS[0]:  # where all of the logits fit
            check(leaves, losses, (FUSED, UNFUSED), k)
        took(["head", n, d, k, "bfloat16"], measure(leaves, losses, arguments.rounds), limits.of_head(n, d, k))
        del leaves


if __name__ == "__main__":
    main()
