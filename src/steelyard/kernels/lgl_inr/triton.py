"""LGL-INR on the logits of a GPU, in Triton: nothing of the logits' size is made but their gradient.

With P and A the means of p = sigmoid(z) and of softplus(z) over the rows of class k, and
e = exp(beta P - max(beta, 0)), which lies in [exp(-|beta|), 1] as P lies in [0, 1], so that no maximum has to be
found first: column j has D = sum of e and Abar = sum of e A / D over the classes k != j of the batch, and

    loss_j = pos_weight_j mean softplus(-z_ij) over the rows of class j + Abar_j
    gradient: -pos_weight_j sigmoid(-z_ij) / n_j                                 rows of class j
              e / (D n_k) p (1 + beta (A - Abar_j) (1 - p))                       rows of any other class k

without the bracket when the weights are detached. Forward reads the logits once and keeps D and Abar; backward
reads them once or, from the cache, twice, and writes the gradient. Programs own columns; where those are too few
to fill the GPU, several share a column, each with a part of the classes. Classes of more than `_RUN` rows are cut
into runs, which are shared out as well: forward sums these first, and keeps P and A of their classes for backward.
Sums are taken in a fixed order: results are the same from run to run.

Left to be had: block sizes are reasoned, not tuned; the label plan is some thirty small launches.
"""

import contextlib
import functools
import warnings
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard._common.private_torch import constant_when_traced
from steelyard.kernels.autograd import map_slices, may_have_tangent, once, refuse_tangents
from steelyard.kernels.lgl_inr.plan import FIXED_SHIFT_BETA, make_segments

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_RUN = 1024  # rows, as in the device code
_HEAD = 5  # numbers in front of a plan


def _installed() -> bool:
    try:
        return find_spec("triton") is not None
    except ValueError:  # a stand-in without a specification
        return False


_INSTALLED = _installed()


def takes(logits: Tensor, beta: float) -> bool:
    """Whether these logits go to the Triton kernels: on a GPU that runs them, not float64, moderate beta."""
    return (
        _INSTALLED
        and torch.version.hip is None  # which has other machine code
        and logits.is_cuda
        and logits.dtype in _DTYPES
        and abs(beta) <= FIXED_SHIFT_BETA
        and is_recent(logits.device.index)
        and _launches()
    )


# A constant, or torch.compile would trace into the query and break the graph.
@constant_when_traced
def is_recent(index: int) -> bool:
    return torch.cuda.get_device_capability(index) >= (8, 0)  # before: no bfloat16 in hardware


@constant_when_traced
def _launches() -> bool:
    return _starts()  # not cached itself: torch.compile looks through caches


@functools.cache
def _starts() -> bool:
    """Whether triton works here: with it comes no C compiler, without which it launches nothing."""
    try:
        from triton.runtime import driver

        driver.active.get_current_device()
    except Exception as error:  # whatever it meets: there is another way
        warnings.warn(
            f"LGL-INR runs on torch's operations on this GPU, which is slower, as triton failed to start "
            f"({type(error).__name__}: {error}); it needs a C compiler",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    return True


def lgl_inr_triton_columns(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
) -> Tensor:
    """Per-column losses (K,), float32, of (N, K) logits, N >= 1, differentiable once in the logits."""
    anchor = logits[:1, :1].clone()  # a second derivative finds the way to its error by it
    function = _LGLINRTritonForward if may_have_tangent(logits, pos_weight) else _LGLINRTriton
    loss: Tensor = function.apply(  # type: ignore[no-untyped-call]
        logits, anchor, target, pos_weight, beta, detach_weights, ignore_index
    )[0]
    return loss


# Opaque operators, not `triton_op`: a compiler has nothing to fuse into these loops, and their grid depends on the
# GPU at hand. Both are functional, so that torch.compile and autograd see no mutation.
@torch.library.custom_op("steelyard::lgl_inr_statistics", mutates_args=())
def lgl_inr_statistics(
    logits: Tensor, target: Tensor, pos_weight: Tensor | None, beta: float, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Column losses (K,) of (N, K) logits, and what the gradient needs: D (K,), Abar (K,), P and A of the L
    classes that may be long (L, 2, K), and the label plan."""
    num_classes = logits.shape[1]
    plan = _plan(target, num_classes, ignore_index)
    loss = logits.new_empty(num_classes, dtype=torch.float32)
    statistics = _Launch(_unit_columns(logits), plan, num_classes, beta).statistics(pos_weight, loss)
    return loss, *statistics, plan


@torch.library.custom_op("steelyard::lgl_inr_gradient", mutates_args=())
def lgl_inr_gradient(
    grad_loss: Tensor,
    logits: Tensor,
    pos_weight: Tensor | None,
    total: Tensor,
    average: Tensor,
    means: Tensor,
    plan: Tensor,
    beta: float,
    detach_weights: bool,
) -> Tensor:
    """Gradient (N, K) in the logits' dtype, given that of the column losses (K,) and the statistics."""
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    launch = _Launch(_unit_columns(logits), plan, logits.shape[1], beta)
    launch.gradient(grad_loss, pos_weight, (total, average, means), detach_weights, grad)
    return grad


class ColumnBatch:
    """What the output columns of one batch share on a GPU, whose logits come in blocks of columns.

    As `lgl_inr.Batch`, but the bias of the columns and their weights in the gradient are taken in on the way: each
    would cost a pass over the logits.

    Args:
        target: (N,) labels from 0 to `num_classes` - 1, or `ignore_index`.
        num_classes: of the labels; the columns that come in blocks may be any of theirs.
        pos_weight: (num_classes,) or None.
    """

    def __init__(
        self,
        target: Tensor,
        num_classes: int,
        ignore_index: int,
        pos_weight: Tensor | None,
        beta: float,
        detach_weights: bool,
    ) -> None:
        self.num_classes, self.beta, self.detach_weights = num_classes, beta, detach_weights
        self.pos_weight = _float32(pos_weight)
        self.plan = _plan(target, num_classes, ignore_index)

    def columns(
        self, z: Tensor, first: int, bias: Tensor | None, factor: Tensor, loss: Tensor, grad: Tensor | None
    ) -> None:
        """Write the losses (B,), float32, of a block of columns, whose logits are z + bias, (N, B) and (B,), from
        class `first` on. The gradient of their sum weighted by `factor`, (B,) float32, goes to `grad`, (N, B)
        contiguous, unless it is None."""
        pos_weight = None if self.pos_weight is None else self.pos_weight[first : first + z.shape[1]]
        launch = _Launch(z, self.plan, self.num_classes, self.beta, first, bias)
        statistics = launch.statistics(pos_weight, loss)
        if grad is not None:
            launch.gradient(factor, pos_weight, statistics, self.detach_weights, grad)


class _Launch:
    """The kernels on (N, B) logits, with unit stride over columns, of the classes from `first` on."""

    def __init__(
        self,
        logits: Tensor,
        plan: Tensor,
        num_classes: int,
        beta: float,
        first: int = 0,
        bias: Tensor | None = None,
    ) -> None:
        rows, columns = logits.shape
        self.kernels = _kernels(logits.device)
        self.logits, self.plan, self.bias = logits, plan, bias
        self.sizes = _sizes(rows, num_classes)
        self.layout = _layout(rows, columns, num_classes, _processors(logits.device))
        self.numbers = (*self.sizes, first)
        self.exponent = beta, max(beta, 0.0)
        self.options = {
            "VEC": _together(columns, logits.stride(0)),
            "BLOCK_N": self.layout.block_rows,
            "BLOCK_J": self.layout.block_columns,
            "enable_fp_fusion": True,
        }
        self.singles = {"LONG": self.sizes.long > 0, "BLOCK_S": self.layout.block_singles}

    def statistics(self, pos_weight: Tensor | None, loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write the losses of the columns, (B,), and make what the gradient needs of them: D and Abar, (B,) each,
        and P and A of long classes, (L, 2, B)."""
        columns, layout, sizes = self.logits.shape[1], self.layout, self.sizes
        total, average, means, run_sums, partial = (
            self.logits.new_empty((*shape, columns), dtype=torch.float32)
            for shape in ((), (), (sizes.long, 2), (sizes.runs, 2), (layout.splits, 3))
        )
        read = self.logits, self.logits.stride(0), self.bias, self.plan
        with _on(self.logits.device):
            if sizes.long:
                self.kernels.runs[layout.tiles, layout.run_splits](
                    *read, run_sums, columns, *self.numbers, **self.options
                )
                self.kernels.join[layout.tiles, layout.long_splits](
                    run_sums, self.plan, means, columns, *self.sizes, **self.options
                )
            self.kernels.statistics[layout.tiles, layout.splits](
                *read,
                means,
                partial,
                columns,
                *self.numbers,
                *self.exponent,
                **self.singles,
                **self.options,
            )
            self.kernels.finish[(layout.tiles,)](
                partial,
                layout.splits,
                _float32(pos_weight),
                loss,
                total,
                average,
                columns,
                BLOCK_J=layout.block_columns,
                enable_fp_fusion=True,
            )
        return total, average, means

    def gradient(
        self,
        grad_loss: Tensor,
        pos_weight: Tensor | None,
        statistics: tuple[Tensor, Tensor, Tensor],
        detach_weights: bool,
        grad: Tensor,
    ) -> None:
        """Write the gradient, (N, B) contiguous, given that of the column losses, (B,)."""
        total, average, means = statistics
        layout = self.layout
        splits = max(layout.splits, layout.run_splits) if self.sizes.long else layout.splits
        with _on(self.logits.device):
            self.kernels.gradient[layout.tiles, splits](
                self.logits,
                self.logits.stride(0),
                self.bias,
                self.plan,
                means,
                _float32(grad_loss),
                _float32(pos_weight),
                total,
                average,
                grad,
                *self.logits.shape,
                *self.numbers,
                *self.exponent,
                DETACH=detach_weights or self.exponent[0] == 0,
                **self.singles,
                **self.options,
            )


class _Sizes(NamedTuple):
    """Of the parts of a plan; known from N and K alone, so that nothing waits for the GPU."""

    segments: int  # as `make_segments` makes them
    long: int  # at most so many classes have more than _RUN rows
    runs: int  # at most so many runs have these


def _sizes(rows: int, num_classes: int) -> _Sizes:
    long = min(num_classes, rows // (_RUN + 1))
    runs = rows // _RUN + long if long else 0
    return _Sizes(num_classes + 1 if num_classes <= rows else rows, long, runs)


def _length(rows: int, num_classes: int) -> int:
    sizes = _sizes(rows, num_classes)
    return _HEAD + 4 * sizes.segments + sizes.long + sizes.runs + rows


def _plan(target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """The batch sorted by label, int32, as `lgl_inr_triton_kernels` describes it.

    int32 in one fresh tensor: the kernels read their offsets in 32 bits, from aligned memory.
    """
    segments = make_segments(target, num_classes, ignore_index)
    sizes = _sizes(len(target), num_classes)
    present = (segments.counts > 0) & (segments.labels < num_classes)
    single = present & (segments.counts == 1)
    long = present & (segments.counts > _RUN)
    rank = torch.argsort(1 + single.int() + 2 * (~present).int() - long.int(), stable=True)
    first_rows = segments.order[segments.offsets[:-1].clamp(max=len(target) - 1)]
    per_segment = torch.stack([segments.offsets[:-1], segments.counts, segments.labels, first_rows])[:, rank]
    pieces = (segments.counts + _RUN - 1) // _RUN * long
    counted = segments.counts * present
    head = [x.sum() for x in (long, present & ~single, present, counted, pieces)]
    parts = [torch.stack(head), per_segment.reshape(-1)]
    if sizes.long:
        ends = pieces[rank][: sizes.long].cumsum(0)
        every = torch.arange(sizes.runs, device=target.device)
        owner = torch.searchsorted(ends, every, right=True).clamp(max=sizes.long - 1)
        parts += [ends - pieces[rank][: sizes.long], owner]
    return torch.cat([*parts, segments.order]).int()


class _Layout(NamedTuple):
    """How the kernels divide the (N, B) logits."""

    block_rows: int  # of one class
    block_singles: int  # rows, each of a class of its own
    block_columns: int
    tiles: int  # of columns
    splits: int  # of the classes
    run_splits: int  # of the runs
    long_splits: int  # of the long classes


def _layout(rows: int, columns: int, num_classes: int, processors: int) -> _Layout:
    """Tiles of at most 1024 elements, or 2048 of classes of one row, which stay in registers; rows of a tile about
    twice those of a class, as lanes beyond the end of a class idle. Four programs a processor, if there is enough
    to share out, and up to 32 while each has 256 rows, so that the last to end leave little of the GPU idle."""
    block_columns = min(128, max(16, _power_of_two(columns)))
    block_rows = min(1024 // block_columns, max(4, _power_of_two(2 * rows // num_classes)))
    tiles = -(-columns // block_columns)
    wanted = max(-(-4 * processors // tiles), min(-(-32 * processors // tiles), rows // 256))
    # Below some rows and classes a program adding shares up costs more than it gains; sums over more than a
    # thousand classes lose digits.
    fewer = min(rows, num_classes)
    most = max(fewer // 4, min(fewer, rows // 16))
    least = -(-min(rows // 2, num_classes) // 1024)
    sizes = _sizes(rows, num_classes)
    splits, run_splits, long_splits = (max(1, min(wanted, n)) for n in (most, sizes.runs, sizes.long))
    splits = max(splits, least)
    block_singles = min(2048 // block_columns, max(4, _power_of_two(fewer // splits)))  # so that all have some
    return _Layout(block_rows, block_singles, block_columns, tiles, splits, run_splits, long_splits)


def _together(columns: int, stride: int) -> int:
    """How many elements of any row may be loaded at once: triton itself sees multiples of 16 only."""
    return next(n for n in (4, 2, 1) if columns % n == stride % n == 0)


def _power_of_two(x: int) -> int:
    """The least power of two >= x."""
    return 1 << max(0, x - 1).bit_length()


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _kernels(device: torch.device) -> ModuleType:
    """The device code; imported at the first launch, as the package works without triton."""
    from steelyard.kernels.lgl_inr import device as kernels

    if device.type != "cuda" and not kernels.INTERPRETED:
        raise RuntimeError(f"the Triton kernels of lgl_inr_loss need logits on a GPU, got {device.type}")
    return kernels


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    # Triton launches on the current device, which need not be that of the logits.
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _unit_columns(logits: Tensor) -> Tensor:
    """Rows may lie anywhere, but columns side by side: gathering single elements of sorted rows would read a
    whole memory sector for each, some eight times the bytes, where a copy costs two passes."""
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _float32(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.to(torch.float32).contiguous()


@lgl_inr_statistics.register_fake
def _(
    logits: Tensor, target: Tensor, pos_weight: Tensor | None, beta: float, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, num_classes = logits.shape
    loss, total, average = (logits.new_empty(num_classes, dtype=torch.float32) for _ in range(3))
    means = logits.new_empty((_sizes(rows, num_classes).long, 2, num_classes), dtype=torch.float32)
    return loss, total, average, means, logits.new_empty(_length(rows, num_classes), dtype=torch.int32)


@lgl_inr_gradient.register_fake
def _(
    grad_loss: Tensor,
    logits: Tensor,
    pos_weight: Tensor | None,
    total: Tensor,
    average: Tensor,
    means: Tensor,
    plan: Tensor,
    beta: float,
    detach_weights: bool,
) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


map_slices(lgl_inr_statistics)
map_slices(lgl_inr_gradient)


class _LGLINRTriton(torch.autograd.Function):
    """The two operators as one differentiable function. The gradient waits for backward, where that of the
    column losses is known: nothing is scaled afterwards, and float16 gradients see the loss scale."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,
        anchor: Tensor,
        target: Tensor,
        pos_weight: Tensor | None,
        beta: float,
        detach_weights: bool,
        ignore_index: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        result: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = lgl_inr_statistics(
            logits, target, pos_weight, beta, ignore_index
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, anchor, _, pos_weight, ctx.beta, ctx.detach_weights, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, anchor, pos_weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> Any:
        if grad_loss is None:
            return (None,) * 7
        logits, anchor, pos_weight, *statistics = ctx.saved_tensors
        with torch.no_grad():  # a second derivative meets the error below, not the operator's lack of one
            grad = lgl_inr_gradient(grad_loss, logits, pos_weight, *statistics, ctx.beta, ctx.detach_weights)
        if torch.is_grad_enabled() or may_have_tangent(anchor):  # create_graph=True
            grad = once(grad, anchor)
        return grad, None, None, None, None, None, None


class _LGLINRTritonForward(_LGLINRTriton):
    """The same with a tangent. A compiler takes no function that has one."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _LGLINRTriton.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2], inputs[3], *output[1:])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, _: Any, *others: Any) -> tuple[Tensor | None, ...]:
        refuse_tangents(others)
        if tangent is None:
            return (None,) * 5
        logits, anchor, pos_weight, *statistics = ctx.saved_tensors
        with torch.no_grad():
            ones = logits.new_ones(logits.shape[1], dtype=torch.float32)
            made = lgl_inr_gradient(ones, logits, pos_weight, *statistics, ctx.beta, ctx.detach_weights)
        return once((made * tangent.to(torch.float32)).sum(0), anchor), None, None, None, None
