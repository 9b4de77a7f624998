"""Class weights that start late."""

from collections.abc import Mapping

import torch
from torch import Tensor

from steelyard._common.checks import Vector, check_integer, check_vector


class DeferredReweighting:
    """Class weights that start at a later epoch: first learn features, then rebalance.

    Args:
        class_weights: (K,) tensor or sequence, not negative.
        start_epoch: first epoch, counted from 0, with the weights.

    Attributes:
        class_weights: (K,) ones before ``start_epoch``, the weights from then on; hand it to the loss at each
            epoch.

    Raises:
        TypeError, ValueError: weights or an epoch that are none.

    Source:
        Cao et al., NeurIPS 2019 (deferred re-weighting).

    Example:
        >>> schedule = DeferredReweighting([0.5, 1.5], start_epoch=160)
        >>> schedule.class_weights
        tensor([1., 1.])
        >>> schedule.set_epoch(160)
        >>> schedule.class_weights
        tensor([0.5000, 1.5000])
    """

    def __init__(self, class_weights: Vector, *, start_epoch: int) -> None:
        self._weights = check_vector("class_weights", class_weights, low=0, dtype=None)
        self.start_epoch = check_integer("start_epoch", start_epoch, low=0)
        self.epoch = 0

    @property
    def class_weights(self) -> Tensor:
        return self._weights.clone() if self.epoch >= self.start_epoch else torch.ones_like(self._weights)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; going back is refused (restore a state with `load_state_dict`)."""
        epoch = check_integer("epoch", epoch, low=0)
        if epoch < self.epoch:
            raise ValueError(f"epoch must not go back, got {epoch} after {self.epoch}")
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        if "epoch" not in state:
            raise ValueError(f"state must have the key 'epoch', got {sorted(state)}")
        self.epoch = check_integer("epoch", state["epoch"], low=0)
