"""Heads that own their weights and their loss: modules over the functions of `steelyard.losses.linear`."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steelyard._common.checks import check_integer
from steelyard._common.spread import refuse_spread, whole
from steelyard.kernels.lgl_inr.group import check_group
from steelyard.losses.base import Loss
from steelyard.losses.checked_head import check_num_sampled, held_range, linear
from steelyard.losses.lgl_inr import LGLINRLoss
from steelyard.losses.linear import lgl_inr_linear, linear_topk, logistic_linear
from steelyard.losses.logistic import LogisticLoss

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class _LossLinear(nn.Module):
    """A linear layer from features to logits that computes its loss in chunks of columns."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool,
        device: Any,
        dtype: torch.dtype | None,
        num_sampled: int | None,
        chunk_size: int | None,
        column_group: "ProcessGroup | None",
    ) -> None:
        super().__init__()
        in_features = check_integer("in_features", in_features, low=1)
        num_classes = check_integer("num_classes", num_classes, low=1)
        if num_sampled is not None:
            num_sampled = check_num_sampled(num_sampled, num_classes)
        if chunk_size is not None:
            chunk_size = check_integer("chunk_size", chunk_size, low=1)
        self.in_features, self.num_classes = in_features, num_classes
        self.num_sampled, self.chunk_size, self.column_group = num_sampled, chunk_size, column_group
        held = num_classes
        if column_group is not None:
            check_group(column_group, "column_group")
            first, last = held_range(num_classes, column_group)
            held = last - first
        self.weight = nn.Parameter(torch.empty(held, in_features, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(held, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as :class:`torch.nn.Linear` does, set biases to zero; parts of a split head differ."""
        generator = None
        if self.column_group is not None and self.weight.device.type != "meta":
            seed = int(torch.randint(2**62, ())) + torch.distributed.get_rank(self.column_group)
            generator = torch.Generator(self.weight.device).manual_seed(seed)
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def logits(self, input: Tensor) -> Tensor:
        """Return the logits, (..., K), or this process's columns of them.

        Raises:
            TypeError: a head that FSDP has sharded, outside its forward pass and with gradients: they would not be
                averaged.
        """
        if torch.is_grad_enabled():
            refuse_spread("weight of a head that gives logits with a gradient", self.weight)
        return linear(input, whole(self.weight), whole(self.bias))

    def predict(self, input: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return the k largest logits of each sample and their classes, (..., k) each; see :func:`linear_topk`.

        Weights that FSDP has sharded are gathered first, so that all of its processes must call.
        """
        return linear_topk(
            input,
            whole(self.weight.detach()),
            k,
            linear_bias=None if self.bias is None else whole(self.bias.detach()),
            column_group=self.column_group,
            num_classes=self.num_classes,
            chunk_size=self.chunk_size,
        )

    def _options(self, loss: Loss, input: Tensor, beside: tuple[str, ...]) -> dict[str, Any]:
        """Return the arguments of the function: those of the loss, without the ones that a head does not have."""
        return {key: value for key, value in loss.placed(input).items() if key not in beside} | {
            "linear_bias": self.bias,
            "num_sampled": self.num_sampled if self.training else None,
            "column_group": self.column_group,
            "num_classes": self.num_classes,
            "chunk_size": self.chunk_size,
        }

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}, bias={self.bias is not None}"


class LGLINRLinear(_LossLinear):
    """A linear head with its LGL-INR: ``head(input, target)`` is the loss, ``head.predict(input, k)`` the classes.

    The module of :func:`~steelyard.losses.lgl_inr_linear`, which says what it costs. It owns ``weight`` (K, D) and
    ``bias`` (K,) as :class:`torch.nn.Linear` does, so checkpoints and optimisers see an ordinary layer; the bias
    starts at zero.

    Args:
        in_features: D.
        num_classes: K.
        bias: whether there is one.
        device, dtype: of weight and bias.
        num_sampled, chunk_size, column_group: as in the function; columns are sampled in training mode only.
        **options: of :class:`~steelyard.LGLINRLoss`: beta, detach_weights, output_weights, pos_weight,
            logit_adjustment, ignore_index, reduction, validate. Running statistics and a ``process_group`` are not
            for it.

    Shapes, dtypes and errors are those of the function.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> head = LGLINRLinear(16, 1000)
        >>> loss = head(torch.randn(8, 16), torch.arange(8))
        >>> loss.backward()
        >>> values, classes = head.predict(torch.randn(8, 16), k=5)
        >>> classes.shape
        torch.Size([8, 5])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
        num_sampled: int | None = None,
        chunk_size: int | None = None,
        column_group: "ProcessGroup | None" = None,
        **options: Any,
    ) -> None:
        super().__init__(in_features, num_classes, bias, device, dtype, num_sampled, chunk_size, column_group)
        if options.get("statistics", "batch") != "batch" or options.get("process_group") is not None:
            raise ValueError(
                "statistics must be 'batch' and process_group None in a head that never has its logits"
            )
        if options.get("class_dim", 1) != 1:
            raise ValueError(f"class_dim must be 1 in a head, got {options['class_dim']}")
        self.loss = LGLINRLoss(**options)
        self.loss.to(device)

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, or without a target the logits, as the linear layer that a head takes the place of."""
        if target is None:
            return self.logits(input)
        beside = ("process_group", "statistics", "momentum", "mean_confusion", "class_dim")
        return lgl_inr_linear(input, self.weight, target, **self._options(self.loss, input, beside))


class LogisticLinear(_LossLinear):
    """A linear head with its one-vs-all logistic loss, as :class:`LGLINRLinear` has LGL-INR.

    Args:
        in_features, num_classes, bias, device, dtype, num_sampled, chunk_size, column_group: as of
            :class:`LGLINRLinear`, with K >= 2.
        **options: of :class:`~steelyard.LogisticLoss`: output_weights, pos_weight, class_weights,
            logit_adjustment, ignore_index, reduction, normalization, validate.

    Shapes, dtypes and errors are those of :func:`~steelyard.losses.logistic_linear`.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> head = LogisticLinear(16, 1000, reduction="none")
        >>> head(torch.randn(8, 16), torch.arange(8)).shape
        torch.Size([8])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
        num_sampled: int | None = None,
        chunk_size: int | None = None,
        column_group: "ProcessGroup | None" = None,
        **options: Any,
    ) -> None:
        super().__init__(in_features, num_classes, bias, device, dtype, num_sampled, chunk_size, column_group)
        for name, plain in (("label_smoothing", 0.0), ("class_dim", 1)):
            if options.get(name, plain) != plain:
                raise ValueError(
                    f"{name} must be {plain} in a head that never has its logits, got {options[name]}"
                )
        self.loss = LogisticLoss(**options)
        self.loss.to(device)

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, or without a target the logits, as the linear layer that a head takes the place of."""
        if target is None:
            return self.logits(input)
        return logistic_linear(
            input, self.weight, target, **self._options(self.loss, input, ("label_smoothing", "class_dim"))
        )
