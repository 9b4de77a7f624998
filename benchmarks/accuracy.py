"""How far are the losses and their gradients from exact ones, in the dtypes in which they are used?

    python benchmarks/accuracy.py [--out results.csv] [--page docs/accuracy.md]

Every registered loss and preset, at logits from 0 to 1e4 of both signs, against itself in float64, which the tests
hold to slow formulas and to mpmath. A number is the worst over all samples (columns, for a batch loss), logits and
scales. An error below 1e-12 counts as none. The targets are a relative error of 1e-6 of a loss and 1e-5 of a
gradient, or one unit in the last place; where an element misses its target, `missed` is its absolute error.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import steelyard
from steelyard import create_loss, list_losses
from steelyard._common.files import write_csv
from steelyard.losses import Loss
from steelyard.losses.presets import made_of_counts

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CLASSES = (2, 10, 1000)
SCALES = (0.0, 1e-8, 1e-4, 1e-2, 1.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1e3, 1e4)
NEGLIGIBLE = 1e-12
LOSS_TARGET, GRADIENT_TARGET = 1e-6, 1e-5
START, END = "<!-- measured -->", "<!-- end -->"


class Worst(NamedTuple):
    """The worst errors of one loss in one dtype: relative, and in units of the last place of what is returned.

    Losses are returned in float32, gradients in the dtype of the logits.
    """

    loss: str
    dtype: str
    classes: int
    loss_relative: float
    loss_ulp: float
    loss_missed: float
    gradient_relative: float
    gradient_ulp: float
    gradient_missed: float


def make_loss(name: str, classes: int) -> Loss:
    """Return a loss by its name, made from counts if it needs them, that gives one value a sample or column."""
    counts = [1 + 1000 // (k + 1) for k in range(classes)]
    loss = create_loss(name, reduction="none", class_counts=counts if made_of_counts(name) else None)
    if any(True for _ in loss.buffers()):
        loss(*batch_of(classes, 1.0))  # it weighs by what it has seen, which then stays
    return loss.eval()


def batch_of(classes: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return float64 logits of one magnitude, and labels: spread, of both signs, and one logit alone."""
    generator = torch.Generator().manual_seed(classes)
    rows = 6
    target = torch.randint(classes, (4 * rows,), generator=generator)
    spread = 2 * torch.rand(rows, classes, generator=generator, dtype=torch.float64) - 1
    signs = (torch.rand(rows, classes, generator=generator, dtype=torch.float64) - 0.5).sign()
    own = torch.nn.functional.one_hot(target[2 * rows :], classes).double()
    own[rows:] *= -1
    return scale * torch.cat([spread, signs, own]), target


def with_gradient(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    values = loss(leaf, target)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient


def errors(found: Tensor, exact: Tensor, target: float) -> tuple[float, float, float]:
    """Return the worst relative error, the worst in units of the last place of the dtype of `found`, and the worst
    absolute one of the elements that miss the target."""
    info = torch.finfo(found.dtype)
    off = (found.double() - exact).abs()
    off = torch.where(off <= NEGLIGIBLE, 0.0, off)
    place = torch.exp2(exact.abs().log2().floor()) * info.eps
    ulp = off / place.clamp(min=info.smallest_normal * info.eps)
    relative = torch.where(off > 0, off / exact.abs().clamp(min=NEGLIGIBLE), 0.0)
    missed = torch.where((relative > target) & (ulp > 1), off, 0.0)
    return float(relative.max()), float(ulp.max()), float(missed.max())


def measure(
    name: str, dtype: str, classes: int, scales: Iterable[float] = SCALES, loss: Loss | None = None
) -> Worst:
    """Return the worst errors of one loss."""
    loss = make_loss(name, classes) if loss is None else loss
    worst = [0.0] * 6
    for scale in scales:
        logits, target = batch_of(classes, scale)
        rounded = logits.to(DTYPES[dtype])
        value, gradient = with_gradient(loss, rounded, target)
        exact, exact_gradient = with_gradient(loss, rounded.double(), target)
        each = errors(value, exact, LOSS_TARGET) + errors(gradient, exact_gradient, GRADIENT_TARGET)
        worst = [max(pair) for pair in zip(worst, each, strict=True)]
    return Worst(name, dtype, classes, *worst)


def measure_all() -> Iterator[Worst]:
    for name in list_losses():
        for dtype in DTYPES:
            for classes in CLASSES:
                yield measure(name, dtype, classes)


def table(rows: list[Worst]) -> str:
    """Return the worst over the numbers of classes as a Markdown table."""
    lines = [
        "| loss | logits | loss: relative | ulp | misses by | gradient: relative | ulp | misses by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, dtype in dict.fromkeys((row.loss, row.dtype) for row in rows):
        worst = [max(column) for column in zip(*(r[3:] for r in rows if r[:2] == (name, dtype)), strict=True)]
        cells = [f"{x:.1f}" if 1 <= x < 1000 else f"{x:.1e}" if x else "0" for x in worst]
        lines.append(f"| `{name}` | {dtype} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    parser.add_argument("--page", type=Path, help="page whose table to write, between its two marks")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, steelyard {steelyard.__version__}")
    rows = list(measure_all())
    print(table(rows))
    if arguments.out is not None:
        write_csv(arguments.out, Worst._fields, ([*row[:3], *(f"{x:.2e}" for x in row[3:])] for row in rows))
    if arguments.page is not None:
        text = arguments.page.read_text(encoding="utf-8")
        before, _, rest = text.partition(START)
        _, _, after = rest.partition(END)
        arguments.page.write_text(f"{before}{START}\n\n{table(rows)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
