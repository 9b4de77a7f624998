"""Lightning: a callback that watches class weights while a model trains, and logs what they do."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise ImportError(
        f"steelyard.integrations.lightning needs lightning ({error}): pip install 'steelyard[lightning]'"
    ) from None

from steelyard.auditing.stated import SetupOrLoss, as_setup
from steelyard.auditing.watch import BalanceWatch, EpochReading

_Batch = tuple[Tensor, Tensor, Tensor | None]


class BalanceCallback(pl.Callback):  # type: ignore[misc]
    """Log what each epoch's own batches say of the class weights.

    See :class:`~steelyard.BalanceWatch` for the formula and for what it can tell. After each training epoch these
    go to all loggers, and to ``trainer.callback_metrics``:

    - ``balance/power``, ``balance/power_low``, ``balance/power_high``: the power to which the weights acted, and
      its 95% interval; 1 is as stated.
    - ``balance/misfit``: by how much pull and push differ, as a share of both.
    - ``balance/drawn_power``: the same power in how often classes were drawn, where the setup has
      ``class_counts``.
    - ``balance/implied_weight/<class>``: the weight that the batches show, for each class.

    What an epoch cannot tell is not logged. When a finding is a fault, a :class:`~steelyard.BalanceWarning` says
    so in words, once, from the first process. All processes of a group are added up.

    Args:
        setup: what was done in training, or its loss, as :class:`~steelyard.BalanceWatch` takes it. Where the loss
            is a module, give the one that ``training_step`` calls: its logits and targets are read in that call.
            For any other loss ``training_step`` returns ``{"loss": ..., "logits": ..., "target": ...}``.
        implied_weights: log the weight of each class, which is one curve a class.

    Attributes:
        readings: an :class:`~steelyard.auditing.watch.EpochReading` for each epoch of this process's last fit.

    Raises:
        TypeError, ValueError: as :class:`~steelyard.BalanceWatch` does. In training: neither a call of the loss
            nor logits and target in what ``training_step`` returned, or several calls in a step.

    Source:
        As :class:`~steelyard.BalanceWatch`.

    Example:
        >>> from steelyard import SoftmaxLoss
        >>> from steelyard.integrations.lightning import BalanceCallback
        >>> callback = BalanceCallback(SoftmaxLoss(class_weights=[1.0, 4.0]))
        >>> callback.readings           # pl.Trainer(callbacks=[callback]).fit(...) fills them
        []
    """

    def __init__(self, setup: SetupOrLoss, *, implied_weights: bool = True) -> None:
        if not isinstance(implied_weights, bool):
            raise TypeError(f"implied_weights must be True or False, got {implied_weights!r}")
        self._stated = as_setup(setup)
        self._watch = BalanceWatch(self._stated)
        self._implied_weights = implied_weights
        self._calls: list[_Batch] = []
        self._hook: RemovableHandle | None = None
        self.readings: list[EpochReading] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._watch, self.readings = BalanceWatch(self._stated), []
        loss = self._stated.loss
        if isinstance(loss, nn.Module):

            def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                if trainer.training:  # not while validating
                    self._calls.append(_batch_of(args, kwargs))

            self._hook = loss.register_forward_hook(read, with_kwargs=True)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._calls.clear()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._calls and isinstance(outputs, Mapping) and {"logits", "target"} <= outputs.keys():
            self._calls.append((outputs["logits"], outputs["target"], outputs.get("sample_weight")))
        if len(self._calls) != 1:
            raise ValueError(
                f"training_step must call the loss of BalanceCallback once, got {len(self._calls)} calls: "
                "give it the module that is called, or return a mapping with 'loss', 'logits' and 'target'"
            )
        self._watch.update(*self._calls.pop())

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        reading = self._watch.epoch_end()
        self.readings.append(reading)
        # the same in all processes; a mean over them is how Lightning is told so
        pl_module.log_dict(self._numbers(reading), sync_dist=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        self._calls.clear()
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _numbers(self, reading: EpochReading) -> dict[str, float]:
        low, high = reading.interval or (math.nan, math.nan)
        found: dict[str, float | None] = {
            "balance/power": reading.power,
            "balance/power_low": low,
            "balance/power_high": high,
            "balance/misfit": reading.misfit,
            "balance/drawn_power": reading.drawn_power,
        }
        if self._implied_weights and reading.implied_weights is not None:
            names = self._stated.class_names or [str(k) for k in range(len(reading.implied_weights))]
            weights = reading.implied_weights.tolist()
            found |= {f"balance/implied_weight/{name}": w for name, w in zip(names, weights, strict=True)}
        return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def _batch_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Batch:
    """Return logits, target and sample weights of a call of a loss, ours or torch's."""
    names = [("logits", "input"), ("target",)]
    given = [*args[:2]]
    for keys in names[len(given) :]:
        given += [kwargs[key] for key in keys if key in kwargs][:1]
    if len(given) != 2 or not all(isinstance(one, Tensor) for one in given):
        raise TypeError("the loss must be called with the tensors logits and target to be watched")
    weight = kwargs.get("sample_weight")
    return given[0].detach(), given[1].detach(), weight
