"""Linear heads fused with their loss: a chunk of columns at a time, its logits, losses and gradients in one pass.

Both one-vs-all losses are sums over output columns, so chunks of columns are exact, whatever is left out between
them: the N x K logits never exist, every column of the head is read once, and its gradient is written once.
"""

from typing import Any

import torch
from torch import Tensor

from steelyard.kernels import lgl_inr_triton
from steelyard.kernels.closed_form import DifferentiableOnce, saving_elsewhere, scaled
from steelyard.kernels.lgl_inr import Batch, assert_labels

# Elements of a chunk of logits, up to some eight of which live at a time. Each chunk takes some ten launches, so
# small ones keep a GPU waiting: there the columns of a chunk have bounds of their own.
_CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}
_CHUNK_ELEMENTS_ELSEWHERE = 1 << 22
_CHUNK_COLUMNS_CUDA = 4096, 65_536


def chunk_columns(rows: int, columns: int, device: str) -> int:
    """Columns of a chunk where the caller does not say."""
    width = _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS_ELSEWHERE) // max(1, rows)
    if device == "cuda":
        least, most = _CHUNK_COLUMNS_CUDA
        return min(columns, max(least, min(most, width // 128 * 128)))  # whole tiles of the products
    return min(columns, max(64, width))


def _half_products(input: Tensor, weight: Tensor) -> bool:
    """Whether the operands of the products stay in half precision, accumulated in float32 as everywhere: on a GPU.

    A CPU takes tens of times as long for them as in float32.
    """
    return (
        input.is_cuda
        and input.dtype == weight.dtype
        and input.dtype in (torch.bfloat16, torch.float16)
        and lgl_inr_triton._recent(input.device.index)
    )


class _Head:
    """The chunks of a head: their logits on the way in, and the gradients that their gradients make."""

    def __init__(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ignored: Tensor,
        width: int,
        needs: tuple[bool, ...],
    ) -> None:
        double = torch.float64 in (input.dtype, weight.dtype)
        self.dtype = torch.float64 if double else torch.float32
        operand = input.dtype if _half_products(input, weight) else self.dtype
        # The gradient of a logit may be too small for float16, but not for bfloat16.
        self.gradient_dtype = self.dtype if operand == torch.float16 else operand
        self.weight, self.bias = weight, None if bias is None else bias.to(self.dtype).contiguous()
        # An ignored row may hold anything, NaN too, which a gradient of 0 would not silence.
        self.x = input.to(operand).masked_fill(ignored[:, None], 0.0)
        self.x_of_gradient = self.x.to(self.gradient_dtype) if needs[1] else self.x
        self.width = width
        self.buffer = self.x.new_empty(len(input) * width, dtype=self.dtype)
        # Many chunks may join in it, each of float32; a GPU has fewer of them, and is slow at doubles.
        doubles = self.x.device.type == "cpu" and operand == self.dtype
        sum_dtype = torch.float64 if doubles else self.dtype
        self.grad_input = self.x.new_zeros(self.x.shape if needs[0] else (0,), dtype=sum_dtype)
        self.grad_weight = weight.new_empty(weight.shape) if needs[1] else weight.new_empty(0)
        self.grad_bias = bias.new_empty(bias.shape) if needs[2] and bias is not None else weight.new_empty(0)
        self.needs = needs

    def starts(self) -> range:
        return range(0, len(self.weight), self.width)

    def products(self, start: int) -> Tensor:
        """The logits without their bias, (N, B), valid until the next chunk's."""
        part = self.weight[start : start + self.width].to(self.x.dtype)
        out = self._chunk(start)
        if self.x.dtype == self.dtype:
            return torch.mm(self.x, part.t(), out=out)
        return torch.mm(self.x, part.t(), out_dtype=self.dtype, out=out)

    def logits(self, start: int) -> Tensor:
        """(N, B), valid until the next chunk's."""
        bias = self.bias_of(start)
        if bias is None:
            return self.products(start)
        if self.x.dtype != self.dtype:
            return self.products(start).add_(bias)
        part = self.weight[start : start + self.width].to(self.dtype)
        return torch.addmm(bias, self.x, part.t(), out=self._chunk(start))

    def bias_of(self, start: int) -> Tensor | None:
        return None if self.bias is None else self.bias[start : start + self.width]

    def backward(self, start: int, dz: Tensor) -> None:
        """Take in the gradient of a chunk's logits."""
        columns = slice(start, start + self.width)
        if self.needs[2]:
            self.grad_bias[columns] = dz.sum(0, dtype=self.dtype)
        dz = dz.to(self.gradient_dtype)
        if self.needs[0]:
            part = self.weight[columns].to(self.gradient_dtype)
            if self.grad_input.dtype != self.dtype:
                self.grad_input += torch.mm(dz, part)
            elif self.gradient_dtype == self.dtype:
                self.grad_input.addmm_(dz, part)
            else:
                torch.addmm(self.grad_input, dz, part, out_dtype=self.dtype, out=self.grad_input)
        if self.needs[1] and self.weight.dtype == self.gradient_dtype:
            torch.mm(dz.t(), self.x_of_gradient, out=self.grad_weight[columns])  # rounded once, at the end
        elif self.needs[1]:
            self.grad_weight[columns] = torch.mm(dz.t(), self.x_of_gradient)

    def grads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of input (in the dtype of the loss: it may be too small for half precision yet), weight and bias."""
        return self.grad_input.to(self.dtype), self.grad_weight, self.grad_bias

    def _chunk(self, start: int) -> Tensor:
        rows, columns = len(self.x), min(self.width, len(self.weight) - start)
        return self.buffer[: rows * columns].view(rows, columns)


def _set_own(dz: Tensor, column: Tensor, inside: Tensor, values: Tensor) -> None:
    """Write each row's value, (N, 1), at its own column, where the chunk has it."""
    dz.scatter_(1, column, torch.where(inside[:, None], values, dz.gather(1, column)))


@torch.library.custom_op("steelyard::lgl_inr_linear", mutates_args=())
def _lgl_inr(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    factor: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
    first: int,
    num_classes: int,
    width: int,
    needs_input: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of the columns, (K,), and the gradients of their sum weighted by `factor`, (K,)."""
    needs = needs_input, needs_weight, needs_bias
    with torch.autocast(input.device.type, enabled=False):
        head = _Head(input, weight, bias, target == ignore_index, width, needs)
        factor = factor.to(head.dtype)
        losses = head.buffer.new_empty(len(weight))
        batch: Batch | lgl_inr_triton.ColumnBatch
        if lgl_inr_triton.takes(head.buffer, beta):
            dtype = head.gradient_dtype
            batch = lgl_inr_triton.ColumnBatch(target, num_classes, ignore_index, pos_weight, beta, detach_weights)
        else:
            dtype = head.dtype
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
        buffer = torch.empty_like(head.buffer, dtype=dtype) if any(needs) else None
        for start in head.starts():
            columns = slice(start, min(start + width, len(weight)))
            shape = len(input), columns.stop - start
            dz = None if buffer is None else buffer[: shape[0] * shape[1]].view(shape)
            if isinstance(batch, Batch):
                losses[columns] = batch.columns(head.logits(start), first + start, dz)
                if dz is not None:
                    dz.mul_(factor[columns])
            else:
                z, bias_of_chunk = head.products(start), head.bias_of(start)
                batch.columns(z, first + start, bias_of_chunk, factor[columns], losses[columns], dz)
            if dz is not None:
                head.backward(start, dz)
        return losses, *head.grads()


@torch.library.custom_op("steelyard::logistic_linear", mutates_args=())
def _logistic(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    factor: Tensor,
    column_weight: Tensor | None,
    pos_weight: Tensor | None,
    ignore_index: int,
    first: int,
    num_classes: int,
    width: int,
    needs_input: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of the samples, (N,), and the gradients of their sum weighted by `factor`, (N,)."""
    needs = needs_input, needs_weight, needs_bias
    with torch.autocast(input.device.type, enabled=False):
        assert_labels(target, num_classes, ignore_index)
        ignored = target == ignore_index
        head = _Head(input, weight, bias, ignored, width, needs)
        label = target.masked_fill(ignored, 0) - first
        factor = factor.to(head.dtype).masked_fill(ignored, 0.0)[:, None]
        one = head.buffer.new_ones(len(weight))
        v = one if column_weight is None else column_weight.to(head.dtype)
        u = v if pos_weight is None else v * pos_weight.to(head.dtype)
        losses = head.x.new_zeros(len(input), dtype=torch.float64)  # many chunks may join
        buffer = torch.empty_like(head.buffer)
        for start in head.starts():
            z = head.logits(start)
            columns = slice(start, start + z.shape[1])
            column = (label - start).clamp(0, z.shape[1] - 1)[:, None]
            inside = (label >= start) & (label < start + z.shape[1])
            own, u_own = z.gather(1, column), u[columns][column]
            a = buffer[: z.numel()].view(z.shape)
            torch._C._nn.softplus(z, 1, 40, out=a)  # type: ignore[call-arg]
            _set_own(a, column, inside, torch.zeros_like(own))
            losses += a.mul_(v[columns]).sum(1)
            losses += (torch._C._nn.softplus(-own, 1, 40) * u_own).masked_fill_(~inside[:, None], 0.0)[:, 0]
            if not any(needs):
                continue
            dz = torch.sigmoid(z, out=a).mul_(v[columns]).mul_(factor)
            _set_own(dz, column, inside, -torch.sigmoid(-own) * u_own * factor)
            head.backward(start, dz)
        return losses.to(head.dtype).masked_fill_(ignored, 0.0), *head.grads()


_OPERATORS = {"lgl-inr": _lgl_inr, "logistic": _logistic}


def _fake(losses: int, input: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, ...]) -> Any:
    dtype = torch.float64 if torch.float64 in (input.dtype, weight.dtype) else torch.float32
    like = [input.to(dtype), weight, weight if bias is None else bias]
    grads = [x.new_empty(x.shape if need else (0,)) for x, need in zip(like, needs, strict=True)]
    return input.new_empty(losses, dtype=dtype), *grads


@_lgl_inr.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
    return _fake(weight.shape[0], input, weight, bias, rest[-3:])


@_logistic.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
    return _fake(input.shape[0], input, weight, bias, rest[-3:])


def fused_loss(
    name: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    factor: Tensor | None,
    *rest: Any,
) -> Tensor:
    """The loss of a linear head, differentiable once in input, weight and bias.

    Args:
        name: of the loss.
        input, weight, bias: (N, D), (K, D) and (K,) or None.
        target: (N,).
        factor: of each of the losses (of columns or samples) in their sum, which is returned; None for the losses.
        rest: the further arguments of the operator, but for the last three.
    """
    wanted = [x is not None and x.requires_grad and torch.is_grad_enabled() for x in (input, weight, bias)]
    result: Tensor = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, target, factor, name, wanted[0], wanted[1], wanted[2], *rest
    )
    return result


class _FusedLoss(torch.autograd.Function):
    """A weighted sum of losses, whose gradients are made with it; or the losses, with gradients made on demand.

    The gradients take as much memory as the head itself, so a backward pass that is the last through the graph
    scales them in place and gives them away. Those of a float16 head wait for the upstream gradient, before which
    they may be too small for that dtype. So do all where saved tensors go elsewhere, as under gradient
    checkpointing, which would have gradients made once for nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        factor: Tensor | None,
        name: str,
        *wanted_and_rest: Any,
    ) -> Tensor:
        wanted, rest = wanted_and_rest[:3], wanted_and_rest[3:]
        half = [
            need and x is not None and x.dtype == torch.float16
            for need, x in zip(wanted[1:], (weight, bias), strict=True)
        ]
        early = factor is not None and not any(half) and not saving_elsewhere()
        needs = wanted if early else (False, False, False)
        given = input.new_ones(len(weight if name == "lgl-inr" else input)) if factor is None else factor
        losses, *grads = _OPERATORS[name](input, weight, bias, target, given, *rest, *needs)
        ctx.name, ctx.rest, ctx.wanted = name, rest, wanted
        ctx.save_for_backward(input, weight, bias, target, factor, *(grads if early else []))
        result: Tensor = losses if factor is None else (losses * factor.to(losses.dtype)).sum()
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        input, weight, bias, target, factor, *grads = ctx.saved_tensors
        if grads:
            grads = [scaled(g, grad, ours=True) for g in grads]
        else:
            upstream = grad if factor is None else factor * grad
            _, *grads = _OPERATORS[ctx.name](input, weight, bias, target, upstream, *ctx.rest, *ctx.wanted)
        grads[0] = grads[0].to(input.dtype)
        if torch.is_grad_enabled():  # create_graph=True: a second derivative must raise, not be taken as 0
            grads = [DifferentiableOnce.apply(g, input, weight, bias) for g in grads]  # type: ignore[no-untyped-call]
        return *(g if need else None for g, need in zip(grads, ctx.wanted, strict=True)), *[None] * (
            6 + len(ctx.rest)
        )
