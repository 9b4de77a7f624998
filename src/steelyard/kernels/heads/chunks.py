"""The chunks of columns of a linear head: their logits on the way in, and the gradients that those make.

Both one-vs-all losses are sums over output columns, so chunks of columns are exact, whatever is left out between
them: the N x K logits never exist, every column of the head is read once, and its gradient is written once.
"""

from typing import Any

import torch
from torch import Tensor

from steelyard.kernels.lgl_inr import triton

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
        and triton.is_recent(input.device.index)
    )


class HeadChunks:
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
        self.width = width = width or chunk_columns(len(input), len(weight), input.device.type)
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


def fake_losses(losses: int, input: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, ...]) -> Any:
    """Losses and gradients of a head's operator, without values: what a compiler traces."""
    dtype = torch.float64 if torch.float64 in (input.dtype, weight.dtype) else torch.float32
    like = [input.to(dtype), weight, weight if bias is None else bias]
    grads = [x.new_empty(x.shape if need else (0,)) for x, need in zip(like, needs, strict=True)]
    return input.new_empty(losses, dtype=dtype), *grads
