"""Gradient accumulation that is exact for losses of a whole batch: first all logits, then micro-batches."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Model = Callable[[Any], Tensor]
Batches = Iterable[tuple[Any, Tensor]]


def exact_accumulation(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Model, Batches], Iterator[Tensor]]:
    r"""Return a function that accumulates the gradient of a loss of the whole batch over micro-batches, exactly.

    .. math:: \frac{dL}{d\theta} = \sum_b \Big\langle \frac{\partial L}{\partial z_b},
        \frac{d z_b}{d\theta} \Big\rangle

    A loss such as LGL-INR, or one whose mean divides by the weights of the batch, is no sum over micro-batches b.
    So all logits z are computed first, without a graph; the loss of all of them gives their gradient; and each
    micro-batch is computed once more, with a graph, through which its part of that gradient goes back.

    The function takes ``model``, which maps an input to logits (n, ...), and ``batches``, pairs of an input and
    its target (n, ...). It yields one number for each micro-batch. Their sum is the loss, and ``backward()`` of
    each adds its share of the gradient. Take them all before the optimizer's step.

    It costs one more forward pass without a graph, and the memory of the batch's logits, three times in float32 or
    better. Dropout draws the same in both passes (torch's generators of the CPU and of the current accelerator),
    and buffers such as those of batch normalization move once. Batch normalization itself sees micro-batches.

    On several processes give the loss its ``process_group``: it is then called once a batch by each.

    Args:
        loss: of logits and target, which gives one number; called once, with the whole batch.

    Raises:
        TypeError: a loss that cannot be called; batches that are not pairs; logits or targets that are no tensors.
        ValueError: no batches; micro-batches whose shapes differ beyond the first dimension; a loss of several
            values, or one that trains something else than the logits.
        RuntimeError: logits that differ between the passes, after the last micro-batch.

    Source:
        Gao, Zhang, Han, Callan, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP
        2021 (gradient cache).

    Example:
        >>> import steelyard
        >>> model, target = torch.nn.Linear(2, 3), torch.tensor([0, 0, 1, 2])
        >>> exact = steelyard.exact_accumulation(steelyard.LGLINRLoss())
        >>> for part in exact(model, zip(torch.randn(4, 2).split(2), target.split(2))):
        ...     part.backward()
        >>> model.weight.grad.shape     # of all four rows: optimizer.step() is next
        torch.Size([3, 2])
    """
    if not callable(loss):
        raise TypeError(f"loss must be a function of logits and target, got {type(loss).__name__}")
    return partial(_parts, loss)


def _parts(loss: Callable[[Tensor, Tensor], Tensor], model: Model, batches: Batches) -> Iterator[Tensor]:
    pairs = [_pair(batch) for batch in batches]
    if not pairs:
        raise ValueError("batches must hold at least one pair of input and target, got none")
    states, rows = [], []
    buffers = list(model.buffers()) if isinstance(model, nn.Module) else []
    before = [buffer.clone() for buffer in buffers]
    with torch.no_grad():
        for inputs, _ in pairs:
            states.append(_random_states())
            rows.append(model(inputs))
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    torch.clear_autocast_cache()  # torch 2.9 would take the weights that it cast above, without their graph
    first = _joined("logits", rows)
    whole = first.to(torch.promote_types(first.dtype, torch.float32)).requires_grad_()
    with torch.enable_grad():
        total = loss(whole, _joined("target", [target for _, target in pairs]))
    if not isinstance(total, Tensor) or total.dim() != 0:
        came = f"shape {tuple(total.shape)}" if isinstance(total, Tensor) else type(total).__name__
        raise ValueError(f"loss must give one number, got {came}: use reduction='mean' or 'sum'")
    _refuse_others(total, whole)
    (gradient,) = torch.autograd.grad(total, whole)
    share = total.detach() / len(pairs)
    apart = torch.zeros((), device=whole.device)
    each = torch.split(gradient, [len(one) for one in rows])
    for (inputs, _), state, seen, part in zip(pairs, states, rows, each, strict=True):
        _set_random_states(state)
        logits = model(inputs)
        if logits.numel() > 0:
            change = (logits.detach() - seen).abs().max() / (1 + seen.abs().max())
            apart = torch.maximum(apart, change.to(apart))
        linear = (logits.to(part.dtype) * part).sum()
        yield linear - linear.detach() + share
    if bool(apart > torch.finfo(first.dtype).eps ** 0.5):
        raise RuntimeError(
            f"model must give the same logits in both passes, got a relative difference of {float(apart):.2g}: "
            "something in it draws numbers that are not torch's, or changes between calls; do not take this step"
        )


def _pair(batch: Any) -> tuple[Any, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise TypeError(f"batches must hold pairs of an input and a target tensor, got {type(batch).__name__}")
    return batch[0], batch[1]


def _joined(name: str, parts: list[Tensor]) -> Tensor:
    for part in parts:
        if not isinstance(part, Tensor) or part.dim() == 0:
            raise TypeError(
                f"{name} must be a tensor with a first dimension of samples, got {type(part).__name__}"
            )
        if part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(
                f"{name} must have the same shape in all micro-batches but for the first dimension, got "
                f"{tuple(parts[0].shape)} and {tuple(part.shape)}"
            )
    return torch.cat(parts)


def _refuse_others(total: Tensor, logits: Tensor) -> None:
    """Refuse a loss with gradients beside that of the logits, which would go nowhere."""
    nodes, seen = [total.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", logits)  # of a node that ends the graph
        if leaf is not logits:
            raise ValueError(
                f"loss must train nothing but the logits, got another tensor, {tuple(leaf.shape)}, that needs a "
                "gradient: move it into the model, detach it, or take that part of the loss on its own"
            )
        nodes += [before for before, _ in node.next_functions]


def _random_states() -> tuple[Tensor, Tensor | None]:
    """Return the states of the generators that a forward pass draws from: the CPU's and the accelerator's."""
    return torch.get_rng_state(), _accelerator().get_rng_state() if torch.accelerator.is_available() else None


def _set_random_states(states: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        _accelerator().set_rng_state(states[1])


def _accelerator() -> Any:
    return torch.get_device_module()
