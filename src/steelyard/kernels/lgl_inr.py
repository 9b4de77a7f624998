"""LGL-INR on logits as one torch operator: closed-form loss and gradient, column block by column block.

The loss is a sum over output columns, each a function of its own logits and the labels alone, so blocks of
columns are exact and small enough to stay in cache. Argument checks live in `steelyard.losses`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard._validation import compute_dtype

# Elements of one (N, B) block. On the CPU a few of them fit the cache; an accelerator wants to be filled.
_BLOCK_ELEMENTS = {"cpu": 1 << 20}
_BLOCK_ELEMENTS_DEVICE = 1 << 24
# P lies in [0, 1], so exp(beta P - max(beta, 0)) needs no maximum over classes while |beta| is small enough for
# its least value, times a small probability, to stay a normal float32.
_FIXED_SHIFT_BETA = 30.0


@torch.library.custom_op("steelyard::lgl_inr", mutates_args=())
def lgl_inr(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of the columns of (N, K) logits and, on request, the parts of their gradient.

    Returns the column losses (K,), and the gradient of column j as `negative[:, j] * scale[j]` everywhere but
    at each row's own class, where it is `positive`: negative (N, K) or empty, scale (K,), positive (N, 1).
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _columns(logits, target, pos_weight, beta, detach_weights, ignore_index, with_grad)


class _Segments(NamedTuple):
    """The batch sorted by label: S segments, one a class (the ignored rows form one of label K)."""

    order: Tensor  # (N,) rows sorted by label
    offsets: Tensor  # (S + 1,) where each segment starts in `order`
    labels: Tensor  # (S,) the segment's label; K where the segment is empty or ignored
    counts: Tensor  # (S,) rows in the segment
    of_row: Tensor  # (N,) each row's segment


def _segments(target: Tensor, num_classes: int, ignore_index: int) -> _Segments:
    """Sort the labels into segments whose number is known from N and K alone: no host synchronisation."""
    rows = target.shape[0]
    key = torch.where(target == ignore_index, num_classes, target)
    ordered, order = torch.sort(key, stable=True)
    if num_classes <= rows:
        size = num_classes + 1
        labels, of_row = torch.arange(size, device=target.device), key
    else:  # at most N classes are present: number them in order of their label
        size = rows
        new = torch.cat([ordered.new_zeros(1), (ordered[1:] != ordered[:-1]).long()])
        of_row = torch.empty_like(order).scatter_(0, order, new.cumsum(0))
        labels = torch.full_like(order, num_classes).scatter_(0, new.cumsum(0), ordered)
        ordered = new.cumsum(0)
    offsets = torch.searchsorted(ordered, torch.arange(size + 1, device=target.device))
    return _Segments(order, offsets, labels, offsets.diff(), of_row)


class Batch:
    """What the output columns of one batch share: its labels as segments, and room for a block of columns.

    Args:
        target: (N,) labels from 0 to `num_classes` - 1, or `ignore_index`.
        num_classes: of the labels; the columns that come in blocks may be any of theirs.
        width: columns of the widest block.
        dtype: to compute in.
    """

    def __init__(
        self,
        target: Tensor,
        num_classes: int,
        ignore_index: int,
        *,
        beta: float,
        detach_weights: bool,
        width: int,
        dtype: torch.dtype,
    ) -> None:
        self.num_classes, self.beta, self.detach_weights = num_classes, beta, detach_weights
        self.segments = _segments(target, num_classes, ignore_index)
        self.ignored = target == ignore_index  # (N,)
        self.label = target.masked_fill(self.ignored, 0)
        # Ignored rows may hold anything, NaN too: where there may be some, they are masked out of every result.
        self.any_ignored = target.device.type != "cpu" or bool(self.ignored.any())
        present = (self.segments.counts > 0) & (self.segments.labels < num_classes)  # (S,)
        self.absent = ~present[:, None]
        self.counts = self.segments.counts.clamp(min=1).to(dtype)  # (S,)
        self.weight_of_segment = self.counts * present
        self.base = (-max(beta, 0.0) - self.counts.log())[:, None]
        self.beta_mean = (beta / self.counts)[:, None]
        self.segment_rows = torch.arange(len(self.counts), device=target.device)
        self.buffers = [self.counts.new_empty(len(target) * width) for _ in range(3)]

    def sums(self, x: Tensor) -> Tensor:
        """(N, B) -> (S, B): sums over the rows of each class, 0 for the absent."""
        order, offsets = self.segments.order, self.segments.offsets
        bags = F.embedding_bag(order, x, offsets, mode="sum", include_last_offset=True)
        return bags.masked_fill_(self.absent, 0.0) if self.any_ignored else bags

    def own(self, first: int, width: int) -> tuple[Tensor, Tensor]:
        """Where in the block from class `first` on a row has its own column, (N, 1), and whether it has, (N,)."""
        column = (self.label - first).clamp(0, width - 1)[:, None]
        return column, (self.label >= first) & (self.label < first + width)

    def negatives(
        self, z: Tensor, first: int, with_grad: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """The negative terms of a block of columns, whose logits z are (N, B), from class `first` on.

        Returns sum of omega A, (B,), and the parts of its gradient: scale (B,), and two factors (N, B) whose
        product, times the scale, it is everywhere but at each row's own column. The factors live in the buffers.
        """
        rows, width = z.shape
        p, a, other = (b[: rows * width].view(rows, width) for b in self.buffers)
        torch.sigmoid(z, out=p)
        torch._C._nn.softplus(z, 1, 40, out=a)  # type: ignore[call-arg]  # -log(1 - p); 40: exact in float64 too
        # A column's own class is none of its negatives: 0 there, so that an infinite logit meets no weight of 0.
        column, inside = self.own(first, width)
        a.scatter_(1, column, a.gather(1, column).masked_fill_(inside[:, None], 0.0))
        A = self.sums(a)  # (S, B), n_k times the mean

        # v = exp(beta P - shift) / n_k: omega / n_k up to the column's constant. A column's own class weighs
        # nothing; segments of classes outside this block write their zero into a spare place at the end.
        flat = torch.empty(len(self.counts) * width + 1, device=z.device, dtype=z.dtype)
        v = torch.addcmul(self.base, self.sums(p), self.beta_mean, out=flat[:-1].view(-1, width))
        labels = self.segments.labels
        held = (labels >= first) & (labels < first + width)
        place = torch.where(held, self.segment_rows * width + labels - first, len(flat) - 1)
        if abs(self.beta) > _FIXED_SHIFT_BETA:
            flat.scatter_(0, place, -torch.inf)
            top = v.masked_fill(self.absent, -torch.inf).amax(0)
            v.sub_(top.masked_fill_(top == -torch.inf, 0.0)).clamp_(max=0.0)
        v.exp_()
        flat.scatter_(0, place, 0.0)
        total = self.weight_of_segment @ v
        inverse = torch.where(total == 0, 0.0, 1 / total)  # no negatives in the batch: 0, not NaN
        average = (v * A).sum(0).mul_(inverse)  # sum of omega A
        if not with_grad:
            return average, inverse, None

        # omega / n_k * p * (1 + c (1 - p)), c = beta (A - average) or 0
        of_row = self.segments.of_row
        if self.detach_weights or self.beta == 0:
            torch.index_select(v, 0, of_row, out=a)
        else:
            a.neg_().exp_()  # 1 - p, without cancellation
            c = torch.addcmul(-self.beta * average, A, self.beta_mean, out=A)
            a.mul_(torch.index_select(c.mul_(v), 0, of_row, out=other))
            a.add_(torch.index_select(v, 0, of_row, out=other))
        return average, inverse, (p, a)

    def pull(self, own: Tensor, pos_weight: Tensor | None) -> Tensor:
        """The positive terms of the segments' classes, (S,), from each row's own logit, (N, 1)."""
        z = own.masked_fill(self.ignored[:, None], torch.inf)
        mean = self.sums(torch._C._nn.softplus(-z, 1, 40))[:, 0] / self.counts
        return mean if pos_weight is None else mean * F.pad(pos_weight.to(mean), (0, 1))[self.segments.labels]

    def pull_grad(self, own: Tensor, pos_weight: Tensor | None) -> Tensor:
        """Their gradient in the own logits, (N, 1)."""
        z = own.masked_fill(self.ignored[:, None], torch.inf)
        grad = -torch.sigmoid(-z) / self.counts[self.segments.of_row, None]
        return grad if pos_weight is None else grad * pos_weight.to(grad)[self.label][:, None]

    def spread(self, values: Tensor) -> Tensor:
        """Values of the segments, (S,), to their classes, (num_classes,)."""
        out = values.new_zeros(self.num_classes + 1)  # the last swallows the absent
        return out.scatter_(0, self.segments.labels, values)[:-1]


def _columns(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, num_classes = logits.shape
    dtype = compute_dtype(logits)
    width = _block_columns(rows, num_classes, logits.device.type)
    batch = Batch(
        target, num_classes, ignore_index, beta=beta, detach_weights=detach_weights, width=width, dtype=dtype
    )
    if not with_grad:
        negative = logits.new_empty((0, 0), dtype=dtype)
    elif width == num_classes:  # the gradient takes the place of the probabilities
        negative = batch.buffers[0].view(rows, num_classes)
    else:
        negative = logits.new_empty((rows, num_classes), dtype=dtype)
    loss = logits.new_empty(num_classes, dtype=dtype)
    scale = torch.empty_like(loss)
    for start in range(0, num_classes, width):
        part = slice(start, start + width)
        loss[part], scale[part], factors = batch.negatives(logits[:, part].to(dtype), start, with_grad)
        if factors is not None:
            torch.mul(*factors, out=negative[:, part])
    if with_grad and batch.any_ignored:
        negative.masked_fill_(batch.ignored[:, None], 0.0)
    own = logits.gather(1, batch.label[:, None]).to(dtype)
    loss += batch.spread(batch.pull(own, pos_weight))
    return loss, negative, scale, batch.pull_grad(own, pos_weight)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, num_classes = logits.shape
    shapes = (num_classes,), (rows, num_classes) if with_grad else (0, 0), (num_classes,), (rows, 1)
    loss, negative, scale, positive = (logits.new_empty(s, dtype=compute_dtype(logits)) for s in shapes)
    return loss, negative, scale, positive


@lgl_inr.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    results = [
        lgl_inr(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    return tuple(torch.stack(r) for r in zip(*results, strict=True)), (0, 0, 0, 0)


def lgl_inr_columns(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
) -> Tensor:
    """Per-column losses (K,) of (N, K) logits, differentiable once in the logits."""
    from steelyard.kernels import lgl_inr_triton  # here, as it builds on this module

    if lgl_inr_triton.takes(logits, beta):
        return lgl_inr_triton.lgl_inr_triton_columns(
            logits, target, pos_weight, beta, detach_weights, ignore_index
        )
    with_grad = logits.requires_grad and torch.is_grad_enabled()
    # One element that hangs on the logits' graph, so that a second derivative finds the way to its error.
    anchor = logits[:1, :1].clone()
    loss: Tensor = _LGLINR.apply(  # type: ignore[no-untyped-call]
        logits, anchor, target, pos_weight, beta, detach_weights, ignore_index, with_grad
    )[0]
    return loss


class _LGLINR(torch.autograd.Function):
    """The operator with its gradient, whose parts are made with the loss, in one pass over the logits."""

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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        result: tuple[Tensor, Tensor, Tensor, Tensor] = lgl_inr(
            logits, target, pos_weight, beta, detach_weights, ignore_index, with_grad
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, anchor, target, *_, ignore_index, _ = inputs
        ctx.logits_dtype, ctx.ignore_index = logits.dtype, ignore_index
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(anchor, target, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor | None) -> Any:
        anchor, target, negative, scale, positive = ctx.saved_tensors
        label = target.masked_fill(target == ctx.ignore_index, 0)
        grad = negative * (scale * grad_loss)
        grad[torch.arange(len(label), device=grad.device), label] = positive[:, 0] * grad_loss[label]
        grad = grad.to(ctx.logits_dtype)
        if torch.is_grad_enabled():  # create_graph=True: a second derivative must raise, not be taken as 0
            grad = DifferentiableOnce.apply(grad, anchor)  # type: ignore[no-untyped-call]
        return grad, None, None, None, None, None, None, None


class DifferentiableOnce(torch.autograd.Function):
    """The identity in its first argument, whose backward raises; the others tie it to the inputs' graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *anchors: Tensor | None) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("the loss cannot be differentiated twice: its backward is a closed form")
