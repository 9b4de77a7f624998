"""Sums over samples by class in a stream: float64 whatever happens to the module, in folds for the jackknife."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics import Metric


class FoldedSums(Metric):
    """The base of :class:`MeanConfusion` and :class:`GradientLedger`.

    States are float64 sums; `.to(dtype)`, `.half()`, `set_dtype` and Lightning's precision plugins move them, but
    leave their dtype alone. Metrics whose `identity` differs never share a compute group of a `MetricCollection`.
    """

    full_state_update = False
    is_differentiable = False
    fold_sums: Tensor
    fold_counts: Tensor

    def __init__(self, rows: int, columns: int, folds: int, identity: tuple[int, ...], **options: Any) -> None:
        super().__init__(**options)
        self.folds = folds
        self.add_state("fold_sums", torch.zeros(folds, rows, columns, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("fold_counts", torch.zeros(folds, rows, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("identity", torch.tensor(identity), dist_reduce_fx="max")

    def _forward_reduce_state_update(self, *args: Any, **kwargs: Any) -> Any:
        """Return the value of the batch. Folds need the sums so far in sight: they say where a class goes on."""
        whole = self._forward_full_state_update
        return (whole if self.folds > 1 else super()._forward_reduce_state_update)(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Self:
        """Move states between devices; keep their dtypes."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        super()._apply(moved, exclude_state)
        return self

    @contextmanager
    def _gathered(self) -> Iterator[None]:
        """Return the states of all processes together, where `compute` does, unless they are already."""
        if self._is_synced:
            yield
        else:
            with self.sync_context(should_sync=self.sync_on_compute):
                yield

    def replicates(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what :meth:`compute` returns and the class counts, without the first fold, the second, and so on.

        Raises:
            ValueError: there is one fold only.
        """
        raise NotImplementedError

    def jackknife(self, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        r"""Return the standard error of a function of the sums and class counts, by the delete-a-group jackknife.

        .. math:: \mathrm{SE}^2 = \frac{F - 1}{F} \sum_f (\theta_{(f)} - \bar\theta)^2

        Args:
            statistic: of what :meth:`compute` gives and of the class counts, any shape; called once for each fold,
                with that fold left out.

        Returns:
            The error, in the statistic's shape. With F folds it has F - 1 degrees of freedom. It is not finite
            where a replicate is not, such as for a class of one sample.

        Source:
            Delete-a-group jackknife: Kott, Journal of Official Statistics 2001.

        Example:
            >>> from steelyard.balance import MeanConfusion
            >>> metric = MeanConfusion(2, link="softmax", folds=2)
            >>> logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
            >>> metric.update(logits, torch.tensor([0, 0, 1, 1]))
            >>> metric.jackknife(lambda P, counts: P[0, 0])
            tensor(0.1155, dtype=torch.float64)
        """
        values = torch.stack([statistic(sums, counts) for sums, counts in self.replicates()])
        return ((self.folds - 1) * values.var(0, correction=0)).sqrt()
