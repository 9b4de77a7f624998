"""A head whose logits are scaled cosines: features and class vectors count by their direction alone."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steelyard._common.checks import check_flag, check_integer, check_number, dtype_name
from steelyard._common.spread import refuse_spread


class CosineHead(nn.Module):
    r"""A layer from features to logits that are scaled cosines: ``head(features)`` is (..., K), for any loss.

    .. math:: z_k = s \cos(x, w_k) = s\, \frac{x \cdot w_k}{\lVert x \rVert\, \lVert w_k \rVert}

    Logits lie between :math:`-s` and :math:`s`, whatever the length of features and class vectors, so no class
    gains by a longer vector. The head has no bias. A small scale bounds what a model can say: over softmax no
    probability is above :math:`1 / (1 + (K - 1) e^{-2s})`.

    The cosine of a vector of zeros is 0 here, and its gradient is 0. Logits are computed in float32, or in float64
    where the features or the class vectors have it, under autocast too, and are returned in that dtype. Vectors of
    every other finite length keep their direction: no square overflows or becomes 0.

    Args:
        in_features: D.
        num_classes: K.
        scale: :math:`s > 0`. Default: 30, as in LDAM. The loss ``ldam`` multiplies by 30 itself, and its margins
            are in units of cosines: give its head 1.
        learn_scale: whether the scale is a parameter, which starts at ``scale``. Else it is a number, and no part
            of the state dict.
        device, dtype: of the parameters.

    Attributes:
        weight: (K, D) class vectors; directions drawn evenly, of length 1.
        scale: :math:`s`, a number or a parameter without dimensions.

    Raises:
        TypeError: features that are no floating-point tensor, or DTensors.
        ValueError: a scale that is not positive, or features of another shape than (..., D) or on another device
            than the head.

    Source:
        Wang, Xiang, Cheng, Yuille, ACM Multimedia 2017 (normalised features and weights, with a scale); Cao, Wei,
        Gaidon, Arechiga, Ma, NeurIPS 2019 (as the head of LDAM).

    Example:
        >>> head = CosineHead(16, 10)
        >>> logits = head(torch.randn(8, 16))
        >>> logits.shape, bool((logits.abs() <= 30).all())
        (torch.Size([8, 10]), True)
        >>> torch.allclose(head(torch.ones(16)), head(100 * torch.ones(16)))
        True
    """

    weight: nn.Parameter
    scale: float | nn.Parameter

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        scale: float = 30.0,
        learn_scale: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_integer("in_features", in_features, low=1)
        self.num_classes = check_integer("num_classes", num_classes, low=1)
        self.first_scale = check_number("scale", scale)
        if self.first_scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.weight = nn.Parameter(torch.empty(num_classes, in_features, device=device, dtype=dtype))
        self.scale = self.first_scale
        if check_flag("learn_scale", learn_scale):
            del self.scale
            self.scale = nn.Parameter(torch.empty((), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw class vectors of length 1 with even directions, and set a learned scale to its first value."""
        with torch.no_grad():
            self.weight.copy_(unit(self.weight.normal_().float()))
            if isinstance(self.scale, nn.Parameter):
                self.scale.fill_(self.first_scale)

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits, (..., K), of features (..., D)."""
        if not isinstance(input, Tensor):
            raise TypeError(f"input must be a tensor, got {type(input).__name__}")
        refuse_spread("input", input)
        refuse_spread("weight", self.weight)
        if not input.is_floating_point():
            raise TypeError(f"input must be floating point, got {dtype_name(input.dtype)}")
        if input.dim() == 0 or input.shape[-1] != self.in_features:
            raise ValueError(f"input must have shape (..., {self.in_features}), got {tuple(input.shape)}")
        if input.device != self.weight.device:
            raise ValueError(f"input must be on the device of the head, {self.weight.device}, got {input.device}")
        dtype = torch.float64 if torch.float64 in (input.dtype, self.weight.dtype) else torch.float32
        kind = input.device.type
        with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            cosines = F.linear(unit(input.to(dtype)), unit(self.weight.to(dtype)))
            return cosines * (self.scale.to(dtype) if isinstance(self.scale, Tensor) else self.scale)

    def extra_repr(self) -> str:
        learned = isinstance(self.scale, nn.Parameter)
        scale = f"scale={self.first_scale:g}, learn_scale=True" if learned else f"scale={self.scale:g}"
        return f"in_features={self.in_features}, num_classes={self.num_classes}, {scale}"


def unit(rows: Tensor) -> Tensor:
    """Return rows (..., D) at length 1; a row of zeros stays one, without a gradient."""
    longest = rows.detach().abs().amax(-1, keepdim=True)  # a constant: the direction does not depend on it
    zero = longest == 0
    rows = rows.masked_fill(zero, 1.0) / longest.masked_fill(zero, 1.0)
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return (rows / length).masked_fill(zero, 0.0)
