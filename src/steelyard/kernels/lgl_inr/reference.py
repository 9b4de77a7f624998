"""LGL-INR on logits as one torch operator: closed-form loss and gradient, column block by column block.

The loss is a sum over output columns, each a function of its own logits and the labels alone, so blocks of
columns are exact and small enough to stay in cache. Blocks of float32 on a CPU go to compiled code where there is
some. Argument checks live in `steelyard.losses`.
"""

import inspect
import weakref
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.checks import compute_dtype
from steelyard._common.private_torch import saves_elsewhere, softplus
from steelyard.kernels.autograd import map_slices, may_have_tangent, once, refuse_tangents, scaled
from steelyard.kernels.lgl_inr import native
from steelyard.kernels.lgl_inr.plan import FIXED_SHIFT_BETA, Segments, make_segments

# Elements of one (N, B) block. On the CPU a few of them fit the cache; an accelerator wants to be filled.
_BLOCK_ELEMENTS = {"cpu": 1 << 20}
_BLOCK_ELEMENTS_DEVICE = 1 << 24
_RUN = 32  # rows that are added up in float32 before their sum joins others in double


@torch.library.custom_op("steelyard::lgl_inr", mutates_args=())
def lgl_inr(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Losses (K,) of the columns of (N, K) logits and the gradient (N, K) of each, or an empty one."""
    with torch.autocast(logits.device.type, enabled=False):
        return _columns(logits, target, pos_weight, beta, detach_weights, ignore_index, with_grad)


def _runs(segments: Segments) -> tuple[Tensor, Tensor, Tensor] | None:
    """Runs of at most `_RUN` sorted rows: where each starts, (M + 1,), their numbers, (M,), and which of them make
    up each segment, (S + 1,). None where segments have few rows, or the device no doubles."""
    rows, size, device = len(segments.order), len(segments.counts), segments.order.device
    if rows <= _RUN * size or device.type == "mps":
        return None
    ends = ((segments.counts + _RUN - 1) // _RUN).cumsum(0)  # in runs
    every = torch.arange(rows // _RUN + size, device=device)  # at most so many
    owner = torch.searchsorted(ends, every, right=True).clamp(max=size - 1)
    first = F.pad(ends, (1, 0))
    starts = segments.offsets[owner] + (every - first[owner]) * _RUN
    return F.pad(starts.clamp(max=rows), (0, 1), value=rows), every, first


class Batch:
    """What the output columns of one batch share: its labels, as segments.

    Args:
        target: (N,) labels from 0 to `num_classes` - 1, or `ignore_index`.
        num_classes: of the labels; the columns that come in blocks may be any of theirs.
        pos_weight: (num_classes,) or None.
        width: columns of the widest block.
        dtype: to compute in.
    """

    def __init__(
        self,
        target: Tensor,
        num_classes: int,
        ignore_index: int,
        *,
        pos_weight: Tensor | None,
        beta: float,
        detach_weights: bool,
        width: int,
        dtype: torch.dtype,
    ) -> None:
        self.num_classes, self.beta, self.detach_weights = num_classes, beta, detach_weights
        self.pos_weight, self.width, self.dtype = pos_weight, width, dtype
        self.target, self.ignore_index = target, ignore_index

    def columns(self, z: Tensor, first: int, out: Tensor | None) -> Tensor:
        """Losses (B,) of a block of columns, whose logits z are (N, B), from class `first` on.

        Their gradient is written to `out`, (N, B), unless it is None.
        """
        if native.takes(z):
            return native.columns(
                z,
                first,
                *self._native_segments,
                num_classes=self.num_classes,
                pos_weight=self.pos_weight,
                beta=self.beta,
                detach_weights=self.detach_weights,
                out=out,
            )
        return self._parts.columns(z, first, out)

    @cached_property
    def _native_segments(self) -> tuple[Tensor, Tensor, Tensor]:
        return native.segments(self.target, self.num_classes, self.ignore_index)

    @cached_property
    def _parts(self) -> "_Parts":
        return _Parts(self)


class _Parts:
    """The same in torch's own operations, on any device and in float64 too."""

    def __init__(self, batch: Batch) -> None:
        self.batch: Batch = weakref.proxy(batch)  # which holds this
        self.segments = segments = make_segments(batch.target, batch.num_classes, batch.ignore_index)
        self.ignored = batch.target == batch.ignore_index  # (N,)
        self.label = batch.target.masked_fill(self.ignored, 0)
        # Ignored rows may hold anything, NaN too: where there may be some, they are masked out of every result.
        self.any_ignored = self.label.device.type != "cpu" or bool(self.ignored.any())
        present = (segments.counts > 0) & (segments.labels < batch.num_classes)  # (S,)
        self.absent = ~present[:, None]
        self.counts = segments.counts.clamp(min=1).to(batch.dtype)  # (S,)
        self.weight_of_segment = self.counts * present
        self.base = (-max(batch.beta, 0.0) - self.counts.log())[:, None]
        self.beta_mean = (batch.beta / self.counts)[:, None]
        self.segment_rows = torch.arange(len(self.counts), device=self.counts.device)
        self.runs = _runs(segments) if batch.dtype == torch.float32 else None
        pull = self.counts.reciprocal()  # what a segment's positives weigh in their column
        if batch.pos_weight is not None:
            pull = pull * F.pad(batch.pos_weight.to(pull), (0, 1))[segments.labels]
        self.pull = pull
        self.buffers = [self.counts.new_empty(len(self.label) * batch.width) for _ in range(3)]

    def sums(self, x: Tensor) -> Tensor:
        """(N, B) -> (S, B): sums over the rows of each class, 0 for the absent."""
        order, offsets = self.segments.order, self.segments.offsets
        if self.runs is None:
            bags = F.embedding_bag(order, x, offsets, mode="sum", include_last_offset=True)
        else:  # a plain sum of many float32 loses digits: runs of them join in double
            starts, every, of_segment = self.runs
            part = F.embedding_bag(order, x, starts, mode="sum", include_last_offset=True).double()
            bags = F.embedding_bag(every, part, of_segment, mode="sum", include_last_offset=True).to(x.dtype)
        return bags.masked_fill_(self.absent, 0.0) if self.any_ignored else bags

    def columns(self, z: Tensor, first: int, out: Tensor | None) -> Tensor:
        """As of the batch."""
        rows, width = z.shape
        beta, segments = self.batch.beta, self.segments
        # Where a row has its own column, (N, 1), and whether the block has it; where each class has its own.
        column = (self.label - first).clamp(0, width - 1)[:, None]
        inside = (self.label >= first) & (self.label < first + width)
        inside = (inside & ~self.ignored)[:, None]
        held = (segments.labels >= first) & (segments.labels < first + width)

        p, a, other = (b[: rows * width].view(rows, width) for b in self.buffers)
        torch.sigmoid(z, out=p)
        softplus(z, out=a)  # -log(1 - p)
        # A column's own class is none of its negatives: 0 there, so that an infinite logit meets no weight of 0.
        a.scatter_(1, column, a.gather(1, column).masked_fill_(inside, 0.0))
        A = self.sums(a)  # (S, B), n_k times the mean

        # v = exp(beta P - shift) / n_k: omega / n_k up to the column's constant. A column's own class weighs
        # nothing; segments of classes outside this block write their zero into a spare place at the end.
        flat = torch.empty(len(self.counts) * width + 1, device=z.device, dtype=z.dtype)
        v = torch.addcmul(self.base, self.sums(p), self.beta_mean, out=flat[:-1].view(-1, width))
        place = torch.where(held, self.segment_rows * width + segments.labels - first, len(flat) - 1)
        if abs(beta) > FIXED_SHIFT_BETA:
            flat.scatter_(0, place, -torch.inf)
            top = v.masked_fill(self.absent, -torch.inf).amax(0)
            v.sub_(top.masked_fill_(top == -torch.inf, 0.0)).clamp_(max=0.0)
        v.exp_()
        flat.scatter_(0, place, 0.0)
        total = self.weight_of_segment @ v
        v.mul_(torch.where(total == 0, 0.0, 1 / total))  # no negatives in the batch: 0, not NaN
        average = (v * A).sum(0)  # sum of omega A

        own = z.gather(1, column).masked_fill(~inside, torch.inf)
        pull = self.sums(softplus(-own))[:, 0] * self.pull
        loss = z.new_zeros(width + 1)  # the last swallows the classes outside
        loss = loss.scatter_(0, torch.where(held, segments.labels - first, width), pull)[:-1] + average
        if out is None:
            return loss

        # omega / n_k * p * (1 + c (1 - p)), c = beta (A - average) or 0
        of_row = segments.of_row
        if self.batch.detach_weights or beta == 0:
            torch.index_select(v, 0, of_row, out=a)
        else:
            a.neg_().exp_()  # 1 - p, without cancellation
            c = torch.addcmul(-beta * average, A, self.beta_mean, out=A)
            a.mul_(torch.index_select(c.mul_(v), 0, of_row, out=other))
            a.add_(torch.index_select(v, 0, of_row, out=other))
        torch.mul(p, a, out=out)
        if self.any_ignored:
            out.masked_fill_(self.ignored[:, None], 0.0)
        pulled = -torch.sigmoid(-own) * self.pull[of_row, None]
        out.scatter_(1, column, torch.where(inside, pulled, out.gather(1, column)))
        return loss


def _columns(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    rows, num_classes = logits.shape
    dtype = compute_dtype(logits)
    grad = logits.new_empty((rows, num_classes) if with_grad else (0, 0), dtype=dtype)
    if native.takes(logits):  # all columns at once: it has blocks of its own
        found = native.whole(
            logits,
            target,
            pos_weight=pos_weight,
            beta=beta,
            detach_weights=detach_weights,
            ignore_index=ignore_index,
            out=grad if with_grad else None,
        )
        if found is None:
            native.refuse_label(target, num_classes, ignore_index)
        return found, grad
    width = _block_columns(rows, num_classes, logits.device.type)
    batch = Batch(
        target,
        num_classes,
        ignore_index,
        pos_weight=pos_weight,
        beta=beta,
        detach_weights=detach_weights,
        width=width,
        dtype=dtype,
    )
    loss = logits.new_empty(num_classes, dtype=dtype)
    for start in range(0, num_classes, width):
        part = slice(start, start + width)
        loss[part] = batch.columns(logits[:, part].to(dtype), start, grad[:, part] if with_grad else None)
    return loss, grad


def _block_columns(rows: int, num_classes: int, device: str) -> int:
    """Columns of a block. Some seven blocks live at a time: beside a gradient that outgrows the cache they are
    kept to a quarter of the columns, so that all together stays within three buffers of N x K."""
    elements = _BLOCK_ELEMENTS.get(device, _BLOCK_ELEMENTS_DEVICE)
    if rows * num_classes <= elements or num_classes <= 96:
        return num_classes
    return max(64, min(elements // rows, -(-num_classes // 4)))


@lgl_inr.register_fake
def _(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(logits)
    grad = logits.new_empty(logits.shape if with_grad else (0, 0), dtype=dtype)
    return logits.new_empty(logits.shape[1], dtype=dtype), grad


map_slices(lgl_inr)


def reference_columns(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
) -> Tensor:
    """Per-column losses (K,) of (N, K) logits on any device, differentiable once in the logits."""
    forward = may_have_tangent(logits, pos_weight)
    with_grad = forward or (logits.requires_grad and torch.is_grad_enabled())
    # One element that hangs on the logits' graph, so that a second derivative finds the way to its error.
    anchor = logits[:1, :1].clone()
    function = _LGLINRForward if forward else _LGLINR
    loss: Tensor = function.apply(  # type: ignore[no-untyped-call]
        logits, anchor, target, pos_weight, beta, detach_weights, ignore_index, with_grad
    )[0]
    return loss


class _LGLINR(torch.autograd.Function):
    """The operator with its gradient, which is made with the loss, in one pass over the logits."""

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
        with_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = lgl_inr(
            logits, target, pos_weight, beta, detach_weights, ignore_index, with_grad
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, anchor, *_ = inputs
        ctx.logits_dtype, ctx.ours = logits.dtype, not saves_elsewhere()
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # its gradient would be as many zeros
        ctx.save_for_backward(anchor, output[1])

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> Any:
        if grad_loss is None:
            return (None,) * 8
        anchor, made = ctx.saved_tensors
        grad = scaled(made, grad_loss, ctx.ours).to(ctx.logits_dtype)
        if torch.is_grad_enabled() or may_have_tangent(anchor):
            grad = once(grad, anchor)  # create_graph=True: a second derivative must raise, not be taken as 0
        return grad, None, None, None, None, None, None, None


class _LGLINRForward(_LGLINR):
    """The same with a tangent. A compiler takes no function that has one."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _LGLINR.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[1], output[1])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, _: Any, *others: Any) -> tuple[Tensor | None, None]:
        refuse_tangents(others)
        if tangent is None:
            return None, None
        anchor, made = ctx.saved_tensors
        return once((made * tangent).sum(0), anchor), None


# torch asks for it at every call; made there, it takes an eighth of a small loss's time.
_LGLINR.forward.__signature__ = inspect.signature(_LGLINR.forward)  # type: ignore[attr-defined]
