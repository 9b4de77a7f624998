"""Networks, trained at the learning rate and for the epochs that their own loss on validation rows asks for."""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from steelyard.training import predict


class Plan(NamedTuple):
    """How a network is trained: every rate is tried for a quarter of the epochs, the best one for all of them."""

    rates: tuple[float, ...]
    epochs: int
    batch: int
    optimizer: Callable[..., torch.optim.Optimizer]


class Fitted(NamedTuple):
    """A network, and the rate and the epochs that were chosen."""

    network: nn.Module
    rate: float
    epochs: int


SGD = (0.01, 0.03, 0.1)


def sgd(rates: tuple[float, ...], epochs: int, batch: int) -> Plan:
    """Return a plan with Nesterov momentum and weight decay."""

    def make(parameters: Iterator[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=5e-4)

    return Plan(rates, epochs, batch, make)


def fit(
    make: Callable[[], nn.Module],
    loss: nn.Module,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    plan: Plan,
    chances: Tensor | None,
    seed: int,
) -> Fitted:
    """Return the network after the epoch at which its own loss on the validation rows is least.

    Every rate of the plan is tried for a quarter of its epochs, and the one with the least loss is trained for all
    of them. The loss is the one that is trained: with its weights, its smoothing, its exponent. Chances draw
    training rows with replacement; the loss on validation rows is then a mean over classes.

    Raises:
        ArithmeticError: no rate gave a finite loss.
    """

    def tried(rate: float, epochs: int) -> tuple[float, Fitted | None]:
        torch.manual_seed(seed)
        network, least, found = make(), float("inf"), None
        for epoch, _ in enumerate(_epochs(network, loss, *train, plan, rate, epochs, chances), 1):
            value = _own_loss(network, loss, *validation, chances is not None)
            if value < least:
                least, found = value, Fitted(copy.deepcopy(network), rate, epoch)
        return least, found

    probes = {rate: tried(rate, -(-plan.epochs // 4))[0] for rate in plan.rates}
    _, found = tried(min(probes, key=lambda rate: probes[rate]), plan.epochs)
    if found is None:
        raise ArithmeticError(f"no learning rate of {plan.rates} gave a finite loss on the validation rows")
    return found


def _epochs(
    network: nn.Module,
    loss: nn.Module,
    x: Tensor,
    y: Tensor,
    plan: Plan,
    rate: float,
    epochs: int,
    chances: Tensor | None,
) -> Iterator[None]:
    """Train, whole batches only; yield after every epoch."""
    optimizer = plan.optimizer(network.parameters(), rate)
    steps = len(y) // plan.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps * epochs, pct_start=0.1)
    for _ in range(epochs):
        network.train()
        order = torch.randperm(len(y)) if chances is None else torch.multinomial(chances, len(y), replacement=True)
        for part in order[: steps * plan.batch].split(plan.batch):
            value = _value(loss, network(x[part]), y[part])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
        yield


@torch.no_grad()
def _own_loss(network: nn.Module, loss: nn.Module, x: Tensor, y: Tensor, drawn: bool) -> float:
    z = predict(network, x)
    if not drawn:
        return float(_value(loss, z, y))
    return float(torch.stack([_value(loss, z[y == k], y[y == k]) for k in y.unique()]).mean())


def _value(loss: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    value: Tensor = loss(z[:, 0], y.float()) if z.shape[1] == 1 else loss(z, y)
    return value
